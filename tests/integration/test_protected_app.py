"""The example of a Flower app that is protected in ten lines: on the local engine, and without them."""

import re
import shutil
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "protected_app"
MARK = "# + fedtrain"
CLIENTS, ROUNDS = 3, 2


def sources(folder):
    return sorted((folder / "protected_app").glob("*.py"))


def lines(folder):
    return [line for path in sources(folder) for line in path.read_text().splitlines()]


def small(folder):
    """Copy the example for a few clients."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    task = folder / "protected_app" / "task.py"
    text, count = re.subn(r"\b(clients|cohort)=50\b", rf"\1={CLIENTS}", task.read_text())
    assert count == 2
    task.write_text(text)
    return folder


@pytest.fixture
def at_home(cli, tmp_path):
    """Return the command with a home of its own, where the example keeps its keys."""
    own = type(cli)(cli._cache)
    own.environment["HOME"] = str(tmp_path)
    return own


def simulate(cli, app):
    done = cli.call("simulate", app, "--nodes", CLIENTS, "--workers", 1, "--set", f"num-server-rounds={ROUNDS}")
    assert done.status == 0, done.stderr
    return done.stdout


def test_the_protection_is_ten_lines_at_most_and_the_rest_knows_nothing_of_it():
    marked = [line for line in lines(EXAMPLE) if line.endswith(MARK)]
    assert 0 < len(marked) <= 10
    rest = "\n".join(line for line in lines(EXAMPLE) if not line.endswith(MARK))
    for word in ("fedtrain", "PROTECTION", "PRIVACY", "protect_", " import task"):
        assert word not in rest


@pytest.mark.slow
def test_without_the_lines_the_app_runs_unprotected(at_home, tmp_path):
    app = small(tmp_path / "app")
    for path in sources(app):
        kept = [line for line in path.read_text().splitlines() if not line.endswith(MARK)]
        path.write_text("\n".join(kept))
    stdout = simulate(at_home, app)
    assert float(re.search(r"final accuracy (\S+)", stdout)[1]) > 0.8
    assert "epsilon" not in stdout
    assert not (tmp_path / ".fedtrain").exists()


@pytest.mark.slow
def test_with_the_lines_it_is_protected_on_the_local_engine(at_home, tmp_path):
    app = small(tmp_path / "app")
    task = app / "protected_app" / "task.py"
    # Few clients with little noise: that the app still learns is what is looked at.
    task.write_text(task.read_text().replace("epsilon=8.0", "epsilon=100.0"))
    stdout = simulate(at_home, app)
    assert float(re.search(r"final accuracy (\S+)", stdout)[1]) > 0.3
    assert 0 < float(re.search(r"epsilon (\S+)", stdout)[1]) <= 100
    folder = tmp_path / ".fedtrain" / "protected"
    names = {path.name for path in folder.iterdir()}
    assert names == {"server", *(f"client-{client}" for client in range(CLIENTS))}
    assert (folder / "server" / "participations.json").exists()
    assert not list(folder.glob("client-*/sessions/*/*/secret"))
