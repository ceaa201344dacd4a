"""The same experiment by ``flwr run`` on a Ray cluster of two nodes."""

import json
import os
from pathlib import Path

import pytest

from tests.integration.ray_cluster import NODES, RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CLIENTS = 6

PLAIN = f"""
seed = 1
federation.clients = {CLIENTS}
federation.cohort = 4
federation.rounds = 2
task.model = "linear"
training.batch_size = 100
training.local_steps = 2
"""

PRIVATE = """
privacy.mode = "record"
privacy.epsilon = 8.0
privacy.delta = 1e-4
privacy.sampling_rate = 0.5
"""


@pytest.fixture(scope="module")
def cluster(cli):
    with RayCluster(cli.environment) as running:
        yield running
    marks = f"RAY_TMPDIR={running.folder}".encode()
    assert [process for process in Path("/proc").glob("[0-9]*") if marks in environment(process)] == []
    assert not running.folder.exists()


def environment(process):
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:  # of another user, or gone
        return []


@pytest.fixture
def run(cluster, tmp_path):
    """Give a function that runs an experiment, and returns its run folder and what was printed."""

    def go(settings):
        out, config = tmp_path / "on-ray", tmp_path / "run.toml"
        config.write_text(f'{settings}\noutput.directory = "{out}"\n')
        return out, cluster.run(config, clients=CLIENTS)

    return go


def local(cli, folder):
    outcome = cli.run("-c", folder / "run.toml", out=folder / "local")
    assert outcome.status == 0, outcome.stderr
    return outcome


def final(folder):
    return (folder / "model-final.safetensors").read_bytes()


def accuracies(folder):
    return [json.loads(line)["accuracy"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("privacy", ["", PRIVATE], ids=["plain", "private"])
def test_two_nodes_give_the_model_of_the_local_engine(cli, cluster, run, tmp_path, privacy):
    out, printed = run(PLAIN + privacy)
    report = json.loads((out / "report.json").read_text())
    assert report["status"] == "completed", printed
    # Each node has read the data for its clients.
    assert [name for name in NODES if not any(cluster.cache(name).glob("digits-*"))] == []
    reference = local(cli, tmp_path)
    assert [len(entry["completed"]) for entry in report["round_log"]] == [4, 4], printed
    assert accuracies(out) == accuracies(reference.out)
    assert len(accuracies(out)) == 3
    assert final(out) == final(reference.out)
    if privacy:
        assert report["privacy"]["epsilon"] == reference.report["privacy"]["epsilon"]
        assert charges(report) == charges(reference.report)
        ledgers = sorted((out / "clients").glob("client-*/ledgers/*.jsonl"))
        assert len(ledgers) == len({client for client, *_ in charges(report)})
        audit = cli.here("audit", out / "report.json", "--roster", out / "roster.json")
        assert audit.status == 4, audit.stdout  # a simulation, of which no check fails


def charges(report):
    return [(event["client"], event["round"], event["steps"]) for event in report["privacy"]["events"]]


def test_ledgers_that_the_nodes_do_not_share_are_refused_before_anything_is_spent(cluster, run):
    """A relative path is another folder on each node, as a path is on machines with a disk each."""
    out, printed = run(f'{PLAIN}{PRIVATE}federation.sites = "sites"\n')
    assert "the machines of the cluster do not share the folder of the clients' files" in printed
    assert any(f"{cluster.folder / name / 'sites'} on {os.uname().nodename}" in printed for name in NODES)
    assert "federation.sites" in printed
    assert not (out / "config.toml").exists()
    assert not [path for name in NODES for path in (cluster.folder / name).rglob("*.jsonl")]
    assert not [path for name in NODES for path in (cluster.folder / name).rglob("*.pem")]
