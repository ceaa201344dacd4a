"""The workers of the command are copies of its own process, or of a fork server, with the same result."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

# Each worker leaves who it is, what it has open and what it draws, and waits for the other one to do so.
TASK = """
import json, os, random, threading, time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from fedtrain.privacy.noise import SecureSource
from fedtrain.tasks import ClassificationMetrics, Task


class Watched(Task):
    def __init__(self, info):
        self.info = info

    def model(self):
        return nn.Linear(4, 2)

    def collate(self, records, generator):
        folder = Path(os.environ["FACTS"])
        file = folder / str(os.getpid())
        if "fedtrain-watchdog" in {thread.name for thread in threading.enumerate()} and not file.exists():
            file.write_text(json.dumps({
                "parent": os.getppid(),
                "served": "forkserver" in Path(f"/proc/{os.getppid()}/cmdline").read_text(),
                "open": [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()],
                "noise": SecureSource().gaussian((4,), std=1.0, device=torch.device("cpu")).tolist(),
                "random": random.random(),
            }))
            while len(list(folder.iterdir())) < 2:
                time.sleep(0.01)
        return {"inputs": records.features, "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(2)
"""

ANOTHER_THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()"


@pytest.fixture
def watched(cli, tmp_path, monkeypatch):
    """Give a function that runs the command in a process of its own; it returns its answer and what workers left."""
    (tmp_path / "watched.py").write_text(TASK)
    generator = np.random.default_rng(0)
    x = generator.random((80, 4), dtype=np.float32)
    np.savez(tmp_path / "records.npz", x=x, y=(x[:, 0] > 0.5).astype(np.int64))
    settings = {
        "task.name": "watched:Watched",
        "data.source": "npz",
        "data.path": tmp_path / "records.npz",
        "data.test_fraction": 0.25,
        "federation.clients": 4,
        "federation.cohort": 4,
        "federation.rounds": 2,
        "privacy.mode": "record",
        "privacy.sampling_rate": 0.5,
        "privacy.epsilon": 8.0,
        "privacy.delta": 1e-3,
    }

    def run(name, noise, before=""):
        folder, facts = tmp_path / name, tmp_path / f"{name}-facts"
        folder.mkdir()
        facts.mkdir()
        (folder / "sitecustomize.py").write_text(before)
        path = f"{folder}{os.pathsep}{cli.environment['PYTHONPATH']}"
        monkeypatch.setattr(cli, "environment", {**cli.environment, "PYTHONPATH": path, "FACTS": str(facts)})
        pairs = [f"{key}={value}" for key, value in {**settings, "privacy.noise": noise}.items()]
        sets = [word for pair in pairs for word in ("--set", pair)]
        arguments = ("simulate", "-c", os.devnull, *sets, "--workers", 2, "--json", "--out", folder / "run")
        process = cli.start(*arguments, cwd=tmp_path)
        pipe = str(Path(f"/proc/self/fd/{process.stdout.fileno()}").readlink())
        stdout, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
        left = [json.loads(file.read_text()) for file in facts.iterdir()]
        return json.loads(stdout), process.pid, pipe, left, (folder / "run" / "model-final.safetensors").read_bytes()

    return run


def test_the_result_is_the_same_whatever_workers_are_copies_of(watched):
    own, served = watched("own", "seeded"), watched("served", "seeded", ANOTHER_THREAD)
    assert [facts["served"] for facts in (*own[3], *served[3])] == [False, False, True, True]
    assert own[-1] == served[-1]
    assert own[0]["epsilon"] == served[0]["epsilon"]


def test_workers_get_no_descriptor_of_the_command_and_no_noise_of_one_another(watched, tmp_path):
    _, command, pipe, workers, _ = watched("own", "secure")
    assert len(workers) == 2
    (template,) = {facts["parent"] for facts in workers}
    assert template != command
    assert workers[0]["noise"] != workers[1]["noise"]
    assert workers[0]["random"] != workers[1]["random"]
    for facts in workers:
        assert pipe not in facts["open"]  # to which the command alone writes its answer
        own = str(tmp_path / "own" / "run")
        assert not [place for place in facts["open"] if place.startswith(own) and "/clients/" not in place]
