import importlib
import io
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunStatus
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory

from fedtrain.errors import AppError
from fedtrain.flower import supernode as module
from fedtrain.flower.looks import Looks
from fedtrain.flower.supernode import checking, refuse_other_source
from fedtrain.machines.bundles import Bundle, approve_bundle, withdraw

internal = importlib.import_module("flwr.supernode.start_client_internal")
command = importlib.import_module("flwr.supernode.cli.flower_supernode")

PROJECT = b"""[project]
name = "app"
version = "1.0.0"
[tool.flwr.app]
publisher = "north"
[tool.flwr.app.components]
serverapp = "server:app"
clientapp = "client:app"
[tool.flwr.app.config]
rounds = 3
"""


def packed(code):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT)
        archive.writestr("client.py", code)
    return buffer.getvalue()


GOOD, OTHER = packed("app = 1"), packed("app = 2")


@pytest.fixture
def approved(tmp_path):
    path = tmp_path / "approved.json"
    approve_bundle(path, Bundle.read(GOOD), now=datetime.now(UTC))
    return path


def run_of(content, fab_id="north/app", fab_version="1.0.0"):
    return Run(
        run_id=7,
        fab_id=fab_id,
        fab_version=fab_version,
        fab_hash=sha256(content).hexdigest(),
        override_config={},
        pending_at="",
        starting_at="",
        running_at="",
        finished_at="",
        status=RunStatus("running", "", ""),
        flwr_aid="",
        federation_id="",
        primary_task_id=None,
        bytes_sent=0,
        bytes_recv=0,
        clientapp_runtime=0.0,
    )


class Node:
    """Flower's own state of a SuperNode, and a connection to a server that sends it a bundle."""

    def __init__(self, monkeypatch, content, *, verifications=None, said=()):
        self.store = ObjectStoreFactory().store()
        self.state = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
        self.state.set_node_id(1)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 2, 1
        self.message = Message(RecordDict(), dst_node_id=1, message_type="train")
        self.message.metadata.__dict__["_message_id"] = self.message.object_id

        @contextmanager
        def connect(*_arguments, **_named):
            yield (
                1,
                lambda: (self.message, get_object_tree(self.message)),
                None,
                lambda _: run_of(content, *said),
                lambda digest, _: Fab(digest, content, dict(verifications or {})),
                lambda _, key: self.objects()[key],
                lambda *_: None,
                lambda *_: None,
            )

        monkeypatch.setattr(internal, "_init_connection", connect)

    def objects(self):
        return {self.message.object_id: self.message.deflate()}

    def pull(self, trusted):
        with internal._init_connection() as (_, receive, _send, get_run, get_fab, pull_object, _push, confirm):
            return internal._pull_and_store_message(
                state=self.state,
                object_store=self.store,
                node_config={},
                receive=receive,
                get_run=get_run,
                get_fab=get_fab,
                pull_object=pull_object,
                confirm_message_received=confirm,
                trusted_entities=trusted,
            )

    @property
    def bundles(self):
        return {digest: fab.content for digest, fab in self.state.fab_store.items()}

    def replies(self):
        return [entry.message for entry in self.state.msg_store.values() if entry.message.has_error()]


@pytest.fixture
def pinned_but_the_connection(monkeypatch):
    """Let a connection of the test take the place of Flower's; all else is checked as ever."""
    pinned = {name: dict(functions) for name, functions in module._PINNED.items()}
    del pinned["flwr.supernode.start_client_internal"]["_init_connection"]
    monkeypatch.setattr(module, "_PINNED", pinned)


def pulled(monkeypatch, approved, content, **changes):
    """Let Flower pull one message of a run with a bundle, as its command would under the check."""
    node = Node(monkeypatch, content, **changes)
    trusted = {}
    monkeypatch.setattr(command, "start_client_internal", None)
    monkeypatch.setattr(internal, "start_client_internal", lambda **named: trusted.update(named["trusted_entities"]))
    pinned = {name: dict(functions) for name, functions in module._PINNED.items()}
    del pinned["flwr.supernode.start_client_internal"]["start_client_internal"]
    monkeypatch.setattr(module, "_PINNED", pinned)
    with checking(approved):
        command.start_client_internal(trusted_entities=None)
        node.pull(trusted)
    return node


@pytest.mark.usefixtures("pinned_but_the_connection")
def test_an_approved_bundle_is_handed_on_as_it_came(monkeypatch, approved):
    node = pulled(monkeypatch, approved, GOOD)
    assert node.bundles == {sha256(GOOD).hexdigest(): GOOD}
    assert node.replies() == []
    assert node.state.get_run(7).fab_hash == sha256(GOOD).hexdigest()


@pytest.mark.usefixtures("pinned_but_the_connection")
@pytest.mark.parametrize("said", [("north/app", f"1.0.0.{'ab' * 4}/tests/x.1"), ("../../tmp", "1.0.0"), ("", "")])
def test_what_app_it_is_the_bundle_says_and_not_the_server(monkeypatch, approved, said):
    run = pulled(monkeypatch, approved, GOOD, said=said).state.get_run(7)
    assert (run.fab_id, run.fab_version) == ("north/app", "1.0.0")


@pytest.mark.usefixtures("pinned_but_the_connection")
@pytest.mark.parametrize("verifications", [{}, {"valid_license": "Valid", "key": '{"signature": ""}'}])
def test_any_other_bundle_is_refused_by_name_and_nothing_of_it_is_kept(monkeypatch, approved, verifications):
    node = pulled(monkeypatch, approved, OTHER, verifications=verifications)
    assert node.bundles == {}
    assert node.state.get_run(7) is None
    (reply,) = node.replies()
    assert reply.error.code == ErrorCode.INVALID_FAB
    assert f"has not approved the bundle {sha256(OTHER).hexdigest()}" in reply.error.reason


@pytest.mark.usefixtures("pinned_but_the_connection")
def test_without_a_list_nothing_is_run(monkeypatch, tmp_path):
    node = pulled(monkeypatch, tmp_path / "approved.json", GOOD)
    assert (node.bundles, len(node.replies())) == ({}, 1)


@pytest.mark.usefixtures("pinned_but_the_connection")
def test_a_bundle_that_was_withdrawn_is_refused(monkeypatch, approved):
    withdraw(approved, sha256(GOOD).hexdigest())
    assert pulled(monkeypatch, approved, GOOD).bundles == {}


@pytest.mark.usefixtures("pinned_but_the_connection")
@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 100_000, b'{"schema": "fedtrain.approved/2", "bundles": []}'])
def test_a_damaged_list_refuses_every_bundle(monkeypatch, approved, damage):
    approved.write_bytes(damage)
    node = pulled(monkeypatch, approved, GOOD)
    assert node.bundles == {}
    (reply,) = node.replies()
    assert f"cannot tell whether it has approved the bundle {sha256(GOOD).hexdigest()}" in reply.error.reason


def test_without_the_check_flower_runs_what_it_gets(monkeypatch):
    node = Node(monkeypatch, OTHER)
    node.pull(None)
    assert node.bundles == {sha256(OTHER).hexdigest(): OTHER}


def test_the_installed_flower_is_the_one_that_the_check_was_written_for():
    refuse_other_source()


PLACES = [(name, function) for name, functions in module._PINNED.items() for function in functions]


@pytest.mark.parametrize(("name", "function"), PLACES)
def test_any_difference_in_flower_refuses(monkeypatch, approved, name, function):
    pinned = {known: dict(functions) for known, functions in module._PINNED.items()}
    pinned[name][function] = "0" * 64
    monkeypatch.setattr(module, "_PINNED", pinned)
    before = internal._verify_fab
    with pytest.raises(AppError, match=f"{name}.{function}"), checking(approved):
        pytest.fail("it started")
    assert internal._verify_fab is before


@pytest.mark.parametrize("place", [("flwr.nowhere", "f"), ("flwr.app", "f"), ("flwr", "__version__")])
def test_a_function_that_is_gone_refuses(place):
    with pytest.raises(AppError, match=place[0]):
        refuse_other_source({place[0]: {place[1]: "0" * 64}})


def test_flower_is_as_before_when_the_check_ends(approved):
    places = [
        (internal, "time"),
        (internal, "_init_connection"),
        (internal, "_verify_fab"),
        (command, "start_client_internal"),
    ]
    before = [getattr(*place) for place in places]
    with checking(approved):
        assert not {id(getattr(*place)) for place in places} & {id(function) for function in before}
    assert [getattr(*place) for place in places] == before


def test_the_command_says_why_it_does_not_start(monkeypatch, approved, capsys):
    monkeypatch.setattr(module, "_PINNED", {"flwr.nowhere": {"f": "0" * 64}})
    monkeypatch.setattr("sys.argv", ["supernode", str(approved)])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == AppError.exit_status
    assert "error: this SuperNode is not started" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["None", "1 / 0"])
def test_a_supernode_that_gives_its_connection_up_ends_with_the_threads_that_it_leaves(tmp_path, end):
    code = (
        "import sys, threading, time; import fedtrain.flower.supernode as module\n"
        "from importlib import import_module\n"
        "command = import_module('flwr.supernode.cli.flower_supernode')\n"
        "def gives_up():\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        f"    return {end}\n"
        "sys.argv = ['supernode', 'approved.json']\n"
        "module.refuse_other_source, command.flower_supernode = (lambda: None), gives_up\n"
        "module.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert (b"ZeroDivisionError" in done.stderr) == (end != "None")


@pytest.mark.usefixtures("pinned_but_the_connection")
def test_after_a_message_the_next_is_looked_for_soon(monkeypatch, approved):
    waits = []
    monkeypatch.setattr(module, "Looks", partial(Looks, wait=waits.append))
    node = Node(monkeypatch, GOOD)
    with checking(approved):
        internal.time.sleep(3)
        node.pull({"anybody": "trusted"})
        internal.time.sleep(3)
    assert waits == [3, pytest.approx(0.3, abs=0.05)]
