"""A server in service, and runs of a tiny app: what is reached from where, is started again, and comes back."""

import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from flwr.cli.typing import SuperLinkConnection
from flwr.cli.utils import init_http_client_from_connection
from flwr.proto.control_pb2 import ListRunsRequest

from fedtrain.deployment.running import number_of
from fedtrain.deployment.superlink import CONNECTION, Service
from fedtrain.flower.members import known_nodes
from fedtrain.machines import ServerFolder
from tests.integration.conftest import ROOT
from tests.integration.deployed import NEEDS_NGINX
from tests.ports import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deployment,
    pytest.mark.timeout(900),
    NEEDS_NGINX,
]

PATIENCE = 300

# Does what it is told by the experiment's name.
APP = """
import json
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedtrain.flower.endings import allow_last_word
from fedtrain.machines.starts import held

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid, context):
    folder, name = Path(context.run_config["output.directory"]), context.run_config["name"]
    print("begun:", name, flush=True)
    if name == "broken":
        raise ValueError("planted")
    folder.mkdir(parents=True, exist_ok=True)
    allow_last_word()  # as an experiment does
    with held(folder):
        run(grid, folder, name)


def run(grid, folder, name):
    for part in ("keys", "checkpoints", "records"):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "file").write_text(part)
    status = "failed" if name == "failing" else "completed"
    try:
        while name in ("long", "late"):
            list(grid.get_node_ids())
            time.sleep(0.2)
    except BaseException:
        status = "interrupted"
        while name == "late" and not (folder / "keys" / "report").exists():
            with suppress(BaseException):  # that of the request, or of Flower's own word, comes first
                time.sleep(0.2)
        raise
    finally:
        report = {"status": status, "reason": "planted", "created": datetime.now(UTC).isoformat()}
        (folder / "report.json").write_text(json.dumps(report))
"""


def until(holds, *, what):
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


class Up:
    """A federation of one member, whose server is up."""

    def __init__(self, cli, folder):
        self.cli, self.folder = cli, folder
        self.port, self.superlink = free_port(), free_port()
        self.federation = folder / "federation"
        self.path = self.federation / "server"
        self.do("provision", "init", self.federation, "--address", f"127.0.0.1:{self.port}")
        self.admit("hospital-a")
        self.service = Service(server=ServerFolder.open(self.path), port=self.superlink)
        self.app = folder / "app"
        (self.app / "tiny").mkdir(parents=True)
        project = (ROOT / "pyproject.toml").read_text()
        # The keys of a real experiment, of an app that is none.
        config = re.search(r"\n\[tool\.flwr\.app\.config\]\n.*?(?=\n\[tool\.ruff)", project, re.DOTALL).group()
        (self.app / "pyproject.toml").write_text(
            '[project]\nname = "tiny"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "somebody"\n'
            f'[tool.flwr.app.components]\nserverapp = "tiny.app:server"\nclientapp = "tiny.app:client"\n{config}\n'
        )
        (self.app / "tiny" / "__init__.py").write_text("")
        (self.app / "tiny" / "app.py").write_text(APP)

    def do(self, *arguments):
        # What Flower bundles with warns of its age.
        command = self.cli.call if arguments[1] == "bundle" else self.cli.here
        outcome = command(*arguments, cwd=self.folder)
        assert outcome.status == 0, outcome.stderr
        return outcome.stdout

    def admit(self, name):
        kit = self.federation / "kits" / name
        self.do("provision", "add", self.federation, name)
        self.do("client", "init", kit)
        self.do("provision", "admit", self.federation, name, kit / "request.json")

    def begin_start(self):
        """Start it, and return where in the file of what it prints begins what it prints now."""
        self.printed = self.folder / "printed"
        command = [sys.executable, "-c", "from fedtrain.cli import main; main()", "server", "up", self.path]
        with self.printed.open("ab") as file:
            begin = file.tell()
            self.process = subprocess.Popen(
                [*map(str, command), "--port", str(self.superlink)],
                env=self.cli.environment,
                stdout=file,
                stderr=file,
                cwd=self.folder,
            )
        return begin

    def start(self):
        begin = self.begin_start()
        until(lambda: b"serving federation" in self.printed.read_bytes()[begin:] or self.process.poll(), what="up")
        assert self.process.poll() is None, self.printed.read_text()

    def stop(self):
        """Ask it to end, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

    @property
    def control(self):
        """Flower's API for the operator, on loopback."""
        connection = SuperLinkConnection(
            name=CONNECTION, address=self.service.address, root_certificates=str(self.path / "ca.pem")
        )
        return closing(init_http_client_from_connection(connection))

    def runs(self):
        """Return how each run ended that the SuperLink knows, or else that it goes on."""
        with self.control as client:
            found = client.ListRuns(ListRunsRequest()).run_dict
        return {number: f"{run.status.status}:{run.status.sub_status}" for number, run in found.items()}

    def registered(self):
        with self.control as client:
            return sum(node.status != "unregistered" for node in known_nodes(client))

    def ask(self, method, path, *, port=None):
        context = ssl.create_default_context(cafile=self.path / "ca.pem")
        with closing(HTTPSConnection("127.0.0.1", port or self.port, context=context, timeout=30)) as connection:
            connection.request(method, path, headers={"Content-Type": "application/protobuf"})
            return connection.getresponse().status

    def processes(self, word):
        """Return the processes that work for the server's folder and have a word in their command."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
                # nginx writes its title over its environment.
                if word in command and (
                    f"FEDTRAIN_SERVER={self.path}" in environment or f"{self.path}/run/" in command
                ):
                    yield int(entry.name)

    def run(self, name, *arguments, out):
        """Run an experiment to its end, and return the exit status of its command, and what it printed."""
        outcome = self.cli.call(*self._command(name, out), *arguments, cwd=self.folder)
        return outcome.status, outcome.stdout + outcome.stderr

    def begin(self, name, *, out):
        """Begin an experiment by the command as it is installed."""
        return self.cli.start(*self._command(name, out), cwd=self.folder)

    def _command(self, name, out):
        return ("server", "run", self.path, "--set", f"name={name}", "--app", self.app, "--out", out)


@pytest.fixture(scope="module")
def up(cli, tmp_path_factory):
    found = Up(cli, tmp_path_factory.mktemp("up"))
    # Nothing of this is up yet.
    refused = cli.call("server", "run", found.path, "--app", found.app, cwd=found.folder)
    assert refused.status == 2
    assert "the server is not up" in refused.stderr
    found.start()
    yield found
    found.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_server_starts_whose_first_start_was_broken_off_while_its_database_was_made(cli, tmp_path, number):
    up = Up(cli, tmp_path)
    database = up.service.server.database
    up.begin_start()
    until(lambda: database.exists() and database.stat().st_size, what="the database is begun")
    up.process.send_signal(number)
    up.process.wait(timeout=PATIENCE)
    up.start()
    assert up.stop() == 0


def test_a_node_reaches_the_fleet_api_and_nothing_else(up):
    assert up.ask("GET", "/health") == 200
    # The SuperLink itself answers: without the signature of a node, it refuses.
    assert up.ask("POST", "/v1/fleet/activate-node") == 401
    for path in ("/v1/control/list-nodes", "/v1/fleet/../control/list-nodes", "/v1/fleet/%2e%2e/control/list-nodes"):
        assert up.ask("POST", path) == 404
    # Without the gateway the same request is answered to whoever asks.
    assert up.ask("POST", "/v1/control/list-nodes", port=up.superlink) == 200


def test_gateway_and_superlink_listen_at_no_address_but_their_own(up):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        address = probe.getsockname()[0]
    # The federation's address is one of loopback here, and so is the gateway's.
    for port in (up.port, up.superlink):
        with socket.socket() as tried:
            tried.settimeout(5)
            assert tried.connect_ex((address, port)) != 0


def test_members_are_registered_and_others_are_not_while_it_runs(up):
    until(lambda: up.registered() == 1, what="the member is registered")
    up.admit("hospital-b")
    until(lambda: up.registered() == 2, what="a new member is registered")
    up.do("provision", "revoke", up.federation, "hospital-b")
    until(lambda: up.registered() == 1, what="a revoked member is not registered any more")
    # Somebody writes half a file: the members stay.
    membership = up.path / "membership.json"
    whole = membership.read_bytes()
    membership.write_bytes(whole[:-10])
    until(
        lambda: "the membership is not followed" in up.service.server.logs.joinpath("members.log").read_text(), what=""
    )
    assert up.registered() == 1
    membership.write_bytes(whole)


def test_one_server_for_a_folder(up):
    second = up.cli.call("server", "up", up.path, "--port", free_port(), cwd=up.folder)
    assert second.status == 2
    assert "is in use" in second.stderr


def test_the_bundle_is_what_a_run_sends_and_a_run_comes_back_without_keys(up):
    bundle = up.folder / "app.fab"
    said = up.do("server", "bundle", "--app", up.app, "--out", bundle)
    digest = sha256(bundle.read_bytes()).hexdigest()
    assert f"SHA-256 {digest}" in said

    out = up.folder / "runs" / "good"
    status, printed = up.run("good", out=out)
    assert status == 0, printed
    assert "begun: good" in printed
    assert {path.name for path in out.iterdir()} == {"records", "report.json"}
    assert {path.name for path in (up.path / "runs" / "good").iterdir()} == {
        *("records", "report.json", "keys", "checkpoints")
    }
    with closing(sqlite3.connect(f"file:{up.path / 'superlink.db'}?mode=ro", uri=True)) as database:
        sent = dict(database.execute("select fab_hash, content from fab"))
    assert set(sent) == {digest}
    assert sent[digest] == bundle.read_bytes()

    status, printed = up.run("good", out=out)
    assert status == 2
    assert "already" in printed
    status, printed = up.run("good", "--resume", out=out)
    assert status == 0, printed


def test_a_run_that_fails_says_so(up):
    status, printed = up.run("failing", out=up.folder / "runs" / "failing")
    assert status == 1
    log = up.path / "logs" / "runs" / "failing.log"
    assert "error: the run failing failed: planted\nonce that is put right, go on with the same command" in printed
    assert f"all that it printed is in {log}" in printed
    assert (up.folder / "runs" / "failing" / "report.json").exists()
    # What a start left that was killed: the name is free.
    left = up.path / "runs" / "broken"
    (left / "keys").mkdir(parents=True)
    (left / "starts.json").write_text('{"run": "x", "starts": 1}')
    (left / "keys" / "records.key").write_text("x")
    status, printed = up.run("broken", out=up.folder / "runs" / "broken")
    assert status == 1
    assert "error: the run broken did not begin: planted\nits name is free for the same command" in printed
    assert "begun: broken" in printed
    assert "Traceback" not in printed
    assert "INFO" not in printed
    assert not (up.folder / "runs" / "broken").exists()
    assert "Traceback" in up.do("server", "logs", up.path, "broken")
    unknown = up.cli.here("server", "logs", up.path, "nobody", cwd=up.folder)
    assert (unknown.status, "no log of a run 'nobody'" in unknown.stderr) == (2, True)


def test_a_status_shows_nodes_by_name(up):
    found = json.loads(up.do("server", "status", up.path, "--json"))
    assert (found["up"], found["answers"], found["connected"]) == (True, True, 0)
    assert [(node["name"], node["state"]) for node in found["nodes"]] == [("hospital-a", "never connected")]
    shown = up.do("server", "status", up.path)
    assert "nodes      0 of 1 are connected" in shown
    assert "registered hospital-a" in up.do("server", "logs", up.path, "hospital-a")
    assert "registered hospital-a" in up.printed.read_text()


def test_what_cannot_be_run_is_refused_before_anything_is_submitted(up):
    before = len(up.runs())
    status, printed = up.run("good", "--set", "federation.rounds=0", out=up.folder / "runs" / "none")
    assert status == 2
    assert "federation.rounds" in printed
    status, printed = up.run("good", "--app", up.folder, out=up.folder / "runs" / "none")
    assert status != 0
    assert not (up.path / "runs" / "none").exists()
    assert len(up.runs()) == before


def test_a_run_is_stopped_by_its_name_and_its_last_word_is_waited_for(up):
    out = up.folder / "runs" / "stopped"
    place = up.path / "runs" / out.name
    process = up.begin("late", out=out)
    until((place / "records" / "file").exists, what="the run begins")
    until(lambda: number_of(up.service.server, out.name), what="the command that submitted it has noted its number")
    assert "stopped is stopped" in up.do("server", "stop", up.path, "stopped")
    # Flower calls it ended. The app has not said so.
    assert not (place / "report.json").exists()
    (place / "keys" / "report").write_text("now")
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, stdout + stderr
    assert "the run stopped interrupted: planted" in stderr
    again = up.cli.here("server", "stop", up.path, "stopped", cwd=up.folder)
    assert (again.status, "the run is not stopped" in again.stderr) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_is_stopped_and_comes_back_with_its_report(up, number):
    out = up.folder / "runs" / f"long-{number}"
    before = list(up.runs().values()).count("finished:stopped")
    process = up.begin("long", out=out)
    until((up.path / "runs" / out.name / "records" / "file").exists, what="the run begins")
    # A terminal's Ctrl-C goes to all in the foreground; who asks one process to end, asks that one.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stdout + stderr
    assert stdout.splitlines()[-1] == "stopped; go on with the same command and --resume"
    assert stderr == ""
    assert json.loads((out / "report.json").read_text())["status"] == "interrupted"
    assert list(up.runs().values()).count("finished:stopped") == before + 1
    until(lambda: not list(up.processes("flwr-serverapp")), what="the ServerApp ends")


def test_runs_are_submitted_at_once_and_under_any_name(up):
    names = ["at-once", 'lauf ü 🙂 "1"']
    processes = [up.begin("good", out=up.folder / "runs" / name) for name in names]
    for name, process in zip(names, processes, strict=True):
        stdout, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, stdout + stderr
        assert (up.folder / "runs" / name / "report.json").exists()
    assert not list((up.path / "run").glob("config-*"))


def test_the_folder_above_is_no_run_to_go_on_with(up):
    status, printed = up.run("good", "--resume", out="..")
    assert status == 2
    assert "there is no run" in printed
    assert (up.path / "identity.pem").exists()


@contextmanager
def killed(up, word):
    found = list(up.processes(word))
    assert found
    for process in found:
        os.kill(process, signal.SIGKILL)
    yield
    until(lambda: set(up.processes(word)) - set(found), what=f"{word} is started again")


def test_what_is_killed_is_started_again_on_what_it_knew(up):
    begin = len(up.printed.read_text())
    with killed(up, "flower-superlink"):
        pass
    until(up.service.healthy, what="the SuperLink answers again")
    assert up.registered() == 1
    for word in ("nginx: master", "flower-superexec", "fedtrain.flower.members"):
        with killed(up, word):
            pass
    until(lambda: _answers(up), what="the gateway answers again")
    said = up.printed.read_text()[begin:]
    for name in ("superlink", "gateway", "superexec", "members"):
        assert f"{name} ended with status" in said
    status, printed = up.run("good", out=up.folder / "runs" / "after")
    assert status == 0, printed


def _answers(up):
    with suppress(OSError):
        return up.ask("GET", "/health") == 200
    return False


def test_it_ends_with_all_that_it_started_and_begins_again_on_its_database(up):
    runs = set(up.runs())
    assert list(up.processes(""))
    assert up.stop() == 0
    assert up.printed.read_text().splitlines()[-1].endswith("stopped")
    assert list(up.processes("")) == []
    assert "unlink()" not in (up.path / "logs" / "gateway.log").read_text()
    with socket.socket() as tried:
        assert tried.connect_ex(("127.0.0.1", up.port)) != 0
    up.start()
    assert up.registered() == 1
    status, printed = up.run("good", out=up.folder / "runs" / "again")
    assert status == 0, printed
    known = set(up.runs())
    assert (known > runs, len(known - runs)) == (True, 1)


def test_a_port_that_is_taken_is_named(up, tmp_path):
    up.stop()
    with socket.create_server(("0.0.0.0", up.port)):
        refused = up.cli.call("server", "up", up.path, "--port", free_port(), cwd=up.folder)
    assert refused.status == 1
    assert f"port {up.port} is in use by another program, and it is where nodes reach this server" in refused.stderr
    with socket.create_server(("127.0.0.1", up.superlink)):
        refused = up.cli.call("server", "up", up.path, "--port", up.superlink, cwd=up.folder)
    assert f"port {up.superlink} is in use by another program, and it is the SuperLink's" in refused.stderr
    assert list(up.processes("")) == []
    up.start()
