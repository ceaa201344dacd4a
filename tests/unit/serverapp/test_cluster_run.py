"""Clients of a simulation are answered on several machines, and their files lie in a folder that all of these share."""

import pytest
from flwr.app import Context, RecordDict

from clients.app import app
from fedtrain.config import to_flat
from fedtrain.errors import ClientError
from fedtrain.serverapp.run import run_experiment
from tests.fakes import RUN_ID, InProcessGrid, digits_experiment, private_experiment

NODES = {31: 1, 32: 3, 33: 0, 34: 2}


class Cluster(InProcessGrid):
    """A grid whose every other message is answered on a second machine, with another folder of clients."""

    def __init__(self, here, there, change=lambda reply: reply):
        def answer(message):
            experiment = there if len(self.sent) > 4 and self.turn() else here
            node = message.metadata.dst_node_id
            config = {"partition-id": NODES[node], "num-partitions": len(NODES)}
            return change(app(message, Context(RUN_ID, node, config, RecordDict(), to_flat(experiment))))

        super().__init__(answer, NODES)
        self._turns = 0

    def turn(self):
        self._turns += 1
        return self._turns % 2 == 0


@pytest.fixture
def start(cache, tmp_path):
    def run(make=private_experiment, *, there="sites", change=lambda reply: reply, **settings):
        fixed = {"output__screen": "none", "task__model": "linear", "federation__cohort": 4, **settings}
        out = {"output__directory": str(tmp_path / "run")}
        here, elsewhere = (
            make(cache, federation__sites=str(tmp_path / name), **out, **fixed) for name in ("sites", there)
        )
        grid = Cluster(here, elsewhere, change)
        run_experiment(grid, here)
        return grid

    return run


def keys_and_ledgers(folder):
    return [path for path in folder.rglob("*") if path.suffix in {".pem", ".jsonl", ".key"}]


SEALED = {"transport__sealed": True}


@pytest.mark.parametrize(
    ("make", "settings"),
    [(private_experiment, {}), (digits_experiment, SEALED), (digits_experiment, {})],
    ids=["private", "sealed", "with site files"],
)
def test_machines_that_do_not_share_the_folder_end_the_run(start, tmp_path, make, settings):
    with pytest.raises(ClientError) as raised:
        start(make, there="elsewhere", **settings)
    assert "the machines of the cluster do not share the folder of the clients' files" in str(raised.value)
    assert str(tmp_path / "elsewhere") in str(raised.value)
    assert "federation.sites" in str(raised.value)
    assert not keys_and_ledgers(tmp_path / "elsewhere")


def test_machines_that_share_it_leave_a_ledger_for_each_client_and_no_trace_of_the_question(start, tmp_path):
    grid = start()
    assert all("fedtrain.folder" in message.content for message in grid.sent[len(NODES) :])
    assert {path.name for path in (tmp_path / "sites").iterdir()} == {f"client-{each:04d}" for each in NODES.values()}
    for client in NODES.values():
        assert len(list((tmp_path / "sites" / f"client-{client:04d}" / "ledgers").glob("*.jsonl"))) == 1


def test_clients_that_have_no_files_need_no_folder(cache, tmp_path):
    experiment = digits_experiment(cache, output__directory=str(tmp_path / "run"), output__screen="none")
    grid = Cluster(experiment, experiment)
    run_experiment(grid, experiment)
    assert not any("fedtrain.folder" in message.content for message in grid.sent)


def test_a_client_that_does_not_show_the_folder_ends_the_run(start):
    def forget(reply):
        reply.content.pop("fedtrain.folder", None)
        return reply

    with pytest.raises(ClientError, match="install the same version of fedtrain on all machines"):
        start(change=forget)


def test_a_token_is_not_guessed(start):
    def guess(reply):
        if "fedtrain.folder" in reply.content:
            reply.content["fedtrain.folder"]["token"] = "0" * 32
        return reply

    with pytest.raises(ClientError, match="do not share the folder"):
        start(change=guess)
