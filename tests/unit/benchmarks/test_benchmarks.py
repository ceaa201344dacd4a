"""A benchmark whose work was not done ends with an error, and shows no number."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedtrain.errors import TransportError
from fedtrain.flower.messages.training import TrainRequest
from fedtrain.machines import ServerFolder
from tests.fakes import InProcessGrid

ROOT = Path(__file__).parents[3]
SPEC = {"nodes": 3, "cohort": 3, "rounds": 1, "config": {}, "private": True, "falls": False, "times": ""}


@pytest.fixture
def script(monkeypatch):
    """Import a script of the benchmarks as it is when it is run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("FEDTRAIN_BENCH", json.dumps(SPEC))
    known = set(sys.modules)

    def load(name):
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(ROOT / "benchmarks"):
            del sys.modules[name]


def refuses(words):
    return pytest.raises(SystemExit, match=words)


def test_proofs_hold_for_work_that_was_done(script, tmp_path):
    proof = script("proof")
    proof.require(True, "nothing")
    proof.require_results([3, 3], rounds=2, cohort=3)
    proof.require_loss(2.0, 1.0, falls=True)
    proof.require_loss(1.0, 2.0, falls=False)
    proof.require_epsilon(1.0, most=1.0)
    proof.require_near("it", 1.001, 1.0, relative=0.01)
    (tmp_path / "0" / "ledgers").mkdir(parents=True)
    (tmp_path / "0" / "ledgers" / "x.jsonl").write_text("{}\n{}\n")
    proof.require_charges(tmp_path, trainings=1)


def test_proofs_fail_where_it_was_not(script, tmp_path):
    proof = script("proof")
    with refuses("not done: why"):
        proof.require(False, "why")
    with refuses(r"the rounds had \[3, 2\] results, and 2 of 3"):
        proof.require_results([3, 2], rounds=2, cohort=3)
    for before, after in ((1.0, 1.0), (1.0, float("nan"))):
        with refuses("the loss"):
            proof.require_loss(before, after, falls=True)
    for epsilon in (0.0, 1.1, float("nan"), float("inf")):
        with refuses("epsilon is"):
            proof.require_epsilon(epsilon, most=1.0)
    for found in (1.02, float("nan")):
        with refuses("it is .*, and 1.0 was expected"):
            proof.require_near("it", found, 1.0, relative=0.01)
    with refuses("the ledgers have 0 entries after 1 private trainings"):
        proof.require_charges(tmp_path, trainings=1)


@pytest.fixture
def asked(script):
    """The strategy of a workload that is private, and what it asks three nodes."""
    strategy = script("workloads").TimedFedAvg()
    grid = InProcessGrid(lambda message: message.content, range(2, 5))
    arrays = ArrayRecord({"weights": Array(np.zeros(4, np.float32))})
    settings = ConfigRecord(script("workloads").settings())
    return strategy, strategy.configure_train(1, arrays, settings, grid)


def answers(messages, value=1.0, **metrics):
    weights = Array(np.full(4, value, np.float32))
    content = {"arrays": ArrayRecord({"weights": weights}), "metrics": MetricRecord({"num-examples": 1.0, **metrics})}
    return [Message(RecordDict(dict(content)), reply_to=message) for message in messages]


def test_the_messages_of_the_private_workload_are_what_a_private_client_requires(asked):
    _, messages = asked
    assert len(messages) == 3
    for message in messages:
        request = TrainRequest.from_records(message.content)
        assert request.required_terms().clip_norm == 1.0
        assert request.known == 0
        del message.content["ledger"]
        with pytest.raises(TransportError, match="ledger"):
            TrainRequest.from_records(message.content)


def test_an_error_reply_ends_the_workload(asked):
    strategy, messages = asked
    good = answers(messages)
    with refuses("a client answered KeyError: 'run'"):
        strategy.aggregate_train(1, [*good[:2], Message(Error(code=0, reason="KeyError: 'run'"), reply_to=messages[2])])
    with refuses("2 of 3 clients answered"):
        strategy.aggregate_train(1, good[:2])
    with refuses("a client has not trained weights"):
        strategy.aggregate_train(1, answers(messages, value=0.0))
    assert strategy.results == []
    strategy.aggregate_train(1, good)
    assert strategy.results == [3]


def test_the_first_line_of_make_bench_takes_no_argument(script, monkeypatch):
    simulation = script("simulation")
    monkeypatch.setattr(sys, "argv", ["simulation.py"])
    monkeypatch.setattr(simulation, "ENGINES", {})
    simulation.main()
    monkeypatch.setattr(sys, "argv", ["simulation.py", "W9"])
    with pytest.raises(SystemExit):
        simulation.main()


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_every_benchmark_that_shows_numbers_has_a_proof(file):
    text = file.read_text(encoding="utf-8")
    if 'if __name__ == "__main__"' in text and "argparse" in text:
        assert "from proof import" in text or "sys.exit(" in text


def rounds_of(*losses, trained=1000, **last):
    found = [
        (float(number), {"round": number, "loss": loss, "accuracy": 0.2, "trained": trained * number, "epsilon": 1.0})
        for number, loss in enumerate(losses)
    ]
    found[-1][1].update(last)
    return found


def test_a_peer_that_did_not_do_the_work_shows_no_number(script):
    check = script("peers").check
    check(rounds_of(2.3, 2.2, 2.1), 2, learns=True, epsilon=True)
    for found, words in (
        (rounds_of(2.3, 2.2), r"the rounds are \[0, 1\]"),
        (rounds_of(2.3, 2.2, 2.2), "the losses are"),
        (rounds_of(2.3, 2.2, 2.1, accuracy=0.0), "the losses are"),
        (rounds_of(2.3, 2.2, 2.4), "the loss was"),
        (rounds_of(2.3, 2.2, float("nan")), "the loss is nan"),
        (rounds_of(2.3, 2.2, 2.1, trained=950), "clients have trained on 1900 records"),
        (rounds_of(2.3, 2.2, 2.1, epsilon=None), "epsilon is None"),
        (rounds_of(2.3, 2.2, 2.1, epsilon=float("inf")), "epsilon is inf"),
    ):
        with refuses(words):
            check(found, 2, learns=True, epsilon=True)
    check(rounds_of(2.3, 2.4, 2.5), 2, learns=False, epsilon=False)


def test_a_report_says_what_each_round_measured_and_the_screen_when(script, tmp_path):
    history = [{"round": number, "loss": 2.3 - number, "accuracy": 0.1} for number in range(3)]
    log = [{"round": 1, "completed": [0] * 10}, {"round": 2, "completed": [0] * 9}]
    report = {"evaluation": {"history": history}, "round_log": log, "privacy": {"epsilon": 1.5}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    lines = [(1.0, "no privacy"), (2.5, "round 1/2  clients 10/10"), (4.0, "round 2/2  clients 9/10")]
    found = list(script("peers").reported(tmp_path, lines))
    assert [mark for mark, _ in found] == [0.0, 2.5, 4.0]
    assert [each["trained"] for _, each in found] == [0, 1000, 1900]
    assert {each["epsilon"] for _, each in found} == {1.5}


def test_what_a_peer_is_changed_to_is_all_that_it_has_of_later_pythons(script):
    generic = script("peers").without_generics
    functions = "\n".join(f"{each}\n    a: T,\n) -> T: ..." for each in script("peers")._GENERIC)
    source = f"from typing import Any, Literal\n\n{functions}\n"
    changed = {}
    exec(generic(source), changed)
    assert {"process_tensors_in_object", "reconstruct_from_shared_memory", "T"} <= set(changed)
    for other in (source.replace("Literal", "Final"), source.replace("[T]", "")):
        with refuses("blazefl"):
            generic(other)


def test_noise_of_another_variance_shows_no_number(script):
    measure, poisson = (getattr(script("integer_noise"), name) for name in ("measure", "poisson"))
    assert measure("Poisson", poisson(50), 1 << 16, 50) > 0
    for wrong in (
        lambda count: poisson(50)(count) * 1.05,
        lambda count: poisson(50)(count) + 3,
        lambda count: np.sign(poisson(50)(count)) * 50,
        lambda count: poisson(50)(count - 1),
    ):
        with refuses("moment|has drawn"):
            measure("Poisson", wrong, 1 << 16, 50)


def test_the_letters_before_each_letter_are_read_with_it(script):
    banded = script("banded")
    seen, following = banded.positions("The ~")
    assert [banded.LETTERS[code] for code in following] == list("the  ")
    rows = ["".join(banded.LETTERS[int(code)] for code in row) for row in seen]
    assert rows == ["     ", "    t", "   th", "  the", " the "]


def test_plain_flower_counts_what_is_no_error(script, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "plain_flower"))
    strategy = script("plain.app").Timed()
    grid = InProcessGrid(lambda message: message.content, range(2, 5))
    arrays = ArrayRecord({"weights": Array(np.zeros(4, np.float32))})
    messages = list(strategy.configure_train(1, arrays, ConfigRecord({}), grid))
    failed = Message(Error(code=0, reason="planted"), reply_to=messages[0])
    strategy.aggregate_train(1, [*answers(messages[1:]), failed])
    assert strategy.results == [2]


def test_ways_of_accounting_that_disagree_are_refused(script):
    check = script("accounting").check
    check("case", {"PLD, fine": [6.19], "PRV": [6.2], "RDP": [6.7]})
    for epsilons in (
        {"PLD": [6.19], "PRV": [6.3]},
        {"PLD": [6.19], "RDP": [6.1]},
        {"PLD": [6.19, 0.0]},
        {"PLD": [1e9]},
    ):
        with refuses("the work was not done"):
            check("case", epsilons)


def test_an_audit_that_proves_nothing_is_refused(script):
    check = script("audit").check
    check("audit", "The report holds as far as it can be proven: 9 checks hold, 0 cannot be proven.", signed=4)
    check("floor", 4, signed=4)
    for name, found in (("audit", "The keys are not pinned: nothing is proven"), ("audit", "The report is refuted")):
        with refuses(f"{name} says: {found}"):
            check(name, found, signed=4)
    with refuses("floor has verified 3 signatures, and the clients have made 4"):
        check("floor", 3, signed=4)


@pytest.fixture
def report():
    done = [{"completed": [0, 1, 2]}] * 4
    return {
        "status": "completed",
        "reason": None,
        "round_log": done,
        "evaluation": {"history": [{"loss": 2.3}, {"loss": 1.1}]},
        "privacy": {"epsilon": 3.0},
        "config": {"privacy.epsilon": 8.0},
    }


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("status", "failed", "the run ended as failed"),
        ("round_log", [{"completed": [0, 1]}] * 4, r"the rounds had \[2, 2, 2, 2\] results"),
        ("round_log", [{"completed": [0, 1, 2]}] * 3, "the rounds had"),
        ("evaluation", {"history": [{"loss": 2.3}, {"loss": 2.4}]}, "the loss was 2.3000"),
        ("privacy", {"epsilon": 0.0}, "epsilon is 0.0"),
    ],
)
def test_a_deployed_run_without_its_work_is_refused(script, report, field, value, words):
    check = script("deployment").check
    check(report, private=True, trains=True)
    check(report, private=False, trains=True)
    with refuses(words):
        check(report | {field: value}, private=field == "privacy", trains=True)


def test_masks_and_messages_that_are_none_are_refused(script):
    transport = script("transport")
    vector, theirs = np.zeros(2000, np.uint32), [np.zeros(2000, np.int64)]
    transport.check_masks(vector, theirs, [bytes([number] * 32) for number in (1, 2)])
    with refuses("the masks were not added"):
        transport.check_masks(vector, theirs, [])
    with refuses("Flower SecAgg. did not add the masks"):
        transport.check_masks(vector, theirs, [bytes(32)])
    data = transport.encode({"arrays": transport.Arrays(items={"a": np.ones(2)})})
    transport.check_opened((b"", data), data)
    with refuses("what was opened is not what was sealed"):
        transport.check_opened((b"", data[:-1]), data)


def test_a_wide_table_that_is_decoded_wrong_or_slowly_is_refused(script, tmp_path):
    data = script("data")
    path = tmp_path / "genes.parquet"
    data.write(path, rows=5, columns=20)
    floor, ours = data.by_pyarrow(path), data.by_fedtrain(path)
    data.require_equal(floor, ours)
    assert ours.shape == (5, 20)
    with refuses("other numbers than pyarrow"):
        data.require_equal(floor, ours + 1)
    with refuses("fedtrain decoded"):
        data.require_equal(floor, ours[:, :-1])
    data.check([(1000, 0.1, 0.2), (20_000, 2.0, 4.0)])
    with refuses("take 4.0 times as long as with pyarrow, above 3"):
        data.check([(1000, 0.1, 0.4), (20_000, 2.0, 8.0)])
    with refuses("is 3.0 times what 1,000 columns promise"):
        data.check([(1000, 0.1, 0.1), (20_000, 2.0, 6.0)])


def test_a_status_without_all_nodes_ends_the_measurement(script, monkeypatch, tmp_path):
    watching = script("watching")
    server = ServerFolder(path=tmp_path, federation=None)
    monkeypatch.setattr(watching, "COMMAND", [sys.executable, "-c", "print('2 of 3 are connected')"])
    with refuses("the status does not show all nodes:\n2 of 3"):
        watching.command(server, nodes=3, repeat=1)
    monkeypatch.setattr(watching, "COMMAND", [sys.executable, "-c", "print('3 of 3 are connected')"])
    with refuses("the status does not show the run"):
        watching.command(server, nodes=3, repeat=1)
