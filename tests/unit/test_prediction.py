"""Predictions of models whose runs are here as little as a report and a model file."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fedtrain import load_run
from fedtrain.config import from_flat
from fedtrain.data.types import ClassTarget, Columns, DataInfo, NumberTarget, Sound, Text, Tokens
from fedtrain.errors import DataError
from fedtrain.prediction import Predictions, predict
from fedtrain.report.inputs import inputs_of
from fedtrain.serverapp.run import run_experiment
from tests.fakes import digits_experiment, federation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    experiment = digits_experiment(
        folder / "cache",
        federation__rounds=1,
        task__model="linear",
        output__directory=str(folder / "run"),
        output__screen="none",
    )
    run_experiment(federation(experiment), experiment)
    return load_run(folder / "run")


def pixels(n):
    return np.random.default_rng(0).integers(0, 256, size=(n, 1, 8, 8)).astype(np.uint8)


def test_predictions_are_what_the_model_returns_for_the_encoded_records(run, tmp_path):
    np.save(tmp_path / "new.npy", pixels(700)[:, 0])
    found = predict(run, tmp_path / "new.npy")
    inputs = torch.from_numpy(pixels(700)).to(torch.float32) / 127.5 - 1
    with torch.no_grad():
        expected = run.model()(inputs).double().softmax(dim=1).numpy()
    assert found.values == pytest.approx(expected, abs=1e-6)
    rows = list(found.rows())
    assert rows[0]["predicted"] == str(expected[0].argmax())
    assert list(rows[0]) == ["record", "predicted", *(f"p({digit})" for digit in range(10))]
    assert found.as_csv().splitlines()[0] == ",".join(rows[0])
    assert [json.loads(line) for line in found.as_json_lines().splitlines()] == rows


def test_the_best_weights_are_taken_where_they_are_asked_for(run, tmp_path):
    np.save(tmp_path / "new.npy", pixels(3)[:, 0])
    assert predict(run, tmp_path / "new.npy", which="best").values.shape == (3, 10)


def test_records_of_another_schema_are_refused(run, tmp_path):
    np.save(tmp_path / "new.npy", np.zeros((2, 9, 8), np.uint8))
    with pytest.raises(DataError, match=r"shape \(1, 9, 8\) .* and the model takes images of 8 x 8 pixels"):
        predict(run, tmp_path / "new.npy")


def test_several_labels_are_predicted_from_one_half_on_and_numbers_as_they_are():
    values = np.array([[0.5, 0.2, 0.9], [0.1, 0.2, 0.3]])
    found = Predictions(records=("0", "1"), target="labels", names=("a", "b", "c"), values=values, raw=False)
    assert [row["predicted"] for row in found.rows()] == ["a;c", ""]
    number = Predictions(records=("x",), target="number", names=("0",), values=np.array([[2.5]]), raw=False)
    assert list(number.rows()) == [{"record": "x", "predicted": 2.5}]
    raw = Predictions(records=("x",), target="class", names=("0", "1"), values=np.array([[2.5, -1.0]]), raw=True)
    assert list(raw.rows()) == [{"record": "x", "output 0": 2.5, "output 1": -1.0}]


def test_the_description_of_a_table_says_what_its_schema_file_and_scaling_do():
    info = DataInfo(features=Columns(shape=(1,), names=("age",), schema="0" * 64), target=NumberTarget())
    data = {"data.source": "csv", "data.path": "x.csv", "data.schema_file": "s.toml", "data.test_fraction": 0.5}
    task = {"data.target": "number", "task.name": "regression", "task.scaling": "age: 0.25 by 0.5"}
    said = json.loads(inputs_of(from_flat(data | task), info).encode())
    assert said["scaling"] == {"age": [0.25, 0.5]}
    assert said["encoding"] == (
        "columns as the schema file s.toml decodes them; then those of scaling: less the first number, divided by the "
        "second"
    )


def test_the_description_says_nothing_that_the_report_does_not_say(run):
    inputs = json.loads((run.path / "inputs.json").read_text())
    assert inputs["shape"] == list(run.report.data.shape)
    assert inputs["names"] == list(run.report.data.classes)
    assert inputs["encoding"] == "divided by 127.5, less 1: from -1 to 1"
    assert json.loads(inputs_of(digits_experiment("x"), run.info).encode()) == inputs


SCHEMA = """
[csv]
delimiter = ";"
[columns]
age = { kind = "number", lower = 0, upper = 100, outside = "clip" }
ward = { kind = "category", values = ["north", "south"], missing = "indicator" }
hospital = { kind = "owner" }
remark = { kind = "ignore" }
outcome = { kind = "target", values = ["well", "ill"] }
"""


@pytest.fixture(scope="module")
def by_schema(tmp_path_factory):
    """Return a run on a table that a schema file decodes, with its folder."""
    folder = tmp_path_factory.mktemp("people")
    (folder / "schema.toml").write_text(SCHEMA)
    rows = [
        f"{number};{'north' if number % 3 else 'south'};a;{'ill' if number > 50 else 'well'}" for number in range(99)
    ]
    (folder / "people.csv").write_text("\n".join(["age;ward;hospital;outcome", *rows]))
    experiment = digits_experiment(
        folder / "cache",
        federation__rounds=1,
        data__source="csv",
        data__path=str(folder / "people.csv"),
        data__schema_file=str(folder / "schema.toml"),
        data__test_fraction=0.3,
        task__name="tabular",
        task__model="linear",
        output__directory=str(folder / "run"),
        output__screen="none",
    )
    run_experiment(federation(experiment), experiment)
    return load_run(folder / "run"), folder


def test_a_table_is_decoded_by_the_schema_file_of_the_model(by_schema, tmp_path):
    run, _ = by_schema
    assert run.info.features.schema == run.report.data.schema_digest
    (tmp_path / "new.csv").write_text("ward;more;age\nsouth;x;75\n;y;200\neast;z;0\n")
    found = predict(run, tmp_path / "new.csv")
    features = torch.tensor([[0.5, 0, 1, 0, 0], [1, 0, 0, 0, 1], [-1, 0, 0, 1, 0]])
    with torch.no_grad():
        expected = run.model()(features).double().softmax(dim=1).numpy()
    assert found.values == pytest.approx(expected, abs=1e-6)
    assert list(next(found.rows())) == ["record", "predicted", "p(well)", "p(ill)"]
    pq.write_table(pa.table({"age": [75, 200, 0], "ward": ["south", None, "east"]}), tmp_path / "new.parquet")
    assert predict(run, tmp_path / "new.parquet").values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("age;more\n1;2\n", "has no column 'ward', which the model takes; it has: 'age', 'more'"),
        ("age;ward\nold;north\n", "line 2, column 'age': 'old' is no number"),
        ("age;ward\n", "holds no records"),
    ],
)
def test_a_table_that_the_schema_file_cannot_decode_is_refused(by_schema, tmp_path, content, message):
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        predict(by_schema[0], tmp_path / "new.csv")


def test_numbers_without_their_schema_and_another_schema_file_are_refused(by_schema, tmp_path):
    run, folder = by_schema
    np.save(tmp_path / "new.npy", np.zeros((2, 5)))
    with pytest.raises(DataError, match="holds arrays, and the model takes columns as the schema file"):
        predict(run, tmp_path / "new.npy")
    (tmp_path / "new.csv").write_text("age;ward\n1;north\n")
    (folder / "schema.toml").write_text(SCHEMA.replace("upper = 100", "upper = 200"))
    try:
        with pytest.raises(DataError, match="is not the one by which the model's records were decoded"):
            predict(run, tmp_path / "new.csv")
    finally:
        (folder / "schema.toml").write_text(SCHEMA)


def test_a_sound_is_described_with_its_rate_and_read_back(run):
    sound = DataInfo(features=Sound(shape=(2000,), rate=8000), target=ClassTarget(names=("low", "high")))
    described = json.loads(inputs_of(digits_experiment("x"), sound).encode())
    assert (described["kind"], described["shape"], described["rate"]) == ("audio", [2000], 8000)
    assert read_back(run, kind="audio", shape=(2000,), classes=("low", "high"), rate=8000) == sound


@pytest.mark.parametrize(
    ("facts", "features"),
    [
        ({"kind": "text", "shape": (30,)}, Text(shape=(30,))),
        ({"kind": "tokens", "shape": (8,), "vocabulary": 50}, Tokens(shape=(8,), vocabulary=50)),
        (
            {"kind": "table", "shape": (2,), "features": ("age", "ward"), "schema_digest": "a" * 64},
            Columns(shape=(2,), names=("age", "ward"), schema="a" * 64),
        ),
    ],
)
def test_what_only_one_kind_of_records_has_is_read_back_from_the_report(run, facts, features):
    assert read_back(run, **facts).features == features


def read_back(run, **facts):
    """Return the schema of a run whose report has such facts of its data."""
    return replace(run, report=run.report.model_copy(update={"data": run.report.data.model_copy(update=facts)})).info
