import json
import logging
from dataclasses import FrozenInstanceError
from hashlib import sha256

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, MetricRecord, RecordDict
from flwr.supercore.run import RunNotRunningException
from safetensors.numpy import load_file

from fedtrain import files
from fedtrain.config import to_flat
from fedtrain.errors import ConfigError, DataError, StorageError, TooFewResultsError
from fedtrain.files import read_lines
from fedtrain.report import Report
from fedtrain.report.evaluation import slim
from fedtrain.serverapp.events import ClientDone, Notice, RoundDone, RoundStarted, RunEnded, RunStarted
from fedtrain.serverapp.run import RunInProgress, run_experiment
from fedtrain.status import Follower
from fedtrain.tasks import weights as of_weights
from server.app import app as server
from tests.fakes import NODES, RUN_ID, digits_experiment, federation, private_experiment


@pytest.fixture
def make(cache, tmp_path):
    """Give a function that makes experiments which write to a folder of this test."""

    def make(folder="run", kind=digits_experiment, **settings):
        fixed = {"output__directory": str(tmp_path / folder), "output__screen": "plain"}
        return kind(cache, **(fixed | settings))

    return make


def report_of(folder):
    return Report.model_validate_json((folder / "report.json").read_text())


def spending(report):
    """Return what a report claims, without what names this run and these keys."""
    privacy = report.privacy
    return (
        privacy.epsilon,
        privacy.curve,
        [(event.client, event.round, event.steps, event.noise_multiplier) for event in privacy.events],
        [(client.client, client.epsilon, client.rounds, client.entries) for client in privacy.clients],
    )


def stop_in(number, error):
    def before(message):
        if message.content["config"]["server-round"] == number:
            raise error

    return before


class Stopped(BaseException):
    """Ends the process, as a kill does: nothing more is written."""


def test_a_run_leaves_everything(make, tmp_path, capsys):
    experiment = make(server__evaluate_every=2)
    run_experiment(federation(experiment), experiment)
    folder = tmp_path / "run"
    report = report_of(folder)
    assert (report.status, report.rounds, report.reason) == ("completed", 3, None)
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["round"] for line in lines] == [0, 2, 3]
    assert [line["accuracy"] for line in lines] == [entry.accuracy for entry in report.evaluation.history]
    assert all("epsilon" not in line for line in lines)
    assert (folder / report.model.final.file).is_file()
    best = report.evaluation.best.round
    assert best == max(lines, key=lambda line: line["accuracy"])["round"]
    assert (folder / "report.html").read_text().startswith("<!")
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "config.toml",
        "events.jsonl",
        "identity.json",
        "inputs.json",
        "keys",
        "metrics.jsonl",
        "model-best.safetensors",
        "model-final.safetensors",
        "report.html",
        "report.json",
        "starts.json",
    ]
    shown = capsys.readouterr().out
    assert "experiment: 3 rounds, 2 of 4 clients a round, 400 training and 359 test records" in shown
    assert "no privacy: no guarantee is given" in shown
    assert "round 3/3  clients 2/2  accuracy" in shown
    assert f"report: {folder / 'report.html'}" in shown


def test_a_private_run_says_what_it_promises(make, tmp_path, capsys):
    experiment = make(kind=private_experiment)
    run_experiment(federation(experiment), experiment)
    report = report_of(tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[0]["epsilon"] == 0
    assert lines[1]["epsilon"] > 0
    assert lines[3]["epsilon"] >= report.privacy.epsilon
    assert 0 < report.privacy.epsilon <= 2.0
    assert all(len(entry.completed) == 2 for entry in report.round_log)
    shown = capsys.readouterr().out
    assert "record privacy: epsilon <= 2 at delta 0.001 for each client" in shown
    assert "noise from a seed, for simulation only" in shown


@pytest.mark.parametrize("kind", [digits_experiment, private_experiment])
def test_a_run_whose_weights_are_all_forgotten_between_their_uses_reaches_the_same(make, tmp_path, kind, monkeypatch):
    folders = {"kept": make("kept", kind=kind), "forgotten": make("forgotten", kind=kind)}
    run_experiment(federation(folders["kept"]), folders["kept"])
    monkeypatch.setattr(of_weights, "LARGE", 0)
    run_experiment(federation(folders["forgotten"]), folders["forgotten"])
    for name in ("model-final.safetensors", "model-best.safetensors", "metrics.jsonl"):
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "forgotten" / name).read_bytes()


@pytest.mark.parametrize("kind", [digits_experiment, private_experiment])
def test_a_run_that_was_killed_goes_on_to_the_same_result(make, tmp_path, kind):
    whole = make("whole", kind=kind)
    run_experiment(federation(whole), whole)

    first = make("killed", kind=kind)
    with pytest.raises(Stopped):
        run_experiment(federation(first, stop_in(3, Stopped())), first)
    folder = tmp_path / "killed"
    assert not (folder / "report.json").exists()
    # What a kill between the checkpoint and what follows it leaves out, or leaves behind.
    (folder / "metrics.jsonl").write_text('{"round":0}\n{"round":7}\n{"rou')
    second = make("killed", kind=kind, output__resume=True)
    run_experiment(federation(second), second)

    one, two = report_of(tmp_path / "whole"), report_of(folder)
    for name in ("model-final.safetensors", "model-best.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert one.evaluation == two.evaluation
    assert spending(one) == spending(two)
    assert read_lines(folder / "metrics.jsonl") == read_lines(tmp_path / "whole" / "metrics.jsonl")


@pytest.mark.slow
def test_a_kill_at_any_write_loses_nothing_that_was_reached(make, tmp_path, monkeypatch):
    small = {"federation__rounds": 2, "data__max_records": 60, "training__learning_rate": 0.5}
    whole = make("whole", **small)
    run_experiment(federation(whole), whole)
    real, countdown = files._write_durably, [0]

    def killing(descriptor, data):
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Stopped
        real(descriptor, data)

    monkeypatch.setattr(files, "_write_durably", killing)
    kills = 0
    while True:
        name = f"killed-{kills}"
        countdown[0] = kills + 1
        try:
            first = make(name, **small)
            run_experiment(federation(first), first)
            break
        except Stopped:
            kills += 1
        countdown[0] = -1
        again = make(name, **small, output__resume=True)
        run_experiment(federation(again), again)
        for file in ("model-final.safetensors", "model-best.safetensors", "metrics.jsonl"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
        assert report_of(tmp_path / name).evaluation == report_of(tmp_path / "whole").evaluation
    # The configuration, two checkpoints, three measurements, models and reports.
    assert kills >= 10


# The last two are what Flower raises in a ServerApp whose run the SuperLink stops.
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1), RunNotRunningException()], ids=repr)
def test_an_interrupted_run_leaves_a_report_and_says_how_to_go_on(make, tmp_path, capsys, stop):
    experiment = make()
    with pytest.raises(type(stop)):
        run_experiment(federation(experiment, stop_in(2, stop)), experiment)
    report = report_of(tmp_path / "run")
    assert (report.status, report.rounds) == ("interrupted", 1)
    shown = capsys.readouterr().out
    assert "stopped after round 1; completed rounds are saved. To go on, run the same command with --out" in shown
    with pytest.raises(ConfigError, match="holds a run already"):
        run_experiment(federation(experiment), experiment)


def test_a_private_round_that_was_interrupted_is_charged(make, tmp_path):
    experiment = make(kind=private_experiment)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(experiment, stop_in(1, KeyboardInterrupt())), experiment)
    report = report_of(tmp_path / "run")
    assert (report.rounds, len(report.privacy.events)) == (0, 2)
    assert report.privacy.epsilon > 0


def test_a_round_with_too_few_results_fails_the_run_and_the_report_says_why(make, tmp_path):
    experiment = make()
    grid = federation(experiment, stop_in(2, ValueError("no disk")))
    answer = grid._answer

    def failing(message):
        try:
            return answer(message)
        except ValueError as error:
            return Error(1, repr(error))

    grid._answer = failing
    with pytest.raises(TooFewResultsError):
        run_experiment(grid, experiment)
    report = report_of(tmp_path / "run")
    assert (report.status, report.rounds) == ("failed", 1)
    assert "round 2 has 0 usable results" in report.reason
    assert "no disk" in report.reason


def test_whatever_goes_wrong_leaves_a_report(make, tmp_path):
    experiment = make()
    with pytest.raises(MemoryError):
        run_experiment(federation(experiment, stop_in(2, MemoryError("no room"))), experiment)
    report = report_of(tmp_path / "run")
    assert (report.status, report.rounds, report.reason) == ("failed", 1, "MemoryError: no room")


def test_nodes_that_are_not_the_clients_fail_before_anything_is_trained(make, tmp_path):
    experiment = make()
    grid = federation(experiment)
    grid.nodes = grid.nodes[:3]
    with pytest.raises(ConfigError, match="3 nodes answered"):
        run_experiment(grid, experiment)
    assert {message.metadata.message_type for message in grid.sent} == {"query"}
    assert not (tmp_path / "run").exists()


def test_input_that_cannot_be_used_leaves_no_folder(make, tmp_path):
    with pytest.raises(DataError, match="cannot share"):
        run_experiment(None, make(federation__clients=1000))
    assert not (tmp_path / "run").exists()


def test_the_app_runs_what_the_run_config_says_and_keeps_flower_quiet(make, tmp_path, capfd):
    flower = logging.getLogger("flwr")
    level = flower.level
    experiment = make(output__tensorboard=True, output__screen="none", federation__rounds=1)
    try:
        server(federation(experiment), Context(RUN_ID, 1, {}, RecordDict(), to_flat(experiment)))
    finally:
        flower.setLevel(level)
    assert report_of(tmp_path / "run").status == "completed"
    assert [path.name.split(".")[0] for path in (tmp_path / "run" / "tensorboard").iterdir()] == ["events"]
    assert capfd.readouterr().out == ""


def test_the_first_error_is_the_one_that_is_told(make, monkeypatch, caplog):
    experiment = make()

    def full(self, *_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(RunInProgress, "_report", full)
    with (
        caplog.at_level(logging.WARNING, logger="fedtrain.serverapp.run"),
        pytest.raises(ZeroDivisionError, match="the cause"),
    ):
        run_experiment(federation(experiment, stop_in(1, ZeroDivisionError("the cause"))), experiment)
    assert "the report could not be written: the disk is full" in caplog.text


def test_a_run_that_is_complete_can_be_resumed_without_training(make, tmp_path):
    experiment = make()
    run_experiment(federation(experiment), experiment)
    before = load_file(tmp_path / "run" / "model-final.safetensors")
    grid = federation(experiment)
    run_experiment(grid, make(output__resume=True))
    assert {message.metadata.message_type for message in grid.sent} == {"query"}
    after = load_file(tmp_path / "run" / "model-final.safetensors")
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["status"] == "completed"


def test_the_events_of_a_run_tell_all_of_it_in_order(make, tmp_path):
    experiment, seen = make(kind=private_experiment, output__screen="none", server__evaluate_every=2), []
    run_experiment(federation(experiment), experiment, on_event=seen.append)
    a_round = ["RoundStarted", "ClientDone", "ClientDone", "RoundDone"]
    assert [type(event).__name__ for event in seen] == ["RunStarted", *a_round * 3, "RunEnded"]
    report = report_of(tmp_path / "run")
    start, end = seen[0], seen[-1]
    assert (start.rounds, start.done, start.path) == (3, 0, tmp_path / "run")
    assert "3 rounds, 2 of 4 clients a round" in start.introduction
    done = [event for event in seen if isinstance(event, RoundDone)]
    assert [event.entry for event in done] == list(report.round_log)
    told = [event.evaluation for event in done]
    assert told[-1] == report.evaluation.final
    assert [each and slim(each) for each in told] == [None, *map(slim, report.evaluation.history[1:])]
    assert {event.baseline for event in done} == {report.evaluation.baseline["accuracy"]}
    assert [event.epsilon for event in done] == sorted(event.epsilon for event in done)
    assert done[-1].epsilon >= report.privacy.epsilon > 0
    assert [(e.round, e.answered, e.clients) for e in seen if isinstance(e, ClientDone)][:2] == [(1, 1, 2), (1, 2, 2)]
    assert (end.status, end.reason, end.round, end.report) == ("completed", None, 3, report)
    with pytest.raises(FrozenInstanceError):
        end.status = "failed"


@pytest.mark.parametrize("kind", [RunStarted, RoundStarted, ClientDone, RoundDone])
def test_an_error_of_the_listener_ends_the_run_when_its_round_is_saved(make, tmp_path, kind):
    experiment, seen = make(kind=private_experiment, output__screen="none"), []

    def fail(event):
        seen.append(event)
        if isinstance(event, kind):
            raise LookupError("no such window")  # noqa: TRY004

    with pytest.raises(LookupError, match="no such window"):
        run_experiment(federation(experiment), experiment, on_event=fail)
    assert isinstance(seen[-1], kind)  # it is not called again
    rounds = 0 if kind is RunStarted else 1
    report = report_of(tmp_path / "run")
    assert (report.status, report.rounds) == ("interrupted", rounds)
    assert report.reason == "stopped by on_event: LookupError: no such window"
    ended = Follower(tmp_path / "run" / "events.jsonl").status()
    assert ended.reason == "LookupError; the report of the run says more"
    # Nothing was charged beyond the rounds that are saved.
    assert {event.round for event in report.privacy.events} == set(range(1, rounds + 1))
    again = make(kind=private_experiment, output__screen="none", output__resume=True)
    run_experiment(federation(again), again)
    assert report_of(tmp_path / "run").status == "completed"


def test_a_run_can_be_watched_from_its_folder_and_when_it_goes_on(make, tmp_path):
    experiment, seen = make(kind=private_experiment, output__screen="none", server__evaluate_every=2), []
    follower = Follower(tmp_path / "run" / "events.jsonl")

    def look(event):
        seen.append(follower.status())
        if isinstance(event, RoundStarted) and event.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(experiment), experiment, on_event=look)
    assert seen[0] is None  # the run has not begun
    first, asked, second = seen[1], seen[2], seen[4]
    assert (first.state, first.round, first.done, len(first.asked), first.answers) == ("running", 1, 0, 2, 0)
    assert (asked.answers, len(asked.waiting)) == (1, 1)
    assert (second.done, second.asked, second.value) == (1, None, None)
    assert (follower.status().state, follower.status().done) == ("interrupted", 2)
    again = make(kind=private_experiment, output__resume=True, server__evaluate_every=2)
    run_experiment(federation(again), again)
    status, report = follower.status(), report_of(tmp_path / "run")
    assert (status.state, status.done, status.begun.done) == ("completed", 3, 2)
    assert status.value == report.evaluation.final.accuracy
    assert status.begun.baseline == report.evaluation.baseline["accuracy"]
    assert (status.begun.epsilon, status.begun.delta, status.begun.noise) == (2.0, 1e-3, "seeded")
    assert status.epsilon >= report.privacy.epsilon
    assert status.spent[0] >= next(client.epsilon for client in report.privacy.clients if client.client == 0)
    assert status.begun.budgets.keys() == set(range(4))


def test_reasons_that_may_quote_a_record_are_cut_from_the_file(make, tmp_path):
    experiment, failed = make(federation__rounds=1), []
    grid = federation(experiment)
    real = grid._answer

    def answer(message):
        if message.metadata.message_type == "train" and not failed:
            failed.append(message.metadata.dst_node_id)
            return Error(1, "Traceback:\n  x\nValueError: could not convert string to float: 'Jane Doe'")
        return real(message)

    grid._answer = answer
    run_experiment(grid, experiment)
    assert "Jane" in (tmp_path / "run" / "report.json").read_text()
    assert "Jane" not in (tmp_path / "run" / "events.jsonl").read_text()
    (problem,) = Follower(tmp_path / "run" / "events.jsonl").status().problems
    assert (problem.client, problem.reason) == (NODES[failed[0]], "ValueError; the report of the run says more")
    failed.clear()
    strict = make("strict", federation__rounds=1, federation__min_results=2)
    with pytest.raises(TooFewResultsError):
        run_experiment(grid, strict)
    assert "Jane" in (tmp_path / "strict" / "report.json").read_text()
    assert "Jane" not in (tmp_path / "strict" / "events.jsonl").read_text()
    ended = Follower(tmp_path / "strict" / "events.jsonl").status()
    assert ended.reason.startswith("round 1 has 1 usable results of 2 clients")


def test_an_error_of_the_server_is_in_the_file_by_its_kind(make, tmp_path):
    experiment = make(output__screen="none")
    with pytest.raises(LookupError):
        run_experiment(federation(experiment, stop_in(2, LookupError("no such row: Jane Doe"))), experiment)
    ended = Follower(tmp_path / "run" / "events.jsonl").status()
    assert (ended.state, ended.reason) == ("failed", "LookupError; the report of the run says more")


def test_where_the_file_cannot_be_written_the_run_goes_on(make, tmp_path, caplog):
    (tmp_path / "run" / "events.jsonl").mkdir(parents=True)
    experiment = make(federation__rounds=1)
    run_experiment(federation(experiment), experiment)
    assert report_of(tmp_path / "run").status == "completed"
    assert "misses events: cannot open" in caplog.text


def test_an_error_of_the_listener_at_the_very_end_changes_nothing(make, tmp_path):
    experiment = make(output__screen="none")

    def fail(event):
        if isinstance(event, RunEnded):
            raise LookupError("no such window")  # noqa: TRY004

    with pytest.raises(LookupError, match="no such window"):
        run_experiment(federation(experiment), experiment, on_event=fail)
    report = report_of(tmp_path / "run")
    assert (report.status, report.rounds) == ("completed", 3)


def test_an_interrupt_in_the_listener_ends_the_run_at_once(make, tmp_path):
    experiment, seen = make(output__screen="none"), []

    def interrupt(event):
        seen.append(event)
        if isinstance(event, RoundStarted) and event.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(experiment), experiment, on_event=interrupt)
    assert (seen[-1].status, seen[-1].reason, seen[-1].round) == ("interrupted", "stopped by the user", 1)
    assert report_of(tmp_path / "run").rounds == 1


def test_a_run_that_fails_says_so_in_its_last_event(make):
    experiment, seen = make(output__screen="none"), []
    with pytest.raises(MemoryError):
        run_experiment(federation(experiment, stop_in(2, MemoryError("no room"))), experiment, on_event=seen.append)
    assert (seen[-1].status, seen[-1].reason, seen[-1].round) == ("failed", "MemoryError: no room", 1)


def test_a_loss_that_is_not_finite_is_said_at_once(make, tmp_path, capsys):
    experiment = make()
    grid = federation(experiment)
    answer, told = grid._answer, []

    def far_too_large(message):
        content = message.content
        if message.metadata.message_type != "train" or content["config"]["server-round"] == 1:
            return answer(message)
        shapes = {name: array.shape for name, array in content["arrays"].items()}
        huge = {name: Array(np.resize(np.float32([1e36, -1e36]), shape)) for name, shape in shapes.items()}
        metrics = MetricRecord({"num-examples": 1.0, "train_loss": 1.0})
        return RecordDict({"arrays": ArrayRecord(huge), "metrics": metrics})

    grid._answer = far_too_large

    def listen(event):
        if isinstance(event, RoundDone | Notice):
            told.append(event.round if isinstance(event, RoundDone) else event.text)

    run_experiment(grid, experiment, on_event=listen)
    # Once, and not again for each round that it goes on.
    first, second, warning, third = told
    assert (first, second, third) == (1, 2, 3)
    assert warning.startswith("warning: the loss on the test records is not finite after round 2: the training has")
    assert warning in capsys.readouterr().out
    said = "the loss on the test records is not finite in 2 evaluations, the first after round 2: the training has"
    assert any(text.startswith(said) for text in report_of(tmp_path / "run").warnings)


def trained_alike(experiment, before=lambda message: None):
    """Return a grid whose clients answer with the model that they got, moved by what depends on the round."""

    grid = federation(experiment)
    clients = grid._answer

    def answer(message):
        content = message.content
        if message.metadata.message_type != "train":
            return clients(message)
        before(message)
        number = content["config"]["server-round"]
        moved = {name: Array(array.numpy() * np.float32(1 + 0.1 * number)) for name, array in content["arrays"].items()}
        metrics = MetricRecord({"num-examples": 1.0, "train_loss": 1.0})
        return RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics})

    grid._answer = answer
    return grid


def test_a_run_of_many_classes_is_bounded_and_resumes_to_the_same(make, tmp_path):
    settings = {"task__name": "tests.many_classes:ManyClasses", "federation__rounds": 6}
    whole = make("whole", **settings)
    run_experiment(trained_alike(whole), whole)
    folder, first = tmp_path / "killed", make("killed", **settings)
    with pytest.raises(Stopped):
        run_experiment(trained_alike(first, stop_in(4, Stopped())), first)
    sizes = {path.name: path.stat().st_size for path in (folder / "checkpoints").glob("round-*")}
    again = make("killed", **settings, output__resume=True)
    run_experiment(trained_alike(again), again)
    for name in ("model-final.safetensors", "matrices.safetensors", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert report_of(folder).evaluation == report_of(tmp_path / "whole").evaluation
    # Two matrices of 720,000 bytes at most, in each of them, and no more with each round.
    last = max((folder / "checkpoints").glob("round-*")).stat().st_size
    assert abs(last - sizes["round-000003.safetensors"]) < 10_000 or last < sizes["round-000003.safetensors"]
    report = report_of(folder)
    found = load_file(folder / "matrices.safetensors")
    assert found["confusion/final"].shape == (300, 300)
    assert found["confusion/final"].sum() == report.data.test_records
    assert sha256((folder / "matrices.safetensors").read_bytes()).hexdigest() == report.matrices.sha256
    assert all(entry.confusion is None for entry in report.evaluation.history)
    assert "called" in (folder / "report.html").read_text()
