"""What a person gets who gives the command something that it cannot use."""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from fedtrain.serverapp.checkpoint import RunState

ROOT = Path(__file__).parents[2]
DEFAULTS = ("-c", os.devnull)  # an experiment that sets nothing, where without one the demo is run


def npz(path, x=None, y=None):
    generator = np.random.default_rng(0)
    x = generator.random((40, 3), dtype=np.float32) if x is None else x
    y = generator.integers(0, 2, len(x)) if y is None else y
    np.savez(path, x=x, y=y)
    return path


def table(path, *extra):
    settings = {"data.source": "npz", "data.path": path, "task.name": "tabular", "federation.rounds": 1}
    arguments = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    return [*DEFAULTS, *arguments, *(argument for pair in extra for argument in ("--set", pair))]


def shared(*more):
    """Return settings of an experiment whose clients share the noise."""
    settings = ("mode=record", "trust=distributed", "sampling_rate=0.5", "delta=1e-4")
    pairs = [*(f"privacy.{pair}" for pair in settings), *more]
    return [argument for pair in pairs for argument in ("--set", pair)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "privacy.epsilom=4"], "unknown key privacy.epsilom (its value is 4); did you mean privacy.epsilon?"),
        (["--set", "training.learning_rate=fast"], "training.learning_rate = 'fast': input should be a valid number"),
        (["-c", "missing.toml"], "cannot read the configuration missing.toml: No such file or directory"),
        (["--set", "data.source=parquet", "--set", "data.path=missing.parquet"], "there is no test data"),
        (
            ["--set", "data.source=parquet", "--set", "data.path=missing.parquet", "--set", "data.test_fraction=0.1"],
            "missing.parquet",
        ),
        (["--set", "task.model=cnn-cifarr"], "cnn-cifar"),
        (["--set", "federation.clients=2000", "--set", "federation.cohort=10"], "client"),
        (
            ["--set", "privacy.mode=record", "--set", "privacy.sampling_rate=0.5", "--set", "privacy.delta=0.5"],
            "a larger delta allows publishing a record outright",
        ),
        (shared(), "privacy.colluders is not set"),
        (shared("privacy.colluders=7"), "threshold = 7 less privacy.colluders = 7 leaves 0 shares of noise"),
        (shared("privacy.colluders=1", "server.strategy=Krum"), "needs single updates or losses"),
        (shared("privacy.colluders=1", "training.local_steps=5"), "10 rounds of 5 steps are federation.rounds = 50"),
        (shared("privacy.colluders=1", "transport.secagg.bits=12"), "is too small a modulus"),
        (["--resume"], "output.directory"),
        (["--nodes", 3], "3 nodes answered and federation.clients = 10; make them equal"),
    ],
    ids=[
        *("key", "type", "config", "no-test-set", "data", "model", "empty-partition", "delta"),
        *("colluders", "no-share", "single-updates", "local-steps", "modulus"),
        *("resume", "nodes"),
    ],
)
def test_input_that_cannot_be_used_is_refused_before_anything_is_written(cli, tmp_path, arguments, message):
    outcome = cli.here(
        "simulate", *DEFAULTS, *arguments, *([] if "--resume" in arguments else ["--out", tmp_path / "run"])
    )
    assert outcome.status == 2, outcome.stderr
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_model_in_which_records_meet_is_refused_before_a_round(cli, tmp_path, monkeypatch):
    (tmp_path / "meeting_task.py").write_text(
        "from torch import nn\n"
        "from fedtrain.config import TaskConfig\n"
        "from fedtrain.tasks.supervised import Vision\n"
        "class Centred(nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images - images.mean(0))\n"
        "class Meeting(Vision):\n"
        "    def __init__(self, info):\n"
        "        super().__init__(TaskConfig(), info)\n"
        "    def model(self):\n"
        "        return Centred(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fields = ("privacy.mode=record", "privacy.sampling_rate=0.1", "task.name=meeting_task:Meeting")
    arguments = [part for field in fields for part in ("--set", field)]
    outcome = cli.here("simulate", *DEFAULTS, *arguments, "--out", tmp_path / "run")
    assert outcome.status == 2, outcome.stderr
    assert "records meet before its layer 0 (Flatten)" in " ".join(outcome.stderr.split())
    assert not list(tmp_path.rglob("ledger*"))


def planted(kind, path):
    x = np.random.default_rng(0).random((40, 3), dtype=np.float32)
    y = np.arange(40) % 2
    if kind == "nan":
        x[7, 1] = np.nan
    else:
        y[5] = -1
    return npz(path, x, y)


@pytest.mark.parametrize(("kind", "messages"), [("nan", ["7", "nan"]), ("label", ["5", "-1"])])
def test_values_that_cannot_be_used_are_named_by_row(cli, tmp_path, kind, messages):
    data = planted(kind, tmp_path / "data.npz")
    outcome = cli.here("simulate", *table(data, "data.test_fraction=0.2"), "--out", tmp_path / "run")
    assert outcome.status == 2, outcome.stderr
    assert all(message in outcome.stderr for message in messages)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def app(tmp_path):
    """Make an app whose ClientApp misbehaves, around the real one."""
    folder = tmp_path / "app"
    folder.mkdir()
    project = (ROOT / "pyproject.toml").read_text().replace("clients.app:app", "misbehaving:app")
    (folder / "pyproject.toml").write_text(project)

    def make(body, clients=(3, 5)):
        lines = "\n".join(f"        {line}" for line in body.splitlines())
        (folder / "misbehaving.py").write_text(
            "import os, time\n"
            "import numpy as np\n"
            "from flwr.app import Array\n"
            "from flwr.clientapp import ClientApp\n"
            "from clients.app import app as real\n"
            "app = ClientApp()\n"
            "@app.train()\n"
            "def train(message, context):\n"
            "    client = context.node_config['partition-id']\n"
            "    reply = real(message, context)\n"
            f"    if client in {clients}:\n{lines}\n"
            "    return reply\n"
        )
        return folder

    return make


@pytest.mark.parametrize(
    ("body", "clients", "reason", "rounds"),
    [
        ("raise OSError('planted failure')", (3, 5), "OSError: planted failure", 2),
        # A round lasts as long as the deadline, which is so long that a busy machine keeps it.
        pytest.param("time.sleep(600)", (3,), "did not answer within", 1, marks=pytest.mark.slow),
        ("os.kill(os.getpid(), 9)", (3, 5), "SIGKILL", 2),
        (
            """arrays = next(iter(reply.content.array_records.values()))
name = next(iter(arrays))
arrays[name] = Array(arrays[name].numpy() * np.float32('nan'))""",
            (3, 5),
            "values that are not finite",
            2,
        ),
    ],
    ids=["raises", "hangs", "crashes", "nan"],
)
def test_a_round_goes_on_without_clients_that_fail(cli, app, tmp_path, body, clients, reason, rounds):
    settings = [
        "--set",
        f"federation.rounds={rounds}",
        "--set",
        "federation.deadline=40.0",
        "--set",
        "federation.min_results=8",
    ]
    outcome = cli.run(app(body, clients), *settings, out=tmp_path / "run")
    assert outcome.status == 0, outcome.stderr
    for entry in outcome.report["round_log"]:
        assert {drop["client"] for drop in entry["dropped"]} == set(clients)
        assert all(reason in drop["reason"] for drop in entry["dropped"])
    assert "round 1: dropped client" in outcome.stdout
    (warning,) = (found for found in outcome.report["warnings"] if "gave no result in any round that asked" in found)
    assert reason in warning
    assert f"warning: {warning}" in outcome.stdout


def test_a_round_below_the_minimum_ends_the_run_with_the_reasons(cli, app, tmp_path):
    folder = app("raise OSError('planted failure')")
    outcome = cli.run(folder, "--set", "federation.rounds=2", "--set", "federation.min_results=9", out=tmp_path / "run")
    assert outcome.status == 1
    assert "round 1 has 8 usable results of 10 clients, and federation.min_results = 9" in outcome.stderr
    assert "client 3: " in outcome.stderr
    assert "planted failure" in outcome.stderr
    assert outcome.report["status"] == "failed"
    assert "planted failure" in outcome.report["reason"]


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 2 MB, which only the superuser may do."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_last_checkpoint_and_the_run_goes_on_later(cli, small_disk, tmp_path):
    out, filler = small_disk / "run", small_disk / "filler"
    settings = [*DEFAULTS, "--set", "federation.rounds=25", "--set", "task.model=linear"]
    process = cli.begin("simulate", *settings, "--out", out)
    while not len(list(out.glob("checkpoints/round-*"))) > 1:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1, stderr
    assert "No space left on device" in stderr
    assert "kept" in stderr
    history = (out / "checkpoints" / "history.jsonl").read_bytes()
    saved = RunState.decode(max((out / "checkpoints").glob("round-*")).read_bytes(), history)
    assert 2 <= saved.round_number < 25
    assert not list(out.rglob("*.tmp"))
    filler.unlink()
    again = cli.run(*settings, "--resume", out=out)
    assert again.status == 0, again.stderr
    assert again.model() == cli.run(*settings, out=tmp_path / "reference").model()


def test_errors_for_machines(cli, tmp_path):
    process = cli.start("simulate", "--json", "--set", "privacy.epsilom=4", "--out", tmp_path / "run")
    stdout, stderr = process.communicate(timeout=300)
    answer = json.loads(stdout)
    assert (process.returncode, answer["exit_status"]) == (2, 2)
    assert "did you mean privacy.epsilon" in answer["error"]
    assert stderr == f"error: {answer['error']}\n"
