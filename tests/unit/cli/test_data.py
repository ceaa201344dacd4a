import warnings

import pytest

from fedtrain.data.schema import read_schema

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("age;note;outcome\n17,5;a;ill\n80;b;well\n" + "".join(f"40;{row} words;ill\n" for row in range(60)))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["data", "schema", *map(str, arguments)])


def test_a_schema_is_drafted_with_a_warning_that_its_bounds_came_from_the_data(people, tmp_path):
    out = tmp_path / "schema.toml"
    done = run(people, "--target", "outcome", "--delimiter", ";", "--decimal", ",", "--out", out)
    assert done.exit_code == 0, done.output
    assert f"wrote {out}" in done.stdout
    assert "warning: bounds or categories of 2 columns came from the data" in done.stderr
    assert "warning: passed over: note" in done.stderr
    assert read_schema(out).target.names == ("ill", "well")
    again = run(people, "--target", "outcome", "--delimiter", ";", "--decimal", ",", "--out", out)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    printed = run(people, "--target", "outcome", "--delimiter", ";", "--decimal", ",")
    assert printed.stdout == out.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "outcome"), "people.csv, line 2: 2 values, and 1 are expected"),
        (("--target", "label", "--delimiter", ";"), "there is no column 'label' to predict; its columns are age, note"),
        (("--target", "outcome", "--delimiter", "and"), "delimiter = 'and' is not one character"),
        (("--target", "outcome", "--delimiter", '"'), "delimiter and quote are both"),
        ((), "Missing option '--target'"),
    ],
)
def test_what_cannot_be_drafted_is_refused_in_words(people, arguments, words):
    done = run(people, *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
