import csv
import json
import warnings

import pytest
import tomli_w

from fedtrain import load_run
from fedtrain.audit import audit_bytes
from fedtrain.config import read_toml, to_flat
from fedtrain.errors import ConfigError, PrivacySpecError
from fedtrain.serverapp.events import RoundDone
from fedtrain.sweep import Grid, sweep
from tests.fakes import private_experiment

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app

OVER = "privacy.epsilon=2,4"


@pytest.fixture
def config(tmp_path):
    """Return the file of a small experiment."""
    experiment = private_experiment(tmp_path / "cache", federation__clients=2, federation__rounds=2)
    file = tmp_path / "my.toml"
    file.write_text(tomli_w.dumps({key: value for key, value in to_flat(experiment).items() if value != ""}))
    return file


def grid(config, over=OVER):
    return Grid.of(read_toml(config), [over])


def ran(grid, folder, **told):
    started = []
    ended = sweep(grid, folder, screen="none", workers=1, on_start=lambda point: started.append(point.number), **told)
    return started, [run.how for run in ended]


@pytest.mark.slow
def test_a_sweep_goes_on_after_an_interrupt_and_runs_nothing_twice(config, tmp_path):
    runs, folder = grid(config), tmp_path / "sweep"

    def interrupt(event):
        if isinstance(event, RoundDone) and event.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(runs, folder, screen="none", workers=1, on_event=interrupt)
    first = folder / runs.points[0].folder
    assert load_run(first).report.status == "interrupted"
    asked = len((first / "record.jsonl").read_text().splitlines())

    command = ["sweep", str(config), "--over", OVER, "--out", str(folder), "--workers", "1"]
    went_on = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert went_on.exit_code == 0
    answer = json.loads(went_on.stdout)
    assert [run["how"] for run in answer["runs"]] == ["run", "run"]
    assert answer["incomparable"] == {}
    assert len((first / "record.jsonl").read_text().splitlines()) > asked
    written = (first / "report.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "run 2 of 2: privacy.epsilon=4: complete already" in again.stdout
    assert runs.caution in again.stdout
    assert (first / "report.json").stat().st_mtime_ns == written
    with (folder / "sweep.csv").open(newline="") as file:
        assert [row["privacy.epsilon"] for row in csv.DictReader(file)] == ["2.0", "4.0"]
    assert (folder / "sweep.svg").read_text().startswith("<svg xmlns=")

    for number, point in enumerate(runs.points, start=1):
        report, verdict = audit_bytes((folder / point.folder / "report.json").read_bytes())
        assert report.status == "completed"
        assert f"one of 2 runs on the same records, number {number} of a sweep" in report.privacy.tuning
        assert verdict.outcome == "simulation"
    with pytest.raises(ConfigError, match=r"holds another sweep: privacy.epsilon was 2, 4 and is 2, 4, 8"):
        sweep(grid(config, "privacy.epsilon=2,4,8"), folder)
    # A report that was put there from another run is none of this sweep.
    (first / "report.json").write_bytes((folder / runs.points[1].folder / "report.json").read_bytes())
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        sweep(runs, folder)


def test_nothing_is_run_where_one_run_cannot_keep_its_budget(config, tmp_path):
    with pytest.raises(PrivacySpecError, match=r"noise multiplier 0\.3 spends epsilon"):
        sweep(grid(config, "privacy.noise_multiplier=4.0,0.3"), tmp_path / "sweep")
    assert not list((tmp_path / "sweep").glob("*/config.toml"))


def test_a_folder_with_something_else_is_refused(config, tmp_path):
    with pytest.raises(ConfigError, match="holds something else than a sweep"):
        sweep(grid(config), tmp_path)
