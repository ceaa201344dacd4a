"""A checkpoint and its history give back the state that was saved, or say that they cannot."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedtrain.errors import StorageError
from fedtrain.report import Dropped, Evaluation, RoundEntry, SecureAggregation
from fedtrain.serverapp.checkpoint import RunState
from fedtrain.serverapp.history import lines_after

DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
tensors = st.dictionaries(
    texts,
    hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    max_size=4,
)
clients = st.lists(st.integers(0, 50), unique=True, max_size=5).map(tuple)
evaluations = st.lists(st.none() | st.floats(0, 1), max_size=4).map(
    lambda accuracies: tuple(Evaluation(round=number, accuracy=value) for number, value in enumerate(accuracies))
)


@st.composite
def states(draw):
    cohorts = dict(enumerate(draw(st.lists(clients, max_size=4)), start=1))
    log = tuple(
        RoundEntry(
            round=number,
            cohort=cohort,
            completed=cohort[1:],
            dropped=tuple(Dropped(client=client, reason=draw(texts)) for client in cohort[:1]),
            sealed=draw(st.booleans()),
            secagg=None,
            clip_norm=draw(st.none() | st.floats(1e-9, 1e9)),
            learning_rate=draw(st.floats(0, 1e6)),
            seconds=draw(st.floats(0, 1e6)),
        )
        for number, cohort in cohorts.items()
    )
    return RunState(
        round_number=len(cohorts),
        model=draw(tensors),
        strategy=draw(tensors),
        evaluations=draw(evaluations),
        round_log=log,
        clip_norm=draw(st.floats(0, 1e9)),
        seconds=draw(st.floats(0, 1e9)),
    )


def bits(arrays):
    return {name: (value.dtype, value.shape, value.tobytes()) for name, value in arrays.items()}


def facts(state):
    return (
        state.round_number,
        list(state.model),
        bits(state.model),
        bits(state.strategy),
        state.evaluations,
        state.round_log,
        state.clip_norm,
        state.seconds,
    )


def written(state):
    """Return the bytes of a checkpoint and of its history."""
    lines, mark = lines_after(state.mark, state.evaluations, state.round_log)
    return replace(state, mark=mark).encode(), lines


@settings(deadline=None)
@given(states())
def test_what_is_read_is_what_was_written(state):
    assert facts(RunState.decode(*written(state))) == facts(state)


STATE = RunState(
    round_number=1,
    model={"w": np.arange(4, dtype=np.float32), "n": np.array(3)},
    strategy={"m_t/w": np.ones(4, np.float32)},
    evaluations=(Evaluation(round=0, accuracy=0.25), Evaluation(round=1, accuracy=0.5)),
    round_log=(
        RoundEntry(
            round=1,
            cohort=(0, 1),
            completed=(0, 1),
            dropped=(),
            sealed=True,
            secagg=SecureAggregation(threshold=2, neighbours=1, bits=16, lost_masking=0, lost_unmasking=0),
            clip_norm=0.5,
            learning_rate=0.1,
            seconds=2.0,
        ),
    ),
    clip_norm=0.25,
    seconds=3.0,
)
WRITTEN, HISTORY = written(STATE)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WRITTEN) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_noticed(changes):
    damaged = bytearray(WRITTEN)
    for position, mask in changes:
        damaged[position] ^= mask
    try:
        state = RunState.decode(bytes(damaged), HISTORY)
    except StorageError:
        return
    # White space may change, and a change may undo another.
    assert facts(state) == facts(STATE)


@settings(deadline=None)
@given(st.integers(0, len(WRITTEN) - 1), st.binary(max_size=50))
def test_a_torn_file_is_noticed(length, tail):
    if WRITTEN[:length] + tail == WRITTEN:
        return
    try:
        state = RunState.decode(WRITTEN[:length] + tail, HISTORY)
    except StorageError:
        return
    assert facts(state) == facts(STATE)
