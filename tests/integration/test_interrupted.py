"""Ctrl-C in commands that write one file: nothing is left by halves, and one line says what happened."""

import json
import os
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.processes import PATIENCE

TEXTS = [f"write to jane{number}@example.org, or ring +44 20 7946 0958" for number in range(200_000)]

# The task of the example, whose model is slow to explain and says that it has begun.
SLOW = """

def _forward(self, model, batch):
    import pathlib
    import time

    pathlib.Path("begun").touch()
    time.sleep(600)


Own.forward = _forward
"""


def interrupted(process, begun):
    """Interrupt a command as a terminal does, once it has begun to work, and return what it printed."""
    end = time.monotonic() + 4 * PATIENCE
    while not begun():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, printed
    return printed


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_deidentification_leaves_no_new_file(kind, cli, tmp_path):
    if kind == "csv":
        (tmp_path / "in.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in TEXTS) + "\n")
    else:
        pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    before = (tmp_path / f"in.{kind}").read_bytes()
    command = ("data", "deidentify", f"in.{kind}", "--column", "text", "--out", f"out.{kind}", "--json")
    process = cli.start(*command, cwd=tmp_path)
    stdout, stderr = interrupted(process, lambda: any(tmp_path.glob(".out*.part")))
    assert json.loads(stdout) == {"exit_status": 130, "error": "interrupted"}
    assert stderr == "error: interrupted\n"
    assert [file.name for file in tmp_path.iterdir()] == [f"in.{kind}"]
    assert (tmp_path / f"in.{kind}").read_bytes() == before


@pytest.mark.slow
def test_an_explanation_leaves_the_page_of_before(cli, tmp_path):
    app = tmp_path / "my-app"
    assert cli.here("new", app, "--task", "custom").status == 0
    run = app / "run"
    done = cli.run("-c", "experiment.toml", "--set", "federation.rounds=1", out=run, cwd=app)
    assert done.status == 0, done.stdout + done.stderr
    with (app / "task.py").open("a") as file:
        file.write(SLOW)
    (run / "explanation.html").write_text("the page of before")
    before = sorted(run.iterdir())
    stdout, stderr = interrupted(cli.start("explain", run, cwd=app), (app / "begun").exists)
    assert (stdout, stderr.splitlines()[-1]) == ("", "error: interrupted")
    assert sorted(run.iterdir()) == before
    assert (run / "explanation.html").read_text() == "the page of before"
