import json
import warnings

import pytest

from tests.unit.comparison.test_comparison import report

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app


@pytest.fixture
def folders(tmp_path):
    """Return three runs, of which the last has other test records."""
    for name, settings in {"plain": {"private": False}, "private": {}, "other": {"seed": 7}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report(**settings)))
    return [str(tmp_path / name) for name in ("plain", "private", "other")]


def call(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_runs_are_printed_and_those_that_cannot_be_compared_are_named(folders, tmp_path):
    result = call(*folders, "--csv", tmp_path / "runs.csv", "--plot", tmp_path / "runs.svg")
    assert result.exit_code == 0
    assert "no privacy" in result.stdout
    assert "not comparable: other: it has other test records: seed, which drew the test records, is 7" in result.stdout
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 4
    assert ">other<" not in (tmp_path / "runs.svg").read_text()
    assert ">private<" in (tmp_path / "runs.svg").read_text()


def test_one_object_or_nothing_is_printed_where_that_is_asked_for(folders):
    answer = json.loads(call(*folders, "--json").stdout)
    assert [row["run"] for row in answer["runs"]] == ["plain", "private", "other"]
    assert list(answer["incomparable"]) == ["other"]
    assert call(*folders, "--quiet").stdout == call(*folders).stdout


def test_what_is_no_run_is_refused_with_its_path(folders, tmp_path):
    result = call(folders[0], tmp_path / "none")
    assert result.exit_code == 2
    assert f"cannot read {tmp_path / 'none'}" in result.stderr
