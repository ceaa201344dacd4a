import re
import warnings
from pathlib import Path

from click import Context

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
SECTION = re.compile(r"^## (fedtrain\b[\w -]*?)(?: \[[^\n]*)?\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
HELP = ("`--help`", "Show the help and exit.")


def rows(text):
    """Return option and meaning of each row of a section's table."""
    return [tuple(row) for row in re.findall(r"^\| (`--.*?) \| (.*) \|$", text, flags=re.MULTILINE)]


def options(command):
    """Return the same of a command."""
    found = [
        (", ".join(f"`{name}`" for name in parameter.opts), parameter.help)
        for parameter in command.params
        if parameter.param_type_name == "option"
    ]
    return [*found, HELP]


def leaves(group, before=""):
    """Return the name, its groups before it, and the command of each command that is no group."""
    for name in group.commands:
        _, command, _ = group.resolve_command(Context(group), [name])
        if hasattr(command, "commands"):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_the_page_has_exactly_the_options_of_each_command():
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
        import typer

        from fedtrain.cli.app import app
    cli = typer.main.get_command(app)
    expected = {"fedtrain": options(cli)}
    expected |= {f"fedtrain {name}": options(command) for name, command in leaves(cli)}
    assert {name: rows(text) for name, text in SECTION.findall(PAGE.read_text())} == expected
