"""A federation of three sites on hosts of their own, brought into service by the commands of the tutorial."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.hosts import Hosts, namespaces_allowed
from deploy.story import HOSTS, ROOT, SERVER, commands, do, prepare
from fedtrain import audit_report
from fedtrain.crypto import Identity
from fedtrain.ledger import Ledger
from tests.ports import free_port

PAGE = (ROOT / "docs" / "tutorial" / "deploy.md").read_text(encoding="utf-8")
SITES = ("hospital-a", "hospital-b", "hospital-c")
UP = "fedtrain server up server"
# Of a run, unless it says otherwise. The machine is another federation's as well, so that nobody is given up early; a
# test in which a client is waited for in vain says how long, since it takes as long.
ROUNDS, DEADLINE = 2, 120.0
CONNECTED = "  connected to"  # not "not connected to"
NEEDS_NGINX = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None, reason="nginx is not installed"
)
# Of tests that share one deployment.
SHARING = (pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("budgets"), NEEDS_NGINX)


def up(site):
    return f"fedtrain client up {site}"


class Deployment:
    """The hosts of the tutorial, up to the point where server and nodes are in service.

    Attributes:
        said: what each command of the tutorial printed so far.
        left: the commands that follow.
        changed: whether it has had other members, or another server.
    """

    def __init__(self, folder):
        self.namespaces = namespaces_allowed()
        self.hosts = Hosts(folder, HOSTS, server=SERVER, namespaces=self.namespaces, port=free_port())
        # A server of its own network has the port that the tutorial has.
        self.superlink_port = 9091 if self.namespaces else free_port()
        self.said, self.left, self.changed = {}, list(commands(PAGE)), False

    def __enter__(self):
        self.hosts.__enter__()
        try:
            prepare(self.hosts)
            while not self.left[0][1].startswith("fedtrain server up"):
                self.follow()
            for site in SITES:
                self.edit_site(site, ("minimum_cohort = 3", "minimum_cohort = 2"))
            while self.left[0][1].split()[2] == "up":
                self.follow()
        except BaseException:
            self.hosts.__exit__()
            raise
        return self

    def follow(self):
        """Do the next command of the tutorial."""
        host, line = self.left.pop(0)
        if line == UP:
            self.serve()
            self.said[host, line] = self.hosts.log(host, self.up_line).read_text()
        else:
            self.said[host, line] = do(self.hosts, host, line)

    def __exit__(self, *exception):
        self.hosts.__exit__(*exception)

    def node(self, site):
        return self.hosts.home(site) / site

    @property
    def server(self):
        return self.hosts.home(SERVER) / "server"

    def edit_site(self, site, *changes):
        file = self.node(site) / "site.toml"
        text = file.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)

    def serve(self):
        self.hosts.stay(SERVER, self.up_line, "serving federation")

    @property
    def up_line(self):
        return UP if self.namespaces else f"{UP} --port {self.superlink_port}"

    def connect(self, *sites):
        for site in sites or SITES:
            self.hosts.stay(site, up(site), CONNECTED)

    def whole(self):
        """Say whether the server and all nodes are in service, which a fault may take a while to be followed by."""
        return holds_within(self._in_service, seconds=300)

    def _in_service(self):
        ca, address = self.node(SITES[0]) / "ca.pem", self.hosts.address
        asked = self.hosts.run(SITES[0], f"curl -s -m 5 --cacert {ca} https://{address}/health -o /dev/null -f")
        return asked.returncode == 0 and self.hosts.stays(SERVER, self.up_line) and all(map(self._connected, SITES))

    def _connected(self, site):
        said = self.hosts.log(site, up(site)).read_text()
        return self.hosts.stays(site, up(site)) and said.rfind(CONNECTED) > said.rfind("  not connected to")

    def logged(self, *sites):
        """Return how much each node has said so far."""
        return {site: self.hosts.log(site, up(site)).stat().st_size for site in sites or SITES}

    def await_nodes(self, until, logged, **patience):
        """Wait until nodes say something after what they had said."""
        for site, size in logged.items():
            self.hosts.await_line(site, up(site), until, start=size, **patience)

    def begin(self, out, *settings, resume=False):
        """Start a run, and return its process."""
        words = " ".join(f"--set {setting}" for setting in settings)
        line = (
            f"fedtrain server run server --config fedtrain/simulations/deployed.toml --out runs/{out} "
            f"--set federation.rounds={ROUNDS} --set federation.deadline={DEADLINE} "
            "--set federation.min_results=2 --set federation.retries=0 "  # as the site files here allow
            f"{words} {'--resume' if resume else ''}"
        )
        return subprocess.Popen(
            self.hosts.command(SERVER, line),
            cwd=self.hosts.home(SERVER),
            env=self.hosts.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process, *, timeout=800):
        """Return the exit status of a run, and what it printed."""
        said, _ = process.communicate(timeout=timeout)
        return process.returncode, said

    def run(self, out, *settings, resume=False):
        return self.finish(self.begin(out, *settings, resume=resume))

    def report(self, out):
        return json.loads((self.hosts.home(SERVER) / "runs" / out / "report.json").read_text())

    def model(self, out):
        return (self.hosts.home(SERVER) / "runs" / out / "model-final.safetensors").read_bytes()

    def holds(self, out):
        """Say whether an audit of a run with the operator's keys, and every site's own ledger, finds nothing wrong."""
        rosters = sorted((self.hosts.home("operator") / "federation" / "rosters").glob("*.json"))
        folder = self.hosts.home(SERVER) / "runs" / out
        used = json.loads((folder / "roster.json").read_text())
        (pinned,) = [path for path in rosters if json.loads(path.read_text()) == used][-1:]
        ledgers = [file for site in SITES for file in (self.node(site) / "ledgers").glob("*.jsonl")]
        verdict = audit_report(folder / "report.json", roster=pinned, ledgers=ledgers)
        assert verdict.outcome == "holds", verdict.summary
        return True

    def entries(self, site):
        """Return what is in the ledgers of a site."""
        identity, found = Identity.load(self.node(site) / "identity.pem"), []
        for file in (self.node(site) / "ledgers").glob("*.jsonl"):
            with suppress(FileNotFoundError), Ledger.open(file.parent, dataset=file.stem, identity=identity) as ledger:
                found += ledger.entries
        return found

    def charged(self, site):
        return len([entry for entry in self.entries(site) if entry.status == "reserved"])

    def spent_at_least(self, out):
        """Say whether each ledger has every charge that the server's record has of its client, or more."""
        rounds = self.report(out)["round_log"]
        for number, site in enumerate(SITES):
            assert self.charged(site) >= sum(number in entry["completed"] for entry in rounds)
        return True

    def lines(self, site):
        """Return how many lines the ledgers of a site have on the disk, while its node may be writing."""
        return sum(file.read_bytes().count(b"\n") for file in (self.node(site) / "ledgers").glob("*.jsonl"))

    def processes(self, pattern, folder):
        """Return the processes whose command matches, and that work for a folder."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
                if re.search(pattern, command) and str(folder) in f"{command} {environment}":
                    yield int(entry.name)

    def kill(self, pattern, folder, number=signal.SIGKILL):
        """Send a signal to processes, and return how many there were."""
        found = list(self.processes(pattern, folder))
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        return len(found)

    def kill_node(self, site):
        """Pull the plug of a node: nothing of it ends in good order."""
        process = self.hosts._staying.pop((site, up(site)))
        process.kill()
        process.wait(timeout=20)
        self.kill(r".", self.node(site))


class Shared:
    """A deployment for all tests, as long as each leaves it whole: otherwise the next gets another one."""

    def __init__(self, make_folder):
        self._make_folder = make_folder
        self._made, self._failed = None, None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        made, self._made = self._made, None
        if made is not None:
            made.__exit__(*exception)

    def take(self, *, unchanged=False):
        """Return a deployment that is in service. Where none can be made, no other test tries it for minutes again."""
        if self._failed is not None:
            raise RuntimeError("an earlier test could not make a deployment") from self._failed
        if self._made is None or (unchanged and self._made.changed) or not self._made.whole():
            self.__exit__()
            try:
                self._made = Deployment(self._make_folder("deployment")).__enter__()
            except Exception as error:
                self._failed = error
                raise
        return self._made


def holds_within(condition, seconds):
    """Say whether something becomes so in time."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return holds


def await_that(condition, what, seconds=180):
    assert holds_within(condition, seconds), f"after {seconds} s it is not so that {what}"
