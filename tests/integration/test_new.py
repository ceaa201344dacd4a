"""From an empty folder to a prediction for a new record, as a researcher goes."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fedtrain.scaffold import KINDS

PATIENTS = """ward,sugar,age,pressure,smoker,admitted
heart,170,85,180,yes,2025-03-01
dreams,60,25,NA,no,2024-12-31
"""
NEW = {
    "image": ("new.npy", lambda file: np.save(file, np.full((2, 8, 8), 100, np.uint8))),
    "custom": ("new.npy", lambda file: np.save(file, np.full((2, 8, 8), 100, np.uint8))),
    "text": (
        "new.csv",
        lambda file: file.write_text("message\nHi! My invoice is wrong.\nThe pharmacy has no tablets.\n"),
    ),
    "audio": ("new.npy", lambda file: np.save(file, np.zeros((2, 2000), np.float32))),
    "table": ("new.csv", lambda file: file.write_text(PATIENTS)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_runs_and_its_model_predicts_without_the_training_data(cli, kind, tmp_path):
    app = tmp_path / "my-app"
    made = cli.here("new", app, "--task", kind)
    assert made.status == 0
    assert str(app / "experiment.toml") in made.stdout
    assert cli.here("config", "check", "experiment.toml", cwd=app).stdout == "experiment.toml: ok\n"
    rounds = ("--set", "federation.rounds=4")
    ran = cli.run("--config", "experiment.toml", *rounds, out=app / "runs" / "first", cwd=app)
    assert ran.status == 0, ran.stderr
    assert ran.report["status"] == "completed"
    final = ran.report["evaluation"]["final"]
    assert final["accuracy"] > ran.report["evaluation"]["baseline"]["accuracy"]
    assert "warnings" not in ran.report

    for data in (*app.glob("*.parquet"), *app.glob("patients.csv")):
        data.unlink()
    shutil.rmtree(app / "runs" / "first" / "clients")
    name, write = NEW[kind]
    write(app / name)
    predicted = cli.here("predict", "runs/first", "--data", name, cwd=app)
    assert predicted.status == 0, predicted.stderr
    rows = list(csv.DictReader(io.StringIO(predicted.stdout)))
    assert [row["record"] for row in rows] == ["0", "1"]
    if kind != "custom":  # what a task of one's own returns need not be logits
        chances = [[float(value) for key, value in row.items() if key.startswith("p(")] for row in rows]
        assert all(sum(each) == pytest.approx(1) for each in chances)
    if kind == "text":
        assert [row["predicted"] for row in rows] == ["bill", "prescription"]
    if kind == "table":
        assert [row["predicted"] for row in rows] == ["yes", "no"]
        assert cli.here("predict", "runs/first", "--data", name, "--out", "out.jsonl", cwd=app).stdout == ""
        lines = (app / "out.jsonl").read_text().splitlines()
        assert json.loads(lines[0])["predicted"] == "yes"
        (app / name).write_text(PATIENTS.replace("pressure", "pulse"))
        refused = cli.here("predict", "runs/first", "--data", name, cwd=app)
        assert (refused.status, refused.stdout) == (2, "")
        assert "has no column 'pressure', which the model takes" in refused.stderr
        inputs = json.loads((app / "runs" / "first" / "inputs.json").read_text())
        assert inputs["columns"][:4] == ["age", "pressure", "pressure missing", "sugar"]
        assert inputs["names"] == ["no", "yes"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_test_that_is_made_passes(cli, kind, tmp_path):
    app = tmp_path / "my-app"
    assert cli.here("new", app, "--task", kind).status == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    done = subprocess.run(command, check=False, cwd=app, env=cli.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
