"""Predictions of models whose runs are here as little as a report and a model file."""

import json

import numpy as np
import pytest
import torch

from fedtrain import load_run
from fedtrain.config import from_flat
from fedtrain.data.types import Columns, DataInfo, NumberTarget
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
