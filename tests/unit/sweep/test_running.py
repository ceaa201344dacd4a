import csv
import json
import warnings
from contextlib import nullcontext

import pytest
import tomli_w

from fedtrain import load_run
from fedtrain.audit import audit_bytes
from fedtrain.config import read_toml, to_flat
from fedtrain.errors import ConfigError, PrivacySpecError
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.serverapp.events import RoundDone
from fedtrain.sweep import Grid, sweep
from fedtrain.sweep.ledgers import check_room
from tests.fakes import private_experiment

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app

OVER = "privacy.epsilon=2"


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
    assert [run["how"] for run in answer["runs"]] == ["run"]
    assert answer["incomparable"] == {}
    assert len((first / "record.jsonl").read_text().splitlines()) > asked
    written = (first / "report.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "run 1 of 1: privacy.epsilon=2: complete already" in again.stdout
    assert runs.caution in again.stdout
    assert (first / "report.json").stat().st_mtime_ns == written
    with (folder / "sweep.csv").open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["1_epsilon=2"]
    assert (folder / "sweep.svg").read_text().startswith("<svg xmlns=")

    report, verdict = audit_bytes((first / "report.json").read_bytes())
    assert report.status == "completed"
    assert "one of 1 runs on the same records, number 1 of a sweep" in report.privacy.tuning
    assert verdict.outcome == "simulation"
    (texts,) = (check for check in verdict.checks if check.name == "texts")
    assert "of tuning it says: one of 1 runs on the same records, number 1 of a sweep" in texts.detail
    with pytest.raises(ConfigError, match=r"holds another sweep: privacy.epsilon was 2 and is 2, 8"):
        sweep(grid(config, "privacy.epsilon=2,8"), folder)
    # A report that was put there from another run is none of this sweep.
    other = json.loads((first / "report.json").read_bytes())
    other["config"]["training.learning_rate"] = 9.0
    (first / "report.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        sweep(runs, folder)


def test_nothing_is_run_where_one_run_cannot_keep_its_budget(config, tmp_path):
    with pytest.raises(PrivacySpecError, match=r"noise multiplier 0\.3 spends epsilon"):
        sweep(grid(config, "privacy.noise_multiplier=4.0,0.3"), tmp_path / "sweep")
    assert not list((tmp_path / "sweep").glob("*/config.toml"))


def with_sites(config, tmp_path, **more):
    return Grid.of({**read_toml(config), "federation.sites": str(tmp_path / "sites"), **more}, ["privacy.epsilon=2,3"])


def test_nothing_is_run_where_ledgers_that_are_shared_have_no_room_for_all(config, tmp_path):
    runs = with_sites(config, tmp_path)
    with pytest.raises(ConfigError, match=r"the run with privacy\.epsilon=3 .* beyond the budget of 3 at delta"):
        sweep(runs, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
    plans = [mechanism_of(point.experiment).plan(point.experiment) for point in runs.points]
    (tmp_path / "sites").mkdir()
    for budget, room in ((2.5, False), (50.0, True)):
        (tmp_path / "sites" / "site.toml").write_text(f"[budget]\nepsilon = {budget}\ndelta = 1e-3\n")
        with nullcontext() if room else pytest.raises(ConfigError, match="would bring epsilon to"):
            check_room(runs.points, plans)


def test_ledgers_that_are_not_shared_or_not_surely_charged_are_no_reason_to_refuse(config, tmp_path):
    for more in ({"federation.cohort": 1}, {"federation.sites": ""}):
        runs = with_sites(config, tmp_path, **more)
        check_room(runs.points, [mechanism_of(point.experiment).plan(point.experiment) for point in runs.points])


def test_charges_that_do_not_add_up_are_refused_before_they_are_made(config, tmp_path):
    runs = Grid.of({**read_toml(config), "federation.sites": str(tmp_path)}, ["privacy.noise=seeded,secure"])
    with pytest.raises(ConfigError, match="their charges do not add up"):
        check_room(runs.points, [mechanism_of(point.experiment).plan(point.experiment) for point in runs.points])


def test_a_cohort_that_is_too_small_for_its_strategy_is_told_before_the_first_run(config, tmp_path):
    runs = Grid.of(read_toml(config), ["server.strategy=FedAvg,Bulyan"])
    with pytest.raises(ConfigError, match=r"the run with server\.strategy=Bulyan cannot be run: .* needs 3 results"):
        sweep(runs, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_folder_with_something_else_is_refused(config, tmp_path):
    with pytest.raises(ConfigError, match="holds something else than a sweep"):
        sweep(grid(config), tmp_path)
