"""Any Flower app runs on the local engine, unmodified."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROJECT = """
[project]
name = "other"
version = "1.0.0"

[tool.flwr.app]
publisher = "someone"

[tool.flwr.app.components]
serverapp = "other.server:app"
clientapp = "other.client:app"

[tool.flwr.app.config]
num-server-rounds = 2
offset = 1.0

[tool.flwr.federations]
default = "local"

[tool.flwr.federations.local]
options.num-supernodes = 4
"""

SERVER = """
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()
@app.main()
def main(grid, context):
    result = FedAvg().start(
        grid, ArrayRecord({"w": Array(np.zeros(3))}), num_rounds=context.run_config["num-server-rounds"]
    )
    print("nodes", len(list(grid.get_node_ids())), "model", result.arrays["w"].numpy().tolist())
    print("metrics", dict(result.evaluate_metrics_clientapp[2]))
"""

CLIENT = """
import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(message, context):
    visits = context.state.metric_records.setdefault("m", MetricRecord({"visits": 0}))
    visits["visits"] += 1
    arrays = message.content["arrays"]
    arrays["w"] = Array(arrays["w"].numpy() + context.run_config["offset"])
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
@app.evaluate()
def evaluate(message, context):
    visits = context.state.metric_records["m"]["visits"]
    metrics = MetricRecord({"num-examples": 1, "visits": visits})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""

LEGACY_CLIENT = """
import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
class Client(NumPyClient):
    def fit(self, parameters, config):
        return [value + 1 for value in parameters], 10, {}
    def evaluate(self, parameters, config):
        return float(parameters[0][0]), 10, {}
def client_fn(context):
    return Client().to_client()
app = ClientApp(client_fn=client_fn)
"""

LEGACY_SERVER = """
import numpy as np
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp
def server_fn(context):
    strategy = FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(2)]))
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))
app = ServerApp(server_fn=server_fn)
"""


@pytest.fixture
def make_app(tmp_path):
    def make(server=SERVER, client=CLIENT):
        package = tmp_path / "folder" / "other"
        package.mkdir(parents=True)
        (package.parent / "pyproject.toml").write_text(PROJECT)
        (package / "__init__.py").write_text("")
        (package / "server.py").write_text(server)
        (package / "client.py").write_text(client)
        return package.parent

    return make


def run(cli, *arguments, cwd=ROOT):
    outcome = cli.call("simulate", *arguments, cwd=cwd)
    return outcome.status, outcome.stdout, outcome.stderr


def test_another_app_runs_with_its_own_config_nodes_and_state(cli, make_app):
    process = cli.start("simulate", make_app())
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "nodes 4 model [2.0, 2.0, 2.0]" in stdout
    assert "metrics {'visits': 2.0}" in stdout


def test_the_current_folder_is_the_default_and_overrides_apply(cli, make_app):
    status, stdout, stderr = run(cli, "--set", "offset=2.5", "--nodes", 3, cwd=make_app())
    assert status == 0, stderr
    assert "nodes 3 model [5.0, 5.0, 5.0]" in stdout


def test_an_app_in_flowers_older_style_runs(cli, make_app):
    status, _, stderr = run(cli, make_app(LEGACY_SERVER, LEGACY_CLIENT))
    assert status == 0, stderr
    assert "Run finished 2 round(s)" in stderr
    assert re.search(r"round 2: 2\.0", stderr), stderr


def test_keys_that_the_app_does_not_declare_are_refused(cli, make_app, tmp_path):
    folder = make_app()
    outcome = cli.here("simulate", folder, "--set", "num-server-round=3")
    assert outcome.status == 2
    assert "did you mean num-server-rounds?" in outcome.stderr
    outcome = cli.here("simulate", folder, "--out", tmp_path / "run")
    assert outcome.status == 2
    assert "unknown key output.directory" in outcome.stderr


def test_an_app_that_raises_fails_with_its_traceback(cli, make_app):
    status, _, stderr = run(cli, make_app(SERVER.replace("result =", "raise KeyError('planted')\n    result =")))
    assert status == 1
    assert 'server.py", line' in stderr
    assert "error: KeyError: 'planted'" in stderr


@pytest.mark.parametrize(
    ("server", "status", "message"),
    [
        ("import missing_module\n", 2, "cannot load the ServerApp other.server:app"),
        ("app = 3\n", 2, "is a int, not a ServerApp"),
        ("other = 3\n", 2, "cannot load the ServerApp other.server:app"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_refused(cli, make_app, server, status, message):
    code, _, stderr = run(cli, make_app(server))
    assert code == status, stderr
    assert message in stderr


IMPORTS = "import no_such_module\n" + CLIENT
RAISES = CLIENT.replace("visits =", "raise KeyError('planted')\n    visits =", 1)
DIES = CLIENT.replace("visits =", "import os; os._exit(9)\n    visits =", 1)


@pytest.mark.parametrize(
    ("server", "client", "said"),
    [
        (SERVER, IMPORTS, ["the ClientApp other.client:app cannot be loaded:", "No module named 'no_such_module'"]),
        # Flower's older strategies catch what a grid raises, and go on to the last round.
        (LEGACY_SERVER, "1 / 0", ["the ClientApp other.client:app cannot be loaded:", "ZeroDivisionError"]),
        (SERVER, RAISES, ["no client trained: all 8 messages of type train", "KeyError: 'planted'"]),
        (SERVER, DIES, ["no client trained: all 8 messages of type train", "exited with code 9"]),
    ],
    ids=["import", "import, older style", "raises", "dies"],
)
def test_a_run_whose_clients_do_nothing_fails(cli, make_app, server, client, said):
    # Like many: it saves what there is, whatever that is.
    server = server.replace('print("nodes"', 'return\n    print("nodes"')
    outcome = cli.call("simulate", make_app(server, client))
    assert outcome.status == 1
    assert all(text in outcome.stderr.partition("error: ")[2] for text in said), outcome.stderr
    if "import no_such_module" in client:
        assert "[ROUND 2/2]" not in outcome.stderr
        assert "Traceback" in outcome.stderr
        assert 'client.py", line 1' in outcome.stderr


def test_a_folder_without_an_app_is_refused(cli, tmp_path):
    outcome = cli.here("simulate", tmp_path)
    assert outcome.status == 2
    assert "holds no Flower app" in outcome.stderr


LOUD = "import os, subprocess\n{source}".format
SAYS = "print('{0} print'); os.write(1, b'{0} descriptor'); subprocess.run(['echo', '{0} program'])\n    ".format


def test_whatever_an_app_prints_results_for_machines_stand_alone(cli, make_app):
    server = LOUD(source=SERVER.replace("result =", SAYS("server") + "result =", 1))
    client = LOUD(source=CLIENT.replace("visits =", SAYS("client") + "visits =", 1))
    command = cli.begin("simulate", make_app(server, client), "--json")  # whose workers are its own
    stdout, stderr = command.communicate()
    assert command.returncode == 0, stderr
    assert json.loads(stdout)["exit_status"] == 0
    for who in ("server", "client"):
        assert all(f"{who} {what}" in stderr for what in ("print", "descriptor", "program"))


def test_results_for_machines(cli, make_app, tmp_path):
    demo = ["-c", ROOT / "simulations" / "demo.toml", "--set", "federation.rounds=2", "--out", tmp_path / "run"]
    status, stdout, stderr = run(cli, *demo, "--json")
    assert status == 0, stderr
    result = json.loads(stdout)
    assert result["rounds"] == 2
    assert 0 < result["epsilon"] <= 6
    assert 0 <= result["accuracy"] <= 1
