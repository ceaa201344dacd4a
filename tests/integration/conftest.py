import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from logging import getLogger
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedtrain.cli.app import app
from tests.integration.deployed import SITES, Shared, up
from tests.once import made_once
from tests.warm import WarmCommand

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    status: int
    stdout: str
    stderr: str
    out: Path

    @property
    def report(self):
        return json.loads((self.out / "report.json").read_text())

    def model(self, name="final"):
        return sha256((self.out / f"model-{name}.safetensors").read_bytes()).hexdigest()


class Cli:
    """Runs the command: as it is installed, in copies of a process that has imported its modules, or in this one."""

    def __init__(self, cache: Path, printed: Path) -> None:
        self._cache = cache
        self._printed = printed
        self.environment = {**os.environ, "FEDTRAIN_CACHE": str(cache), "PYTHONPATH": str(ROOT)}

    @cached_property
    def _warm(self):
        return WarmCommand(self.environment)

    def at_home(self, home):
        """Return the command with a home of its own, in copies of the same process."""
        own = Cli(self._cache, home)
        own.environment["HOME"] = str(home)
        own._warm = self._warm
        return own

    def close(self):
        if "_warm" in vars(self):
            self._warm.close()

    def start(self, *arguments, cwd=ROOT):
        return subprocess.Popen(
            [sys.executable, "-c", "from fedtrain.cli import main; main()", *map(str, arguments)],
            cwd=cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, out, cwd=ROOT):
        return self.call("simulate", *arguments, "--out", out, cwd=cwd, out=out)

    def call(self, *arguments, cwd=ROOT, out="."):
        status = self._warm.run(list(map(str, arguments)), timeout=600, **self._place(cwd))
        said = {name: (self._printed / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")}
        return Outcome(status=status, out=Path(out), **said)

    def begin(self, *arguments, cwd=ROOT):
        """Start the command as `start` does, in a copy of a process that has imported its modules, one at a time."""
        return self._warm.start(list(map(str, arguments)), **self._place(cwd))

    def _place(self, cwd):
        printed = {name: self._printed / name for name in ("stdout", "stderr")}
        return {"cwd": cwd, "environment": self.environment, **printed}

    def here(self, *arguments, cwd=ROOT, out="."):
        """Run the command in this process, which has imported already what a process of its own takes seconds for."""
        with chdir(cwd), _settings_of_the_process():
            result = CliRunner().invoke(
                app, list(map(str, arguments)), env={"FEDTRAIN_CACHE": str(self._cache)}, catch_exceptions=False
            )
        return Outcome(status=result.exit_code, stdout=result.stdout, stderr=result.stderr, out=Path(out))


@contextmanager
def _settings_of_the_process():
    """Put back what a command changes in its process."""
    handler, root, flower, path = signal.getsignal(signal.SIGTERM), getLogger(), getLogger("flwr"), list(sys.path)
    handlers, level, propagate = list(root.handlers), root.level, flower.propagate
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        root.handlers[:], flower.propagate, sys.path[:] = handlers, propagate, path
        root.setLevel(level)


@pytest.fixture(scope="session")
def cli(tmp_path_factory):
    command = Cli(tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("printed"))
    yield command
    command.close()


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """Give a function that makes a folder once for all workers, to be looked at and not changed."""
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "once"
    shared.mkdir(exist_ok=True)
    return partial(made_once, shared)


SHORT = (
    "--config",
    ROOT / "simulations" / "demo.toml",
    "--set",
    "federation.rounds=6",
    "--set",
    "federation.cohort=5",
    "--set",
    "federation.min_results=3",
)


@pytest.fixture(scope="session")
def short_arguments():
    return SHORT


@pytest.fixture(scope="session")
def short(cli, once):
    """Run six rounds of five clients, uninterrupted: the reference for others."""
    return once_run(cli, once, "short", *SHORT, "--workers", 2)


def once_run(cli, once, name, *arguments):
    """Run an experiment once for all workers, and return its outcome."""

    def make(folder):
        outcome = cli.run(*arguments, out=folder / "run")
        assert outcome.status == 0, outcome.stderr
        printed = {"stdout": outcome.stdout, "stderr": outcome.stderr}
        (folder / "printed.json").write_text(json.dumps(printed))

    folder = once(name, make)
    return Outcome(status=0, **json.loads((folder / "printed.json").read_text()), out=folder / "run")


@pytest.fixture(scope="session")
def shared_deployment(tmp_path_factory):
    with Shared(tmp_path_factory.mktemp) as shared:
        yield shared


@pytest.fixture
def deployment(shared_deployment):
    return shared_deployment.take()


@pytest.fixture
def budgets(deployment):
    """Give every test ledgers of its own, and see afterwards that all nodes are in service."""
    for site in SITES:
        shutil.rmtree(deployment.node(site) / "ledgers", ignore_errors=True)
    yield
    for site in SITES:
        if (site, up(site)) not in deployment.hosts._staying:
            deployment.connect(site)
