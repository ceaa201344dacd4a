import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fedtrain.cli.app import COMMANDS, load

LEAVES = [
    [],
    ["simulate"],
    ["sweep"],
    ["compare"],
    ["audit"],
    ["privacy", "plan"],
    ["budget"],
    ["provision", "init"],
    ["server", "run"],
    ["server", "up"],
    ["server", "bundle"],
    ["client", "init"],
    ["client", "up"],
    ["client", "approve"],
    ["client", "data"],
    ["client", "rotate"],
    ["doctor"],
    ["watch"],
]
HEAVY = {"torch", "flwr", "opacus", "matplotlib", "dp_accounting", "pyarrow", "datasets", "PIL", "torchmetrics"}
PROGRAM = """
import sys
from fedtrain.cli import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def imported(*arguments):
    """Return the packages that a command line imports, and the exit status."""
    process = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    return set(process.stderr.splitlines()[-1].split()), process.returncode


def test_the_help_imports_no_command():
    packages, status = imported("--help")
    assert status == 0
    assert packages & (HEAVY | {"numpy", "pydantic", "cryptography"}) == set()


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_arguments_are_checked_before_anything_heavy_is_imported(command):
    packages, status = imported(*command, "--nonsense")
    assert status == 2
    assert packages & HEAVY == set()


@pytest.mark.parametrize("command", [["watch"], ["server", "status"]], ids=" ".join)
def test_a_look_at_a_run_imports_little(command):
    packages, status = imported(*command, "--nonsense")
    assert status == 2
    assert packages & (HEAVY | {"numpy", "scipy", "pandas", "httpx"}) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_no_path_is_empty(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = load(name)
    groups = getattr(command, "commands", {})
    paths = [
        [*line, *([""] if isinstance(parameter, click.Argument) else [parameter.opts[0], ""])]
        for line, each in [([], command), *(([word], each) for word, each in groups.items())]
        for parameter in each.params
        if isinstance(parameter.type, click.Path)
    ]
    assert paths
    for arguments in paths:
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 2
        assert "the path is empty" in " ".join(result.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_each_command_what_its_own_help_says(name):
    assert load(name).help.splitlines()[0] == COMMANDS[name][1]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Flower
def test_a_bundle_says_which_app_it_is_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(load("server"), ["bundle"]).stdout.startswith("app: fedtrain's own\napp.fab, ")
    app = Path(__file__).parents[3] / "docs" / "examples" / "protected_app"
    monkeypatch.chdir(app)
    made = CliRunner().invoke(load("server"), ["bundle", "--out", str(tmp_path / "other.fab")])
    assert made.stdout.startswith(f"app: the Flower app in {app}\n"), made.output
