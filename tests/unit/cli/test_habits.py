"""Every command, found by walking the parser: ``--json``, ``--quiet``, and an error as an object."""

import json
import logging
import re
import signal
import warnings
from datetime import datetime
from pathlib import Path

import click
import pytest

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app

from fedtrain.cli.running import output
from tests.unit.cli.test_examples import LEAVES
from tests.unit.docs.test_cli import PAGE, SECTION

SERVICES = {"server up", "client up"}
PAGES = {name.removeprefix("fedtrain "): text for name, text in SECTION.findall(PAGE.read_text())}


@pytest.fixture(autouse=True)
def settings_of_the_process():
    """Put back what a command changes in its process."""
    handler, flower = signal.getsignal(signal.SIGTERM), logging.getLogger("flwr").propagate
    yield
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger("flwr").propagate = flower


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def arguments_of(command, gone):
    """Return arguments that name a path that cannot be used wherever the command takes one."""
    found = []
    for parameter in command.params:
        value = str(gone) if isinstance(parameter.type, click.Path) else "a=1,2"
        if isinstance(parameter, click.Argument) and (parameter.required or value == str(gone)):
            found.append(value)
        elif parameter.required or parameter.opts[0] in {"--app", "--config"}:
            found += [parameter.opts[0], value]
    return found


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_answers_in_json_or_quietly(name):
    options = {option: parameter for parameter in LEAVES[name].params for option in parameter.opts}
    assert {"--json", "--quiet", "-q"} <= set(options)
    assert options["--quiet"].help == "Print nothing but results and errors."
    assert options["--json"].help.startswith("Print one JSON object")
    assert ("on a line for each" in options["--json"].help) == (name in {*SERVICES, "predict"})


@pytest.mark.parametrize("name", LEAVES)
def test_an_error_is_an_object_and_a_message(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "file" / "below"
    gone.parent.write_text("no folder, and no TOML")
    arguments = [*name.split(), *arguments_of(LEAVES[name], gone)]
    loud, machine = call(*arguments, "--quiet"), call(*arguments, "--json")
    assert loud.exit_code == machine.exit_code
    assert machine.exit_code in {1, 2}, machine.output
    (found,) = objects(machine.stdout)
    assert found["exit_status"] == machine.exit_code
    assert loud.stdout == ""
    assert loud.stderr == machine.stderr == f"error: {found['error']}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "line",
    [
        "budget --nonsense --json",
        "nonsense --json",
        "server status --json",
        "doctor --json",
        "--nonsense budget --json",
        "--json",
        "server --json",
    ],
)
def test_a_mistake_in_the_arguments_is_an_object_too(line):
    result = call(*line.split())
    (found,) = objects(result.stdout)
    assert (result.exit_code, found["exit_status"]) == (2, 2)
    assert re.search("No such|Missing argument", found["error"])
    assert "Error" in result.stderr
    if line.endswith(" --json") and line != "server --json":  # without it, these show what they can do
        assert call(*line.replace(" --json", "").split()).stdout == ""


def test_an_interrupt_is_one_line_and_an_object(monkeypatch, tmp_path):
    def interrupted(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "read_bytes", interrupted)
    result = call("audit", tmp_path / "report.json", "--json")
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")
    assert objects(result.stdout) == [{"exit_status": 130, "error": "interrupted"}]


def test_a_fault_is_a_trace_and_an_object_that_quotes_nothing(monkeypatch, tmp_path):
    def faulty(_path):
        raise LookupError("the record of Ms Miller")

    monkeypatch.setattr(Path, "read_bytes", faulty)
    result = call("audit", tmp_path / "report.json", "--json")
    assert (result.exit_code, type(result.exception)) == (1, LookupError)
    assert objects(result.stdout) == [{"exit_status": 1, "error": "unexpected LookupError: see standard error"}]
    assert call("audit", tmp_path / "report.json").stdout == ""


def test_an_interrupt_while_a_command_is_imported_is_an_object_too(monkeypatch):
    def interrupted(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedtrain.cli.app.import_module", interrupted)
    result = call("audit", "report.json", "--json")
    assert (result.exit_code, objects(result.stdout)) == (130, [{"exit_status": 130, "error": "interrupted"}])
    assert result.stderr == "error: interrupted\n"


@pytest.mark.parametrize("name", LEAVES)
def test_a_path_of_which_the_system_does_not_say_whether_it_is_there_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = arguments_of(LEAVES[name], tmp_path / ("a" * 300))
    result = call(*name.split(), *arguments, "--json")
    (found,) = objects(result.stdout)
    assert (result.exit_code, found["exit_status"]) in {(1, 1), (2, 2)}
    if any("a" * 300 in argument for argument in arguments):
        assert "File name too long" in found["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("as_json", "quiet"), [(True, False), (False, True), (False, False)])
def test_what_changes_at_a_service_is_an_object_on_a_line(capsys, as_json, quiet):
    with output(as_json, quiet) as out:
        out.news("north is connected")
        out.news("north \x1b[2J")
    printed = capsys.readouterr().out
    if as_json:
        assert [found["message"] for found in objects(printed)] == ["north is connected", "north \x1b[2J"]
        assert all(datetime.fromisoformat(found["time"]).tzinfo for found in objects(printed))
        assert "\x1b" not in printed
    else:
        assert len(printed.splitlines()) == (0 if quiet else 2)


def test_what_the_objects_hold_is_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    federation = tmp_path / "federation"
    kit, server = federation / "kits" / "north", federation / "server"
    request = kit / "request.json"
    experiment = tmp_path / "experiment.toml"
    experiment.write_text('[privacy]\nmode = "record"\nsampling_rate = 0.1\ndelta = 1e-3\n')
    table = tmp_path / "table.csv"
    table.write_text("age,ill\n30,yes\n40,no\n")
    for line in (
        ["new", tmp_path / "app"],
        ["config", "check", experiment],
        ["data", "schema", table, "--target", "ill"],
        ["provision", "init", federation, "--address", "127.0.0.1:9092"],
        ["provision", "add", federation, "north"],
        ["client", "init", kit],
        ["provision", "admit", federation, "north", request],
        ["provision", "list", federation],
        ["client", "status", kit],
        ["client", "approve", kit],
        ["client", "rotate", kit],
        ["provision", "admit", federation, "north", request, "--rotate"],
        ["provision", "rotate-server", federation],
        ["server", "status", server],
        ["server", "runs", server],
        ["provision", "revoke", federation, "north"],
    ):
        result = call(*line, "--json")
        assert result.exit_code == 0, result.output
        (answer,) = objects(result.stdout)
        words = list(map(str, line))
        name = next(" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in LEAVES)
        missing = [key for key in answer if f"`{key}`" not in PAGES[name]]
        assert missing == [], f"{name} on {PAGE.name}"
