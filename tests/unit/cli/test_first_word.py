"""What a command says first comes before anything that takes seconds to import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = ["torch", "flwr", "opacus", "matplotlib", "dp_accounting", "pyarrow", "torchmetrics"]
# Each command ends in a copy of a process that has imported the command line alone, at its first word.
PROGRAM = """
import json, os, sys
from fedtrain.cli import app

class First:
    encoding = "utf-8"
    def isatty(self):
        return True
    def flush(self):
        pass
    def write(self, text):
        if text.strip():
            heavy = [name for name in HEAVY if name in sys.modules]
            os.write(WRITE, json.dumps([text.strip(), heavy]).encode())
            os._exit(0)

HEAVY, lines = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for line in lines:
    READ, WRITE = os.pipe()
    child = os.fork()
    if not child:
        sys.stdout = sys.stderr = First()
        sys.argv = ["fedtrain", *line]
        try:
            app.main()
        finally:
            os._exit(9)
    os.close(WRITE)
    with os.fdopen(READ) as answer:
        print(answer.read())
    os.waitpid(child, 0)
"""
WRONG = ["--set", "privacy.epsilom=4"]
IMPORTS = "PyTorch and Flower take some seconds"
WHY = dict.fromkeys(("audit", "budget"), "computing epsilon takes some seconds")
STARTING = {
    "simulate": ["simulate"],
    "sweep": ["sweep", "experiment.toml", "--over", "seed=1,2"],
    "predict": ["predict", ".", "--data", "new.csv"],
    "export": ["export", "."],
    "explain": ["explain", "."],
    "audit": ["audit", "report.json"],
    "budget": ["budget", "."],
    "stats": ["stats", "."],
    "privacy plan": ["privacy", "plan"],
}
REFUSED = {
    "simulate": ["simulate", *WRONG],
    "sweep": ["sweep", "experiment.toml", "--over", "seed=1,2", *WRONG],
    "stats": ["stats", "experiment.toml", *WRONG],
    "privacy plan": ["privacy", "plan", *WRONG],
    "budget": ["budget", ".", *WRONG],
    "init": ["init", "other.toml", *WRONG],
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Return the first word of each command, and which heavy packages were imported by then."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "experiment.toml").write_text('name = "mine"\n')
    (folder / "report.json").write_text("{}")
    lines = [*STARTING.values(), *REFUSED.values()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(HEAVY), json.dumps(lines)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
        capture_output=True,
        text=True,
        check=True,
    )
    found = list(map(json.loads, done.stdout.splitlines()))
    return dict(
        zip([("starts", name) for name in STARTING] + [("refused", name) for name in REFUSED], found, strict=True)
    )


@pytest.mark.parametrize("name", STARTING)
def test_a_command_that_takes_seconds_to_import_says_that_it_starts(words, name):
    assert words["starts", name] == [f"starting: {WHY.get(name, IMPORTS)}", []]


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_field_is_told_before_anything_that_takes_seconds_is_imported(words, name):
    said, heavy = words["refused", name]
    assert said.startswith("error: ")
    assert "privacy.epsilom" in said
    assert heavy == []
