"""Others keep the numbers of a run, and none of them can end it."""

import json
import os
import sys
from contextlib import contextmanager

import pytest

from fedtrain.errors import ConfigError, UsageError
from fedtrain.serverapp import trackers
from fedtrain.serverapp.events import RoundDone
from fedtrain.serverapp.run import run_experiment
from fedtrain.serverapp.trackers import (
    IDS,
    _configuration,
    _experiment_of,
    _Mlflow,
    check_trackers,
    measured,
    open_trackers,
)
from fedtrain.tasks import ClassificationMetrics
from tests.fakes import digits_experiment, federation, private_experiment
from tests.ports import free_port


@pytest.fixture
def make(cache, tmp_path):
    """Give a function that makes experiments which write to a folder of this test."""

    def make(kind=digits_experiment, **settings):
        fixed = {"output__directory": str(tmp_path / "run"), "output__screen": "none", "task__model": "linear"}
        return kind(cache, **(fixed | settings))

    return make


def rounds(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["round"] > 0]


def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_event_files_have_each_round_once_also_where_a_run_is_resumed(make, tmp_path):
    experiment = make(private_experiment, output__tensorboard=True, federation__rounds=3)

    def stop(message):
        if message.content["config"]["server-round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(experiment, stop), experiment)
    run_experiment(
        federation(experiment),
        make(private_experiment, output__tensorboard=True, federation__rounds=3, output__resume=True),
    )
    for name, kept in {"loss": "loss", "epsilon": "simulated_epsilon"}.items():
        expected = [(line["round"], pytest.approx(line[name], rel=1e-6)) for line in rounds(tmp_path / "run")]
        assert scalars(tmp_path / "run", kept) == expected


def test_nothing_is_kept_unless_asked_for(make, tmp_path):
    with open_trackers(tmp_path, make(), after=0, tell=print) as found:
        assert found == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("tensorboard", True), ("mlflow", "sqlite:///m.db"), ("wandb", "a project")]
)
def test_a_missing_package_is_told_before_anything_is_prepared(make, monkeypatch, name, value, tmp_path):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    experiment = make(**{f"output__{name}": value})
    with pytest.raises(ConfigError, match=rf"fedtrain\[{name}\]"):
        run_experiment(federation(experiment), experiment)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["mlruns", "file:///tmp/x", "/tmp/x", "ftp://example.org"])
def test_an_address_that_is_none_is_refused(make, address):
    with pytest.raises(UsageError, match="is no address of a store of MLflow"):
        check_trackers(make(output__mlflow=address))


def test_the_address_of_a_store_may_name_a_driver(make):
    check_trackers(make(output__mlflow="postgresql+psycopg2://measurements@db.example.org/mlflow"))


def test_what_the_operator_states_of_itself_is_not_told(make):
    told = _configuration(make(report__operator="Ward 7", report__contact="ward@example.org", output__wandb="wards"))
    assert told["privacy.mode"] == "none"
    assert not {key for key in told if key.startswith(("report.", "output."))}


class Broken:
    """Fails where it is told to."""

    def __init__(self, where):
        self.where, self.logged = where, []

    def log(self, values, step):
        if self.where == "log" and step == 2:
            raise OSError("the disk is full\nand more")
        self.logged.append(step)

    def end(self, status):
        if self.where == "end":
            raise OSError("the server is gone")
        self.logged.append(status)


@pytest.mark.parametrize(
    ("where", "kept"),
    [("open", []), ("log", [1]), ("end", [1, 2, 3]), ("close", [1, 2, 3, "completed"]), ("", [1, 2, 3, "completed"])],
)
def test_a_tracker_that_fails_is_told_once_and_ends_nothing(make, monkeypatch, where, kept):
    broken = Broken(where)

    @contextmanager
    def opened(folder, after):
        if where == "open":
            raise OSError("no such server")
        yield broken
        if where == "close":
            raise OSError("it does not close")

    monkeypatch.setattr(trackers, "_open_tensorboard", opened)
    experiment = make(output__tensorboard=True, federation__rounds=3)
    told = []
    run_experiment(federation(experiment), experiment, on_event=told.append)
    assert broken.logged == kept
    said = [event.text for event in told if "output.tensorboard fails" in getattr(event, "text", "")]
    assert len(said) == (where != "")
    assert all("the run goes on without it: OSError" in text and "\n" not in text for text in said)
    assert [event.round for event in told if isinstance(event, RoundDone)] == [1, 2, 3]


def test_what_is_kept_are_numbers_of_the_whole_run_alone(make):
    told = []
    experiment = make(private_experiment, federation__rounds=1)
    run_experiment(federation(experiment), experiment, on_event=told.append)
    (done,) = (event for event in told if isinstance(event, RoundDone))
    values = measured(done.evaluation, done.epsilon, noise="secure")
    assert values["epsilon"] == max(done.spent.values())
    described = {metric.name for metric in ClassificationMetrics(10).described}
    assert values.keys() == {*described, "records", "epsilon"}
    # The epsilon of a simulation protects nobody, and no chart takes it for one that does.
    simulated = measured(done.evaluation, done.epsilon, noise="seeded")
    assert simulated == {**{name: values[name] for name in (*described, "records")}, "simulated_epsilon": done.epsilon}


def test_mlflow_gives_a_server_up_soon_unless_the_environment_says_otherwise(monkeypatch):
    names = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    monkeypatch.delenv(names[0], raising=False)
    monkeypatch.setenv(names[1], "77")
    seen = []

    class Store:
        def log_batch(self, run, metrics):
            seen.extend(os.environ[name] for name in names)

    _Mlflow(Store(), "run").log({}, 1)
    assert seen == ["2", "77"]
    assert names[0] not in os.environ


@pytest.mark.slow  # it tries three times, over six seconds
def test_a_server_of_mlflow_that_is_not_there_is_told_and_the_run_begins(make, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    told = []
    with open_trackers(
        tmp_path, make(output__mlflow=f"http://127.0.0.1:{free_port()}"), after=0, tell=told.append
    ) as found:
        assert found == ()
    (text,) = told
    assert "output.mlflow fails, and the run goes on without it" in text


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # of SQLAlchemy, about MLflow
@pytest.mark.slow  # MLflow makes a database, and Weights & Biases starts a service
def test_mlflow_and_weights_and_biases_know_the_run_by_one_id_each(make, tmp_path):
    from mlflow import MlflowClient

    ends = sys.exit, sys.excepthook
    store = f"sqlite:///{tmp_path / 'm.db'}"
    settings = {"output__mlflow": store, "output__wandb": "wards", "federation__rounds": 2}
    experiment = make(private_experiment, **settings)

    def stop(message):
        if message.content["config"]["server-round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(experiment, stop), experiment)
    client = MlflowClient(tracking_uri=store)
    ids = json.loads((tmp_path / "run" / IDS).read_text())
    assert client.get_run(ids["mlflow"]).info.status == "KILLED"
    run_experiment(federation(experiment), make(private_experiment, **settings, output__resume=True))
    assert json.loads((tmp_path / "run" / IDS).read_text()) == ids
    run = client.get_run(ids["mlflow"])
    assert run.info.status == "FINISHED"
    assert run.data.params["privacy.epsilon"] == str(experiment.privacy.epsilon)
    assert not any(key.startswith("output.") for key in run.data.params)
    for name, tracked in {"accuracy": "accuracy", "loss": "loss", "epsilon": "simulated_epsilon"}.items():
        kept = [(point.step, point.value) for point in client.get_metric_history(ids["mlflow"], tracked)]
        assert kept == [(line["round"], line[name]) for line in rounds(tmp_path / "run")]
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{ids['wandb']}/run-{ids['wandb']}.wandb"))
    assert len(files) == 2
    assert all(b"accuracy" in file.read_bytes() for file in files)
    assert not list((tmp_path / "run" / "wandb").rglob("requirements.txt"))
    assert (sys.exit, sys.excepthook) == ends
    _Mlflow(client, ids["mlflow"]).log({"recall@5": 0.5, "top-1 %": 0.25}, 1)
    assert {"recall_5", "top-1 _"} <= client.get_run(ids["mlflow"]).data.metrics.keys()

    class Late(MlflowClient):
        """Sees the experiment once another run has made it."""

        looked = False

        def get_experiment_by_name(self, name):
            if not self.looked:
                self.looked = True
                return None
            return super().get_experiment_by_name(name)

    assert _experiment_of(Late(tracking_uri=store), experiment.name) == run.info.experiment_id
