"""The Python API: objects of this process train in other processes, and what comes back is what the folder has."""

import contextlib
import doctest
import importlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fedtrain
from fedtrain import (
    ClassTarget,
    ClientDone,
    Columns,
    DataInfo,
    DataStore,
    Experiment,
    RoundDone,
    RoundStarted,
    Split,
    audit_report,
    budget,
    load_run,
    plan,
    simulate,
)
from fedtrain.config import read_toml, to_flat
from fedtrain.data import open_store
from fedtrain.errors import ConfigError, DataError, ReportError, SiteError, StorageError, TaskError, UsageError
from fedtrain.tasks import ClassificationMetrics, Task
from fedtrain.trust import Roster
from tests.fakes import digits_experiment, private_experiment


class Digits(Task):
    """A task that exists in this test alone."""

    def __init__(self, info):
        self.info = info

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, len(self.info.classes)))

    def collate(self, records, generator):
        return {"inputs": records.features.to(torch.float32) / 16, "targets": records.targets}

    def losses(self, outputs, batch):
        return nn.functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(len(self.info.classes))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def store(cache):
    """Records that exist in this process alone."""
    return replace(open_store(digits_experiment(cache).data, seed=0), folder=None)


def of_objects(cache, kind=digits_experiment, **settings):
    """Return an experiment whose section data names nothing, for a task and records that are given."""
    fixed = {"data__max_records": "", "output__screen": "none"}
    return kind(cache, **(fixed | settings))


@pytest.fixture(scope="module")
def private(cache, store, tmp_path_factory):
    """A private run with a task and records of this process."""
    experiment = of_objects(cache, private_experiment)
    return simulate(experiment, out=tmp_path_factory.mktemp("runs") / "private", task=Digits, data=store, workers=2)


def test_a_private_run_of_objects_is_one_like_any_other(private, store):
    report = private.report
    assert (report.status, report.rounds, report.privacy.mode) == ("completed", 3, "record")
    assert report.data.train_records == len(store.train)
    assert (report.config["task.name"], report.config["data.source"]) == ("object:Digits", "object")
    # The clients train; nothing of that happens here.
    assert {event.client for event in report.privacy.events} <= set(range(4))
    assert 0 < report.privacy.epsilon <= 2.0
    assert load_run(private.path).report == report


def test_the_audit_of_a_run_of_objects_holds(private):
    verdict = audit_report(private, roster=private.path / "roster.json")
    assert verdict.outcome == "simulation", verdict.of("fails")
    assert not verdict.holds
    # Keys of the run's own folder are its author's.
    assert not verdict.pinned
    assert audit_report(private, roster=Roster.read(private.path / "roster.json")).pinned
    assert {check.status for check in verdict.checks} <= {"holds", "not proven"}
    unpinned = audit_report(private.path / "report.json", ledgers=(private.path / "clients").glob("*/ledgers/*.jsonl"))
    assert unpinned.outcome == "simulation"
    assert not unpinned.pinned


def test_the_report_of_a_run_of_objects_says_nothing_about_their_content(private, store):
    # A digest of private records would confirm a guess of them, at no epsilon.
    config = json.dumps(private.report.config)
    assert "sha256" not in config
    assert all(value == "" for key, value in private.report.config.items() if key in {"data.path", "data.dataset"})


def test_the_budget_of_a_run_is_that_of_its_clients(private):
    rows = budget(private)
    assert rows == budget(private.path) == budget(private.path / "clients")
    charged = {client.client: client.epsilon for client in private.report.privacy.clients if client.epsilon}
    assert len(rows) == len(charged)
    assert max(row.spent for row in rows) == pytest.approx(private.report.privacy.epsilon)
    assert all(row.left == pytest.approx(2.0 - row.spent) for row in rows)
    with pytest.raises(SiteError, match="holds no ledgers"):
        budget(private.path / "checkpoints")


def test_the_model_has_the_trained_weights_and_leaves_the_generator_alone(private, store):
    before = torch.get_rng_state()
    model = private.model()
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(model, nn.Module)
    assert not model.training
    weights = load_file(private.path / "model-final.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    outputs = model(torch.from_numpy(np.array(store.test.features)).to(torch.float32) / 16)
    right = (outputs.argmax(1).numpy() == store.test.targets).mean()
    assert right == pytest.approx(private.metrics[-1]["accuracy"])
    best = private.model("best").state_dict()
    assert all(
        torch.equal(value, best[name]) for name, value in load_file(private.path / "model-best.safetensors").items()
    )


def test_the_metrics_are_plain_rows(private):
    rows = private.metrics
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert all(isinstance(value, int | float | str) for row in rows for value in row.values())
    assert rows[0]["epsilon"] == 0
    assert rows[-1]["epsilon"] == pytest.approx(private.report.privacy.epsilon)
    assert [row["accuracy"] for row in rows] == [entry.accuracy for entry in private.report.evaluation.history]


def test_a_loaded_run_needs_the_task_for_its_model_only(private):
    run = load_run(private.path)
    assert run.metrics == private.metrics
    with pytest.raises(TaskError, match="was an object of the program that ran it"):
        run.model()
    again = load_run(private.path, task=Digits).model().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in private.model().state_dict().items())


def test_a_model_that_is_not_the_one_of_the_report_is_refused(private, tmp_path):
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    run = replace(private, path=elsewhere)
    with pytest.raises(StorageError, match="cannot read the model"):
        run.model()
    (elsewhere / "model-final.safetensors").write_bytes((private.path / "model-best.safetensors").read_bytes() + b" ")
    with pytest.raises(StorageError, match="is not the model of the report"):
        run.model()
    nothing = run.report.model.model_copy(update={"best": None})
    with pytest.raises(StorageError, match="has saved no best model"):
        replace(run, report=run.report.model_copy(update={"model": nothing})).model("best")


def test_a_named_experiment_trains_to_the_same_as_its_objects(cache, store, tmp_path, monkeypatch):
    """What workers inherit and what they load gives one result, byte for byte."""
    monkeypatch.setenv("FEDTRAIN_CACHE", str(cache))
    named = digits_experiment(cache, output__screen="none", federation__rounds=2)
    one = simulate(named, out=tmp_path / "named")
    objects = of_objects(cache, federation__rounds=2)
    from fedtrain.config.sections import TaskConfig
    from fedtrain.tasks import build_task

    two = simulate(objects, out=tmp_path / "objects", task=lambda info: build_task(TaskConfig(), info), data=store)
    assert two.report.config["task.name"] == "object:<lambda>"
    models = [(run.path / "model-final.safetensors").read_bytes() for run in (one, two)]
    assert models[0] == models[1]
    assert one.metrics == two.metrics


def test_two_classes_of_one_name_are_two_tasks(cache, store, tmp_path):
    def make(bias):
        class Digits(globals()["Digits"]):
            def model(self):
                return nn.Sequential(nn.Flatten(), nn.Linear(64, len(self.info.classes), bias=bias))

        return Digits

    experiment = of_objects(cache, federation__rounds=1)
    runs = [simulate(experiment, out=tmp_path / str(bias), task=make(bias), data=store) for bias in (True, False)]
    assert [run.report.config["task.name"] for run in runs] == ["object:Digits"] * 2
    assert [sorted(run.model().state_dict()) for run in runs] == [["1.bias", "1.weight"], ["1.weight"]]


def test_a_task_with_state_is_used_as_it_is_and_stays_here(cache, store, tmp_path):
    task = Digits(store.info)
    task.encoded = 0
    collate = task.collate

    def counting(records, generator):
        task.encoded += generator is not None
        return collate(records, generator)

    task.collate = counting
    run = simulate(of_objects(cache, federation__rounds=1), out=tmp_path / "run", task=task, data=store)
    assert run.report.config["task.name"] == "object:Digits"
    assert task.encoded == 1  # it was tried once, and trained in copies of this process


def test_an_interrupted_run_is_resumed_to_the_same_result(cache, store, tmp_path):
    experiment = of_objects(cache, private_experiment)
    whole = simulate(experiment, out=tmp_path / "whole", task=Digits, data=store)

    def interrupt(event):
        if isinstance(event, RoundDone) and event.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(experiment, out=tmp_path / "stopped", task=Digits, data=store, on_event=interrupt)
    assert load_run(tmp_path / "stopped").report.status == "interrupted"
    with pytest.raises(ConfigError, match="holds a run already"):
        simulate(experiment, out=tmp_path / "stopped", task=Digits, data=store)
    run = simulate(experiment, out=tmp_path / "stopped", task=Digits, data=store, resume=True)
    assert run.report.evaluation == whole.report.evaluation
    assert run.report.privacy.epsilon == whole.report.privacy.epsilon


def test_an_error_of_on_event_is_raised_when_the_round_is_saved(cache, store, tmp_path):
    def fail(event):
        if isinstance(event, ClientDone):
            raise LookupError("planted")  # noqa: TRY004

    with pytest.raises(LookupError, match="planted"):
        simulate(of_objects(cache), out=tmp_path / "run", task=Digits, data=store, on_event=fail)
    report = load_run(tmp_path / "run").report
    assert (report.status, report.rounds) == ("interrupted", 1)


def test_it_runs_in_a_thread_with_a_running_loop_and_calls_back_there(cache, store, tmp_path):
    import asyncio

    seen, runs = set(), []

    async def main():
        runs.append(
            simulate(
                of_objects(cache, federation__rounds=1),
                out=tmp_path / "run",
                task=Digits,
                data=store,
                on_event=lambda _: seen.add(threading.get_ident()),
            )
        )

    def work():
        seen.add(threading.get_ident())
        asyncio.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert runs[0].report.status == "completed"
    assert len(seen) == 1


def test_what_the_caller_has_set_is_as_before(cache, store, tmp_path):
    level, torch_state, state = logging.getLogger("flwr").level, torch.get_rng_state(), random.getstate()
    numpy_state, handler = np.random.get_state(), signal.getsignal(signal.SIGINT)  # noqa: NPY002
    environment = dict(os.environ)
    simulate(of_objects(cache, federation__rounds=1), out=tmp_path / "run", task=Digits, data=store)
    assert logging.getLogger("flwr").level == level
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == state
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert signal.getsignal(signal.SIGINT) is handler
    assert dict(os.environ) == environment


def test_without_a_folder_the_run_has_one_of_its_own(cache, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = simulate(of_objects(cache, private_experiment, federation__rounds=1, name="mine"), task=Digits, data=store)
    assert run.path.parent.name == "runs"
    assert run.path.name.startswith("mine-")
    assert budget(run)
    with pytest.raises(ConfigError, match=r"output.resume is set and output.directory is not"):
        simulate(of_objects(cache), task=Digits, data=store, resume=True)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("vision", "task is 'vision', and a task, or a class or function"),
        (17, "task is 17, and a task, or a class or function"),
        (lambda: None, r"called with the DataInfo, raised TypeError"),
        (
            lambda _: nn.Linear(1, 1),
            'task.name = "object:<lambda>" returned an object of type Linear without the method',
        ),
        (type("Half", (), {"model": None, "__init__": lambda *_: None}), "object:Half.*without the method"),
    ],
)
def test_what_is_no_task_is_refused_before_anything_is_trained(cache, store, tmp_path, task, message):
    with pytest.raises(TaskError, match=message):
        simulate(of_objects(cache), out=tmp_path / "run", task=task, data=store)
    assert not (tmp_path / "run" / "config.toml").exists()


def test_workers_find_a_task_where_this_process_does_and_in_the_current_folder_last(cache, tmp_path, monkeypatch):
    for place in ("script", "here"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "task_of_two_folders.py").write_text(
            "from pathlib import Path\n"
            "from fedtrain.config import TaskConfig\n"
            "from fedtrain.tasks.supervised import Vision\n"
            "class Own(Vision):\n"
            "    def __init__(self, info):\n"
            "        super().__init__(TaskConfig(), info)\n"
            "    def losses(self, outputs, batch):\n"
            "        Path(__file__).with_name('used').touch()\n"
            "        return super().losses(outputs, batch)\n"
        )
    monkeypatch.syspath_prepend(tmp_path / "script")
    monkeypatch.chdir(tmp_path / "here")
    before = list(sys.path)
    named = {"task__name": "task_of_two_folders:Own", "federation__rounds": 1, "output__screen": "none"}
    simulate(digits_experiment(cache, **named), out=tmp_path / "run", workers=1)
    assert (tmp_path / "script" / "used").exists()
    assert not (tmp_path / "here" / "used").exists()
    assert sys.path == before


def test_a_run_of_objects_cannot_be_repeated_by_name(private, tmp_path):
    experiment = Experiment.load(private.path / "config.toml")
    assert experiment.task.name == "object:Digits"
    assert read_toml(private.path / "config.toml")["data.source"] == "object"
    with pytest.raises(DataError, match="were an object of the program that ran it"):
        simulate(experiment, out=tmp_path / "run")
    with pytest.raises(TaskError, match="was an object of the program that ran it"):
        simulate(Experiment.from_dict({"task.name": "object:Digits"}), out=tmp_path / "run")


def damaged(store, **changes):
    return replace(store, train=replace(store.train, **changes))


TABLE = DataStore(
    info=DataInfo(features=Columns(shape=(2,)), target=ClassTarget(names=("a", "b"))),
    train=Split(features=np.zeros((4, 2), np.float32), targets=np.array([0, 1, 0, 1])),
    test=Split(features=np.zeros((2, 2), np.float32), targets=np.array([0, 1])),
)
NOT_FINITE = np.array([[0, 1], [0, np.nan], [np.inf, 0], [0, 0]], np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, None),
        ([1, 2], "data is a list, and a fedtrain.DataStore is needed"),
        (damaged(TABLE, features=NOT_FINITE), "data.train.features has a value that is not finite, in record 1"),
        (damaged(TABLE, features=np.zeros((4, 2))), "dtype float64; table records of shape .* are float32"),
        (damaged(TABLE, features=np.zeros((3, 2), np.float32)), r"has shape \(3, 2\) .* of shape \(4, 2\)"),
        (damaged(TABLE, targets=np.array([0, 1, 0, 2])), "has values from 0 to 2; the 2 classes are 0 to 1"),
        (damaged(TABLE, targets=np.array([0, 1, 0, -1])), "has values from -1 to 1"),
        (damaged(TABLE, targets=np.array([0, 1, 0, 1], np.int32)), "targets has shape .* dtype int32; it is int64"),
        (damaged(TABLE, features=np.zeros((0, 2), np.float32), targets=np.zeros(0, np.int64)), "has no records"),
        (damaged(TABLE, owners=np.zeros(3, np.int64)), r"owners has shape \(3,\)"),
    ],
)
def test_records_that_are_not_as_their_facts_say_are_refused(tmp_path, data, message):
    if message is None:
        data, message = (
            replace(TABLE, test=replace(TABLE.test, targets=np.array([0, 7]))),
            "data.test.targets has values",
        )
    with pytest.raises(DataError, match=message):
        simulate(Experiment.from_dict({"federation": {"clients": 2, "cohort": 2}}), out=tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_fields_that_a_source_would_read_are_refused_beside_records(tmp_path):
    with pytest.raises(DataError, match=r"data.max_records is set, and the records are an object"):
        simulate(Experiment.from_dict({"data.max_records": 3}), out=tmp_path / "run", data=TABLE)


def test_data_sets_give_what_a_store_of_the_same_records_gives(cache, store, tmp_path):
    pairs = [list(zip(split.features, split.targets, strict=True)) for split in (store.train, store.test)]
    runs = [
        simulate(of_objects(cache, federation__rounds=1), out=tmp_path / name, task=Digits, data=data)
        for name, data in (("store", store), ("sets", tuple(pairs)))
    ]
    assert runs[0].report.model.final.sha256 == runs[1].report.model.final.sha256


def test_records_of_a_store_that_was_changed_are_split_anew(cache, tmp_path):
    """A split that is cached beside the decoded records is not one of other records."""
    opened = open_store(digits_experiment(cache).data, seed=0)
    few = replace(opened, train=Split(features=opened.train.features[:40], targets=opened.train.targets[:40]))
    assert few.folder is not None
    run = simulate(of_objects(cache, federation__rounds=1), out=tmp_path / "run", task=Digits, data=few)
    assert run.report.data.train_records == 40
    assert sum(map(sum, run.report.data.histogram)) == 40


def test_an_experiment_is_read_with_overrides_and_errors_as_on_the_command_line(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n[federation]\nrounds = 7\n[training]\nlocal_steps = 3\n')
    experiment = Experiment.load(
        file, {"federation.clients": 20, "training": {"local_steps": None, "local_epochs": 2.0}}
    )
    assert (experiment.name, experiment.federation.rounds, experiment.federation.clients) == ("mine", 7, 20)
    assert (experiment.training.local_steps, experiment.training.local_epochs) == (None, 2.0)
    assert Experiment.load(str(file)).training.local_steps == 3
    with pytest.raises(ConfigError, match=r"unknown key federation.round .*; did you mean federation.rounds"):
        Experiment.load(file, {"federation.round": 3})
    with pytest.raises(ConfigError, match=r"federation\.rounds"):
        Experiment.from_dict({"federation": {"rounds": 0}})
    with pytest.raises(ConfigError, match="it is one value, without brackets"):
        Experiment.from_dict({"federation": {"rounds": [1]}})
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        Experiment.load(tmp_path / "none.toml")


def test_a_plan_is_what_the_command_line_shows(cache, tmp_path):
    from typer.testing import CliRunner

    from fedtrain.cli.app import app

    experiment = private_experiment(cache)
    summary = plan(experiment)
    file = tmp_path / "experiment.toml"
    flat = to_flat(experiment).items()
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in flat if not key.startswith("data.")))
    shown = CliRunner().invoke(app, ["privacy", "plan", "-c", str(file)])
    assert shown.output == f"{summary}\n"
    assert summary.epsilon <= summary.budget == 2.0
    assert summary.delta == 1e-3
    assert summary.as_data()["noise_multiplier"] == summary.noise_multiplier == summary.plan.noise_multiplier
    assert [point.rounds for point in summary.rounds] == [1, 2, 3, 6]
    with pytest.raises(UsageError, match="guarantees nothing"):
        plan(digits_experiment(cache))


def test_a_folder_without_a_report_is_refused(tmp_path):
    for read in (load_run, audit_report):
        with pytest.raises(ReportError, match="cannot read"):
            read(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["fedtrain.api", "fedtrain.config.experiment"])
def test_the_examples_in_docstrings_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(module), raise_on_error=False)
    assert results.attempted > 0
    assert results.failed == 0


def test_importing_the_package_imports_nothing_that_is_slow():
    code = "import sys, fedtrain; print([m for m in ('torch', 'flwr', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_name_of_the_package_is_there_and_is_what_type_checkers_see():
    for name in fedtrain.__all__:
        assert getattr(fedtrain, name) is not None
    assert set(fedtrain.__all__) <= set(dir(fedtrain))
    assert {name for names in fedtrain._HOMES.values() for name in names} == set(fedtrain.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="module 'fedtrain' has no attribute 'nonsense'"):
        fedtrain.nonsense  # noqa: B018
    assert isinstance(fedtrain.RoundStarted(round=1, clients=2), RoundStarted)


with contextlib.suppress(ImportError):
    import pandas as pd

    def test_the_metrics_make_a_table(private):
        table = pd.DataFrame(private.metrics)
        assert list(table["round"]) == [0, 1, 2, 3]
        assert table["accuracy"].dtype == float
