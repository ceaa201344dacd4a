"""The configurations on the page about one round are run as they stand."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from fedtrain import Experiment, simulate
from fedtrain.cli.app import app

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "private-statistics.md"


def configuration(name):
    blocks = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if tomllib.loads(block).get("name") == name)
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Go to a folder with the table and the configuration of the page."""
    draw = np.random.default_rng(0)
    age = draw.uniform(18, 80, 5000)
    hours = np.clip(draw.normal(40, 8, 5000), 0, 90)
    older = (age + draw.normal(0, 20, 5000) > 50).astype(int)
    parquet.write_table(pa.table({"age": age, "hours": hours, "label": older}), tmp_path / "people.parquet")
    (tmp_path / "people.toml").write_text(configuration("people"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stats(*arguments):
    result = CliRunner().invoke(app, ["stats", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def assert_near(printed, found):
    """Check that two texts are one but for their numbers, and that these differ by rounding."""
    assert NUMBER.sub("", printed).split() == NUMBER.sub("", found).split()
    assert [float(text) for text in NUMBER.findall(found)] == pytest.approx(
        [float(text) for text in NUMBER.findall(printed)], rel=0.01
    )


def test_the_statistics_on_the_page_are_released(folder):
    found = json.loads(stats("people.toml", "--out", "runs/people", "--json"))
    assert found["count"]["value"] == pytest.approx(4950, abs=100)
    age, hours = found["columns"]
    assert age["mean"]["value"] == pytest.approx(48.9, abs=0.5)
    assert hours["quantiles"]["0.5"] == pytest.approx(40, abs=2)
    shown = stats("runs/people")
    for text in ("records: ", "age     18 to 90", "± is 1.96 standard errors", "epsilon 2.00 at delta 0.0001"):
        assert text in shown
    assert json.loads(stats("runs/people", "--json")) == found
    (printed,) = re.findall(r"^(records: .*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert_near(printed, "\n".join(shown.splitlines()[:4]))


@pytest.mark.usefixtures("folder")
def test_statistics_of_some_clients_say_so():
    of_three = [("federation.cohort", 3), ("privacy.colluders", 0), ("output.screen", "none")]
    settings = [part for name, value in of_three for part in ("--set", f"{name}={value}")]
    found = json.loads(stats("people.toml", "--out", "runs/some", "--json", *settings))
    assert found["clients"] == {"summed": 3, "all": 10}
    assert found["count"]["value"] == pytest.approx(1485, abs=60)
    assert ", those of 3 of the 10 clients" in stats("runs/some").splitlines()[0]


def test_a_table_is_standardised_by_them_on_the_same_ledgers(folder):
    sites = ["--set", "federation.sites=sites"]
    stats("people.toml", "--out", "runs/people", "--set", "output.screen=none", *sites)
    line = stats("runs/people", "--scaling")
    (printed,) = re.findall(r"^scaling = .*$", PAGE.read_text(), flags=re.MULTILINE)
    assert_near(printed, line)
    experiment = Experiment.load(
        folder / "people.toml",
        {
            "task": {"name": "tabular", "columns": None, "bins": 0, **tomllib.loads(line)},
            "federation.sites": "sites",
            "privacy": {"epsilon": 3.0, "noise_multiplier": 1.75},
            "training": {"solver": "least-squares"},
            "output.screen": "none",
        },
    )
    report = simulate(experiment, out="runs/trained").report
    assert report.evaluation.final.accuracy > 0.6
    assert report.privacy.epsilon > 2.5
    assert {client.entries for client in report.privacy.clients} == {4}


def test_an_unbounded_column_is_refused_with_the_arithmetic(folder):
    result = CliRunner().invoke(app, ["stats", "people.toml", "--set", "task.columns=age: 18 to inf"])
    assert result.exit_code == 2
    assert "column 'age' is an unbounded statistic: within 18 to inf, one record moves its sum by up to inf" in (
        result.stderr
    )


def test_the_digits_on_the_page_are_fitted(tmp_path):
    (tmp_path / "digits.toml").write_text(configuration("digits-in-one-round"))
    experiment = Experiment.load(tmp_path / "digits.toml", {"output.screen": "none"})
    run = simulate(experiment, out=tmp_path / "run")
    said = float(re.search(r"an accuracy of ([\d.]+) on the digits", PAGE.read_text())[1])
    assert run.report.evaluation.final.accuracy == pytest.approx(said, abs=0.03)
