import json
import logging
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from fedtrain import __version__
from fedtrain.cli.app import app
from fedtrain.flower.app import shipped

COMPONENTS = '[tool.flwr.app.components]\nserverapp = "parts:server"\nclientapp = "parts:client"\n'
CONFIG = '[tool.flwr.app.config]\nrounds = 3\noutput.directory = ""\noutput.resume = false\noutput.screen = "auto"\n'


@pytest.fixture(autouse=True)
def settings_of_the_process():
    """Put back what the command changes in its process."""
    handler, root, flower = signal.getsignal(signal.SIGTERM), logging.getLogger(), logging.getLogger("flwr")
    handlers, level, propagate = list(root.handlers), root.level, flower.propagate
    yield
    signal.signal(signal.SIGTERM, handler)
    root.handlers[:], flower.propagate = handlers, propagate
    root.setLevel(level)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pyproject.toml").write_text(COMPONENTS + CONFIG)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """Return what the command says when it refuses its input, in both forms."""
    result = call("simulate", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    machine = call("simulate", *arguments, "--json")
    assert machine.exit_code == 2
    assert machine.stderr == result.stderr
    (line,) = machine.stdout.splitlines()
    answer = json.loads(line)
    assert set(answer) == {"exit_status", "error", "seconds"}
    assert answer["exit_status"] == 2
    assert f"error: {answer['error']}\n" == result.stderr
    return answer["error"]


def test_the_version():
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"fedtrain {__version__}\n")


def test_no_command_shows_the_commands():
    result = call()
    assert "simulate" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "--nonsense"],
        ["nonsense"],
        ["simulate", "--nodes", "0"],
        ["simulate", "--workers", "-1"],
        ["simulate", "--nodes", "many"],
        ["simulate", "one", "two"],
        ["simulate", "--set"],
    ],
)
def test_a_command_line_that_makes_no_sense(arguments):
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error" in result.stderr


def test_a_missing_folder(tmp_path):
    assert "holds no Flower app: cannot read" in refused(tmp_path / "nowhere")


def test_in_a_folder_without_an_app_the_keys_are_those_of_our_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unknown key privacy.epsilom (its value is 3); did you mean privacy.epsilon?" in refused(
        "--set", "privacy.epsilom=3"
    )


def test_an_experiment_that_cannot_be_is_refused_before_the_run_has_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused("--set", "federation.cohort=3")
    assert message.startswith("federation: min_results = 8 is more than cohort = 3: lower federation.min_results")
    assert f"--set changes the demo: see {shipped() / 'simulations' / 'demo.toml'} for the values it has" in message
    (tmp_path / "mine.toml").write_text("federation.clients = 3\n")
    message = refused("--config", "mine.toml")
    assert message.startswith("federation: cohort = 10 is more than clients = 3: lower federation.cohort")
    assert "demo" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_folder_without_an_app(tmp_path):
    assert "pyproject.toml: No such file or directory" in refused(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert "names no serverapp" in refused(tmp_path)
    (tmp_path / "pyproject.toml").write_text("not toml")
    assert "is not TOML" in refused(tmp_path)


def test_an_unknown_key_names_the_nearest(folder):
    message = refused(folder, "--set", "round=4", "--set", "outptu.directory=x")
    assert "unknown key round (its value is 4); did you mean rounds?" in message
    assert "unknown key outptu.directory (its value is 'x'); did you mean output.directory?" in message


def test_a_setting_that_is_none(folder):
    assert "write it as key=value" in refused(folder, "--set", "rounds")
    assert "rounds = [1, 2] is not allowed" in refused(folder, "--set", "rounds=[1, 2]")


def test_a_configuration_that_cannot_be_read(folder):
    assert "cannot read the configuration" in refused(folder, "--config", folder / "no.toml")
    (folder / "bad.toml").write_text("a = ")
    assert "bad.toml is not TOML" in refused(folder, "--config", folder / "bad.toml")
    (folder / "unknown.toml").write_text("[output]\nfolder = 'x'\n")
    assert "unknown key output.folder" in refused(folder, "--config", folder / "unknown.toml")


def test_options_of_an_app_that_has_no_such_keys(tmp_path):
    (tmp_path / "pyproject.toml").write_text(COMPONENTS)
    assert "unknown key output.directory" in refused(tmp_path, "--out", tmp_path / "run")
    assert "unknown key output.resume" in refused(tmp_path, "--resume")


def test_refused_input_does_not_show_the_results_of_another_run(folder):
    run = folder / "run"
    run.mkdir()
    (run / "report.json").write_text('{"status": "completed"}')
    assert "cannot load the ServerApp" in refused(folder, "--out", run)


@pytest.fixture
def make_app(folder):
    """Give a function that makes an app in the folder, whose server does something."""

    def make(name, body):
        (folder / f"{name}.py").write_text(
            "from pathlib import Path\nfrom flwr.clientapp import ClientApp\nfrom flwr.serverapp import ServerApp\n"
            "server, client = ServerApp(), ClientApp()\n"
            f"@server.main()\ndef main(grid, context):\n    {body}\n"
        )
        (folder / "pyproject.toml").write_text(COMPONENTS.replace("parts:", f"{name}:") + CONFIG)
        return lambda *arguments: call("simulate", folder, "--workers", "1", "--nodes", "1", *arguments)

    return make


def test_an_interruption_has_its_own_status(make_app):
    run = make_app("interrupted_parts", "raise KeyboardInterrupt")
    result = run()
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")
    assert json.loads(run("--json").stdout)["exit_status"] == 130


def test_a_termination_is_an_interruption(make_app):
    run = make_app("terminated_parts", "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)")
    assert run().exit_code == 130


def test_a_report_of_another_kind_is_left_alone(make_app, folder):
    body = "(Path(context.run_config['output.directory']) / 'report.json').write_text('{\"status\": 5}')"
    run = make_app("reporting_parts", body)
    (folder / "out").mkdir()
    result = run("--json", "--out", folder / "out")
    assert result.exit_code == 0
    assert (folder / "out" / "report.json").is_file()
    assert set(json.loads(result.stdout)) == {"exit_status", "error", "seconds"}


def test_what_an_app_raises_is_a_failure_with_a_traceback(make_app):
    run = make_app("raising_parts", "raise LookupError(context.run_config['rounds'])")
    result = run("--set", "rounds=5")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: LookupError: 5\n")
    machine = run("--json")
    assert machine.exit_code == 1
    assert json.loads(machine.stdout)["error"] == "LookupError: 3"


def test_the_command_can_be_called_in_a_thread(folder):
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(call, "simulate", folder, "--set", "nonsense=1").result()
    assert result.exit_code == 2
    assert "unknown key nonsense" in result.stderr


def test_a_run_that_is_there_is_told_before_anything_is_imported_or_written(tmp_path):
    (tmp_path / "config.toml").write_text('name = "demo"\n')
    code = (
        "import sys, subprocess\n"
        "from fedtrain.cli.app import app\n"
        f"try: app(['simulate', '--out', {str(tmp_path)!r}])\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "print(sorted({'torch', 'flwr', 'opacus', 'dp_accounting'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr
    assert done.stderr.startswith(f"error: {tmp_path} holds a run already: continue it with output.resume (--resume)")
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
