import shlex
import warnings

import pytest
from click import Context
from click.testing import CliRunner

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    import typer

    from fedtrain.cli.app import COMMANDS, app

from fedtrain.cli.examples import EXAMPLES, PERSONAS
from fedtrain.cli.settings import completed
from fedtrain.config import Experiment, to_flat
from tests.unit.docs.test_cli import leaves

LEAVES = dict(leaves(typer.main.get_command(app)))


def test_every_command_is_one_of_a_person_and_has_an_example():
    named = [name for names in PERSONAS.values() for name in names]
    assert sorted(named) == sorted(COMMANDS)
    assert sorted(EXAMPLES) == sorted(LEAVES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_command_line_of_its_command(name):
    program, *arguments = shlex.split(EXAMPLES[name])
    assert program == "fedtrain"
    found = typer.main.get_command(app)
    while hasattr(found, "commands"):
        _, found, arguments = found.resolve_command(Context(found), arguments)
    found.make_context(name, arguments)
    assert found.epilog == f"Example: {EXAMPLES[name]}"


def test_the_help_lists_the_commands_by_the_person_who_uses_them():
    text = CliRunner().invoke(typer.main.get_command(app), ["--help"]).output
    places = [text.index(person.partition(":")[0]) for person in PERSONAS]
    assert places == sorted(places)


def test_keys_and_values_of_settings_are_completed():
    assert [key for key, _ in completed("")] == [f"{key}=" for key in to_flat(Experiment())]
    assert [key for key, _ in completed("privacy.noise")] == ["privacy.noise_multiplier=", "privacy.noise="]
    assert [value for value, _ in completed("privacy.noise=se")] == ["privacy.noise=seeded", "privacy.noise=secure"]
    assert completed("privacy.epsilon=") == []
    assert completed("nothing=") == []
