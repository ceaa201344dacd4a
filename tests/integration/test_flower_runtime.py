"""The same app on Flower's own simulation runtime, which uses Ray."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]

CONTROL_PORT = 39093

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
@pytest.mark.timeout(280)
@pytest.mark.parametrize("transport", ["", SEALED_AND_SUMMED], ids=["plain", "sealed and summed"])
def test_flwr_run_gives_the_model_of_the_local_engine(cli, tmp_path, transport):
    if in_use(CONTROL_PORT):
        pytest.skip(f"another local SuperLink listens on port {CONTROL_PORT}, which Flower always uses")
    home, out = tmp_path / "home", tmp_path / "on-flower"
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(out=out) + transport)
    environment = {
        **cli.environment,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["flwr", "run", ROOT, "--run-config", config, "--federation-config", "num-supernodes=4"]
    # The SuperLink that this starts in the background stays in the group, so that it can be ended.
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        end = time.monotonic() + 150
        while not (out / "report.html").exists() and time.monotonic() < end:
            time.sleep(0.5)
        assert (out / "report.json").exists(), log(home)
        report = json.loads((out / "report.json").read_text())
        assert report["status"] == "completed", log(home)
    finally:
        end_superlink(home)
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
    audit = cli.call("audit", out / "report.json", "--roster", out / "roster.json")
    assert audit.status == 0, audit.stdout


def charges(report):
    return [(event["client"], event["round"], event["steps"]) for event in report["privacy"]["events"]]


def in_use(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def log(home):
    return "\n".join(file.read_text()[-5000:] for file in home.rglob("*.log"))


def end_superlink(home):
    listing = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        if "flower-superlink" in line and str(home) in line:
            os.kill(int(line.split()[0]), signal.SIGKILL)
