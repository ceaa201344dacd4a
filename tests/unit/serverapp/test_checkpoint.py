import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from fedtrain.errors import StorageError
from fedtrain.report import Dropped, Evaluation
from fedtrain.serverapp.checkpoint import RunState

MODEL = {
    "z.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array([1.5, -0.0], np.float64),
    "batches": np.array(7, np.int64),
    "half": np.ones((2, 1), np.float16),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 4), np.float32),
}


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
    assert replace(first, model={}, strategy={}) == replace(second, model={}, strategy={})


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
    assert_same(RunState.decode(state.encode()), state)


def test_the_state_before_the_first_round(make_state):
    assert_same(RunState.decode(make_state().encode()), make_state())


def test_arrays_that_are_not_contiguous(make_state):
    turned = make_state(model={"w": MODEL["z.weight"].T, "every": np.arange(10.0)[::3]})
    assert_same(RunState.decode(turned.encode()), turned)


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
        ("evaluations", "[]"),
        ("round_log", "not json"),
        ("clip_norm", "[]"),
    ],
)
def test_a_changed_fact_is_noticed(state, key, value):
    data = state.encode()
    assert RunState.decode(save(load(data), facts_of(data))).round_number == 2
    with pytest.raises(StorageError, match="content has changed"):
        RunState.decode(save(load(data), facts_of(data) | {key: value}))


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
    data = state.encode().replace(b"fedtrain.checkpoint/2", b"fedtrain.checkpoint/1")
    with pytest.raises(StorageError, match=r"the format is 'fedtrain.checkpoint/1', this version reads '.*/2'"):
        RunState.decode(data)
