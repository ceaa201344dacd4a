import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from fedtrain.errors import StorageError
from fedtrain.report import Dropped, Evaluation
from fedtrain.report.evaluation import CLASSIFICATION, PerClass, kept
from fedtrain.serverapp import checkpoint
from fedtrain.serverapp.checkpoint import RunState
from fedtrain.serverapp.history import Mark, lines_after

MODEL = {
    "z.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array([1.5, -0.0], np.float64),
    "batches": np.array(7, np.int64),
    "half": np.ones((2, 1), np.float16),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 4), np.float32),
}


def written(state):
    """Return the checkpoint of a state and the file of its history, as a run folder writes them."""
    lines, mark = lines_after(state.mark, state.evaluations, state.round_log)
    return replace(state, mark=mark).encode(), lines


def again(state):
    return RunState.decode(*written(state))


def assert_same(first, second):
    for name in ("model", "strategy"):
        left, right = getattr(first, name), getattr(second, name)
        assert set(left) == set(right)
        for key, value in left.items():
            assert (value.dtype, value.shape, value.tobytes()) == (
                right[key].dtype,
                right[key].shape,
                right[key].tobytes(),
            )
    assert list(first.model) == list(second.model)
    bare = {"model": {}, "strategy": {}, "mark": Mark()}
    assert replace(first, **bare) == replace(second, **bare)


def facts_of(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


@pytest.fixture
def state(make_state):
    made = make_state(
        {1: (0, 3), 2: (1, 2)},
        model=MODEL,
        strategy={"m_t/z.weight": np.ones(3, np.float32), "v_t/a/b": np.array(0.5)},
        accuracies=(0.1, 0.7, 0.6),
        seconds=1 / 3,
    )
    entry = made.round_log[1].model_copy(
        update={"completed": (1,), "dropped": (Dropped(client=2, reason="line\nüñ \N{SNOWMAN}"),)}
    )
    own = Evaluation.model_validate({"round": 2, "accuracy": 0.6, "loss": 0.1 + 0.2, "perplexity": 3.25})
    return replace(made, round_log=(made.round_log[0], entry), evaluations=(*made.evaluations[:2], own))


def test_a_state_is_the_same_after_it_was_written(state):
    assert_same(again(state), state)


def test_the_state_before_the_first_round(make_state):
    assert_same(again(make_state()), make_state())


def test_arrays_that_are_not_contiguous(make_state):
    turned = make_state(model={"w": MODEL["z.weight"].T, "every": np.arange(10.0)[::3]})
    assert_same(again(turned), turned)


def test_the_model_in_a_checkpoint_can_be_read_by_anyone(state):
    tensors = load(state.encode())
    np.testing.assert_array_equal(tensors["model/z.weight"], MODEL["z.weight"])
    assert tensors["model/batches"].shape == ()


@pytest.mark.parametrize("length", [0, 4, 8, 9, 100, -1])
def test_a_checkpoint_that_was_cut_off(state, length):
    with pytest.raises(StorageError, match="this is not a checkpoint"):
        RunState.decode(state.encode()[:length])


def test_a_changed_number_is_noticed(state):
    data = bytearray(state.encode())
    data[-1] ^= 1
    with pytest.raises(StorageError, match="content has changed"):
        RunState.decode(bytes(data))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("round", "7"),
        ("seconds", "0.5"),
        ("clip_norm", "9.0"),
        ("order", "[]"),
        ("whole", "[ ]"),
        ("history", "not json"),
        ("clip_norm", "[]"),
    ],
)
def test_a_changed_fact_is_noticed(state, key, value):
    data = state.encode()
    assert RunState.decode(save(load(data), facts_of(data))).round_number == 2
    with pytest.raises(StorageError, match="content has changed"):
        RunState.decode(save(load(data), facts_of(data) | {key: value}))


def test_the_history_is_that_of_the_checkpoint(state):
    data, history = written(state)
    # What follows is of a round whose checkpoint was not written.
    assert_same(RunState.decode(data, history + b'{"round": {}}\n{"tor'), state)
    with pytest.raises(StorageError, match=r"the history has \d+ bytes, and the checkpoint is of one with"):
        RunState.decode(data, history[:-1])
    first, rest = history.split(b"\n", 1)
    for changed in (rest + first + b"\n", history.replace(b"0.7", b"0.8"), b"x" * len(history)):
        with pytest.raises(StorageError, match=r"the history (has changed|cannot be read)"):
            RunState.decode(data, changed)


def test_a_checkpoint_of_the_version_before_is_read(state):
    data, _ = written(state)
    facts = facts_of(data)
    evaluations = [evaluation.model_dump(mode="json") for evaluation in state.evaluations]
    for removed in ("whole", "history", "sha256"):
        del facts[removed]
    facts |= {"format": "fedtrain.checkpoint/2", "evaluations": json.dumps(evaluations)}
    facts["round_log"] = json.dumps([entry.model_dump(mode="json") for entry in state.round_log])
    old = checkpoint._save(load(data), {**facts, "sha256": checkpoint._digest(facts, load(data))})
    assert_same(RunState.decode(old), state)
    # The next one is of this version, with all of the history in its file.
    assert_same(again(RunState.decode(old)), state)


def test_the_whole_evaluations_are_whole_again(state):
    matrix, each = ((3, 1), (0, 4)), {"precision": (1.0, 0.8), "recall": (0.75, 1.0), "f1": (0.85, 0.88)}
    last = state.evaluations[-1].model_copy(update={"confusion": matrix})
    many = dict.fromkeys(each, (0.5,) * 101)
    best = state.evaluations[1].model_copy(update={"per_class": PerClass.model_validate(many)})
    whole = replace(state, evaluations=(state.evaluations[0], best, last))
    assert_same(again(whole), whole)
    _, lines = written(whole)
    assert b"confusion" not in lines.replace(b'"confusion":null', b"")
    assert b"0.5,0.5" not in lines


def test_a_checkpoint_does_not_grow_with_the_rounds(make_state):
    """A run of 1,000 classes had a header of 8 MB a round, and could not be saved from its 51st on."""
    generator = np.random.default_rng(0)
    matrix = tuple(map(tuple, generator.integers(0, 9, (300, 300)).tolist()))
    each = PerClass.model_validate(dict.fromkeys(("precision", "recall", "f1"), (1 / 3,) * 300))
    sizes, lines = [], []
    for rounds in (2, 40):
        made = make_state(dict.fromkeys(range(1, rounds + 1), (0, 1)))
        evaluations = [Evaluation(round=n, accuracy=n / 100, confusion=matrix, per_class=each) for n in range(rounds)]
        data, history = written(replace(made, evaluations=kept(evaluations, CLASSIFICATION)))
        sizes.append(len(data))
        lines.append(len(history) / rounds)
    assert abs(sizes[1] - sizes[0]) < 100
    assert lines[1] == pytest.approx(lines[0], rel=0.1)
    assert lines[1] < 1000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        save({"a": np.zeros(2)}),
        save({"a": np.zeros(2)}, {"format": "other/9"}),
        save({"a": np.zeros(2)}, {"format": "fedtrain.checkpoint/2"}),
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 20) + b'{"__metadata__":null}'[:20],
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_other_files_are_no_checkpoints(data):
    with pytest.raises(StorageError):
        RunState.decode(data)


def test_another_version_is_named(state):
    data = state.encode().replace(b"fedtrain.checkpoint/3", b"fedtrain.checkpoint/1")
    with pytest.raises(
        StorageError, match=r"the format is 'fedtrain.checkpoint/1', this version reads '.*3' and '.*2'"
    ):
        RunState.decode(data)
