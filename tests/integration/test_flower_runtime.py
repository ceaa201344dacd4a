"""The same app on Flower's own simulation runtime, which uses Ray."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.integration.superlink import NAME, ROOT, Processes, flower_environment
from tests.ports import free_port, is_open

CONFIG = """
name = "on-flower"
seed = 1
federation.clients = 4
federation.cohort = 3
federation.rounds = 2
task.model = "linear"
training.batch_size = 180
training.local_steps = 2
privacy.mode = "record"
privacy.epsilon = 8.0
privacy.delta = 1e-4
privacy.sampling_rate = 0.5
output.directory = "{out}"
"""


SEALED_AND_SUMMED = """
transport.sealed = true
transport.secagg.enabled = true
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("transport", ["", SEALED_AND_SUMMED], ids=["plain", "sealed and summed"])
def test_flwr_run_gives_the_model_of_the_local_engine(cli, tmp_path, transport):
    home, out, port = tmp_path / "home", tmp_path / "on-flower", free_port()
    home.mkdir()
    (home / "config.toml").write_text(f'[superlink.{NAME}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(out=out) + transport)
    processes = Processes(tmp_path / "logs", flower_environment(home, cli.environment))
    try:
        superlink = ["flower-superlink", "--insecure", "--simulation", "--disable-runtime-dependency-installation"]
        processes.start("superlink", *superlink, "--host", "127.0.0.1", "--port", port)
        processes.wait_for(lambda: is_open(port), "the SuperLink listens")
        settings = ["--run-config", config, "--federation-config", "num-supernodes=4"]
        run = processes.start("run", "flwr", "run", ROOT, NAME, *settings, "--stream")
        processes.wait_for(lambda: run.poll() is not None, "the run has ended", seconds=900)
    finally:
        processes.end()
    assert run.returncode == 0, processes.logs.decode()
    report = json.loads((out / "report.json").read_text())
    assert report["status"] == "completed", processes.logs.decode()
    local = cli.run("-c", config, out=tmp_path / "local")
    assert local.status == 0, local.stderr
    mine, theirs = load_file(local.out / "model-final.safetensors"), load_file(out / "model-final.safetensors")
    assert mine.keys() == theirs.keys()
    # The sums of floating-point numbers depend on the threads, which Ray chooses; a masked update is rounded, too.
    tolerance = 1e-4 if transport else 1e-5
    assert all(np.allclose(mine[name], theirs[name], atol=tolerance) for name in mine)
    held = {(entry["sealed"], entry["secagg"] is not None) for entry in report["round_log"]}
    assert held == {(bool(transport), bool(transport))}
    assert charges(report) == charges(local.report)
    assert report["privacy"]["epsilon"] == local.report["privacy"]["epsilon"]
    audit = cli.here("audit", out / "report.json", "--roster", out / "roster.json")
    assert audit.status == 4, audit.stdout  # a simulation, of which no check fails


def charges(report):
    return [(event["client"], event["round"], event["steps"]) for event in report["privacy"]["events"]]
