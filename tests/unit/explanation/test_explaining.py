"""Explanations of runs that were really trained, their page and their command."""

import json
import re
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from fedtrain import load_run
from fedtrain.data import open_store
from fedtrain.errors import ConfigError, DataError, StorageError, TaskError, UsageError
from fedtrain.explanation import Attribution, Example, Explanation, Importance, Piece, explain, render_explanation
from fedtrain.explanation.explaining import _of_records
from fedtrain.explanation.importance import PERMUTATIONS, permutation_importance
from fedtrain.explanation.views import Model
from fedtrain.serverapp.run import run_experiment
from tests.fakes import digits_experiment, federation

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app

SCHEMA = """
[csv]
delimiter = ";"
[columns]
age = { kind = "number", lower = 0, upper = 100 }
ward = { kind = "category", values = ["north", "south"] }
outcome = { kind = "target", values = ["well", "ill"] }
"""


def trained(folder, **settings):
    fixed = {"task__model": "linear", "output__directory": str(folder / "run"), "output__screen": "none"}
    experiment = digits_experiment(folder / "cache", **(fixed | settings))
    run_experiment(federation(experiment), experiment)
    return load_run(folder / "run"), experiment


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("digits"), federation__rounds=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    (folder / "schema.toml").write_text(SCHEMA)
    drawn = np.random.default_rng(0).integers(0, 100, 400)
    rows = [f"{age};{'north' if at % 3 else 'south'};{'ill' if age > 50 else 'well'}" for at, age in enumerate(drawn)]
    (folder / "people.csv").write_text("\n".join(["age;ward;outcome", *rows]))
    run, _ = trained(
        folder,
        data__source="csv",
        data__path=str(folder / "people.csv"),
        data__schema_file=str(folder / "schema.toml"),
        data__test_fraction=0.3,
        task__name="tabular",
        training__learning_rate=1.0,
        training__local_steps=20,
    )
    return run, folder


def test_the_examples_are_test_records_of_each_class_in_turn(digits):
    run, experiment = digits
    found = explain(run, examples=12)
    store = open_store(experiment.data, seed=experiment.seed)
    assert [example.target for example in found.examples] == [*map(str, range(10)), "0", "1"]
    for example in found.examples:
        assert np.array_equal(example.picture, store.test.features[example.record])
        assert example.target == str(store.test.targets[example.record])
    assert found.completeness.startswith("completeness: for 12 of 12 records")
    assert found.public
    assert explain(run, examples=2, which="best").weights == run.report.model.best.sha256


@pytest.mark.parametrize("examples", [0, 51, -1])
def test_a_number_of_examples_that_no_page_has_is_refused(digits, examples):
    with pytest.raises(UsageError, match="1 to 50 test records"):
        explain(digits[0], examples=examples)


def test_without_captum_it_is_said_what_to_install(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedtrain\[explain\]'"):
        explain(digits[0])


def test_a_model_whose_outputs_are_not_finite_is_refused(digits):
    run, experiment = digits
    module = run.model()
    for weights in module.parameters():
        weights.data.fill_(3e38)
    model = Model(task=run.made_task(), module=module, encoder=None, info=run.info)
    with pytest.raises(TaskError, match=r"for test record \d+, or on the way to it from the baseline, is not finite"):
        _of_records(model, open_store(experiment.data, seed=experiment.seed).test, 1, {})


def test_the_columns_of_a_table_are_permuted_with_all_their_features(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)  # which a table does not need
    found = explain(table[0])
    assert [(each.column, each.features) for each in found.importance] == [("age", 1), ("ward", 3)]
    assert found.importance[0].worse > 0.2 > abs(found.importance[1].worse)
    assert found.reached == pytest.approx(table[0].report.evaluation.final.accuracy)
    assert (found.metric, found.used, found.public, found.examples) == ("Accuracy", 120, False, ())
    assert explain(table[0]) == found
    assert not explain(table[0], public=True).as_json()["notes"]


def test_test_records_that_are_gone_or_others_are_refused(table):
    run, folder = table
    content = (folder / "people.csv").read_text()
    try:
        (folder / "people.csv").write_text(content + "\n" + "\n".join(content.splitlines()[1:50]))
        with pytest.raises(DataError, match="not those that it was measured on: there are 135, and the run had 120"):
            explain(run)
        (folder / "people.csv").unlink()
        with pytest.raises(DataError, match="no such file"):
            explain(run)
    finally:
        (folder / "people.csv").write_text(content)


def test_runs_without_a_model_that_predicts_are_refused(digits, tmp_path):
    run, _ = digits
    moved = replace(run, path=tmp_path)
    with pytest.raises(StorageError, match=r"cannot read the model .*model-final\.safetensors"):
        explain(moved)
    statistics = {
        **run.report.config,
        "task.name": "statistics",
        "task.columns": "number 1: 0 to 1",
        "task.model": "",
        "privacy.mode": "record",
        "privacy.sampling_rate": 1.0,
        "training.local_steps": 1,
        "training.learning_rate": 1.0,
    }
    data = run.report.data.model_copy(update={"kind": "table", "shape": (1,), "features": ()})
    report = run.report.model_copy(update={"config": statistics, "data": data})
    with pytest.raises(UsageError, match="fedtrain stats"):
        explain(replace(run, report=report))
    text = run.report.data.model_copy(update={"kind": "tokens", "shape": (4,), "vocabulary": 9, "target": "text"})
    language = {
        **run.report.config,
        "task.name": "language",
        "task.model": "lstm",
        "data.source": "parquet",
        "data.path": "texts.parquet",
        "data.test_fraction": 0.5,
        "data.text_column": "text",
        "data.target": "text",
    }
    report = run.report.model_copy(update={"config": language, "data": text.model_copy(update={"classes": ()})})
    with pytest.raises(UsageError, match="next tokens are predicted"):
        explain(replace(run, report=report))


def test_importance_is_how_much_worse_the_metric_is():
    features = np.arange(40.0).reshape(20, 2)
    error = lambda some: float(np.abs(some[:, 0] - features[:, 0]).mean())
    reached, found = permutation_importance(error, features, {"used": (0,), "other": (1,)}, direction="lower", seed=1)
    assert reached == 0
    assert [each.column for each in found] == ["used", "other"]
    draws = np.random.default_rng(1)
    expected = [np.abs(features[draws.permutation(20), 0] - features[:, 0]).mean() for _ in range(PERMUTATIONS)]
    assert found[0].worse == pytest.approx(np.mean(expected))
    assert found[0].spread == pytest.approx(np.std(expected))
    assert (found[1].worse, found[1].spread) == (0, 0)


def explanation(**facts):
    fixed = {"name": "n", "run": "r", "weights": "0" * 64, "which": "final", "over": "x", "baseline": "b"}
    return Explanation(**(fixed | {"public": True, "records": 9} | facts))


def example(**facts):
    fixed = {"record": 3, "target": "a", "predicted": "b", "output": "b", "value": 1.0, "baseline": 0.0}
    return Example(**(fixed | {"picture": None, "pieces": (), "attributions": ()} | facts))


def gradients(values, difference):
    values = np.asarray(values, dtype=np.float64)
    return Attribution(
        method="integrated gradients", values=values, sum=float(values.sum()), difference=difference, steps=50
    )


def test_the_page_describes_each_picture_in_words_and_warns_of_records_that_may_not_be_public(digits):
    found = explain(digits[0], examples=2)
    page = render_explanation(found)
    assert page == render_explanation(found)
    alts = re.findall(r'<img[^>]* alt="([^"]*)"', page)
    assert len(alts) == page.count("<img") == 6
    assert all(re.search(r"test record|% of what counts speaks for the output; most is in the", alt) for alt in alts)
    assert "nothing says that they are public" not in page
    assert "nothing says that they are public" in render_explanation(replace(found, public=False))
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_others_wrote_is_shown_and_never_markup():
    evil = "<script>alert(1)</script>\x1b[31m\u202e"
    piece = Piece(text=evil, tokens=(0,))
    shown = render_explanation(
        explanation(
            name=evil,
            notes=(evil,),
            examples=(example(target=evil, predicted=evil, pieces=(piece,), attributions=(gradients([1.0], 1.0),)),),
        )
    )
    assert "<script>" not in shown
    assert not {"\x1b", "\u202e"} & set(shown)


def test_a_page_of_a_long_text_or_a_wide_table_stays_short():
    pieces = tuple(Piece(text=f" w{at}", tokens=(at,)) for at in range(5000))
    long = explanation(examples=(example(pieces=pieces, attributions=(gradients(np.linspace(-1, 1, 5000), 0.0),)),))
    page = render_explanation(long)
    assert "4,700 more parts are not shown." in page
    assert len(page) < 60_000
    columns = tuple(Importance(column=f"c{at}", features=1, worse=-float(at), spread=0.0) for at in range(500))
    page = render_explanation(explanation(importance=columns, metric="Accuracy"))
    assert "470 more columns" in page
    assert page.count("<tr>") == 31


def test_the_page_says_where_a_sum_is_too_far_away():
    found = explanation(examples=(example(attributions=(gradients([1.0, 2.0], 3.5),)),))
    assert "completeness: for 0 of 1 records" in found.completeness
    assert "is further away from it than 0.01" in render_explanation(found)
    assert found.as_json()["examples"][0]["attributions"][0]["complete"] is False


@pytest.mark.parametrize("name", ["report.json", "report.html", "model-final.safetensors", "metrics.jsonl"])
def test_no_command_writes_over_a_file_of_the_run(digits, tmp_path, monkeypatch, name):
    run, _ = digits
    monkeypatch.chdir(tmp_path)
    before = (run.path / name).read_bytes()
    (tmp_path / "link").symlink_to(run.path)
    for words in (
        ["explain", run.path, "--out", tmp_path / "link" / name],
        ["audit", run.path, "--html", run.path / name],
        ["predict", run.path, "--data", tmp_path, "--out", run.path / "keys" / ".." / name],
    ):
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == 2, result.output
        assert "is a file of the run" in result.stderr or "predictions are written as" in result.stderr
    assert (run.path / name).read_bytes() == before


def call(*arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_the_command_writes_the_page_and_prints_what_it_found(digits, table, tmp_path):
    run, _ = digits
    result = call(run.path, "--examples", 2)
    assert result.exit_code == 0, result.output
    assert "values are of the pixels of an image" in result.stdout
    assert "completeness: for 2 of 2 records" in result.stdout
    assert (run.path / "explanation.html").read_text().startswith("<!doctype html>")
    answer = json.loads(call(run.path, "--examples", 1, "--out", tmp_path / "page.html", "--json").stdout)
    assert answer["file"] == str(tmp_path / "page.html")
    assert answer["examples"][0]["attributions"][0]["method"] == "integrated gradients"
    assert call(run.path, "--examples", 1, "--quiet").stdout == ""
    printed = call(table[0].path, "--out", tmp_path / "table.html").stdout
    assert "  age: Accuracy is worse by 0." in printed
    assert "warning: the page was measured on test records" in printed
    assert "warning" not in call(table[0].path, "--out", tmp_path / "table.html", "--public").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "51"], "1 to 50 test records"),
        (["--out", "nowhere/page.html"], "nowhere/page.html: there is no such folder"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(digits, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call(digits[0].path, *arguments)
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    missing = call(tmp_path / "none")
    assert missing.exit_code == 2
    assert "cannot read" in missing.stderr
