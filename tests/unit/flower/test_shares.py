"""Whole numbers with shares of the noise in them, on their way from clients to the strategy."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.config import from_flat
from fedtrain.errors import ConfigError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.shares import decoded, sum_of
from fedtrain.flower.summing import Summing, to_vector
from fedtrain.flower.totals import from_total
from fedtrain.privacy.mechanisms import mechanism_of
from tests.fakes import RUN_ID, InProcessGrid

EXPERIMENT = from_flat(
    {
        "federation.clients": 4,
        "federation.cohort": 4,
        "privacy.mode": "record",
        "privacy.sampling_rate": 0.2,
        "privacy.delta": 1e-3,
        "privacy.trust": "distributed",
        "privacy.colluders": 1,
    }
)
SUMMING = Summing.of(EXPERIMENT)
TRAINED = frozenset({"w", "b"})


def sent():
    return ArrayRecord(
        {
            "w": Array(np.ones((2, 3), np.float32)),
            "frozen": Array(np.full(2, 7.0, np.float32)),
            "b": Array(np.zeros(2, np.float32)),
            "steps": Array(np.array(3, np.int64)),
        }
    )


def numbers(values):
    """Return what a client sends: whole numbers in the place of what is trained, and all else as it was received."""
    whole = np.asarray(values, dtype=np.int32)
    arrays = dict(sent())
    arrays |= {"w": Array(whole[:6].reshape(2, 3)), "b": Array(whole[6:])}
    return ArrayRecord(arrays)


def parameters():
    return SUMMING.parameters(members=4, sent=sent())


def words(trained):
    return to_vector(
        SUMMING.layout,
        parameters(),
        received=sent(),
        trained=trained,
        metrics=MetricRecord({}),
        random=np.random.default_rng(0),
    )


LARGEST = parameters().largest
whole_numbers = st.lists(st.integers(-LARGEST, LARGEST), min_size=8, max_size=8)


@given(st.lists(whole_numbers, min_size=4, max_size=4))
def test_the_sum_is_that_of_the_plain_numbers_bit_for_bit(clients):
    """Whatever they are: masks cancel modulo 2^32, in which the sum of four fits."""
    vectors = [words(numbers(values)) for values in clients]
    total = np.zeros(len(vectors[0]), dtype=np.uint32)
    for vector in vectors:
        total += vector
    found = from_total(SUMMING.layout, parameters(), words=total, clients=4, sent=sent())
    exact = np.sum(np.array(clients, dtype=np.int64), axis=0)
    assert np.array_equal(found.update["w"].ravel(), exact[:6])
    assert np.array_equal(found.update["b"], exact[6:])
    assert not found.update["frozen"].any()
    assert found.weight == 4


def reply(arrays):
    InProcessGrid(lambda _: None, [])  # sets who the server is
    content = RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: MetricRecord({protocol.WEIGHT: 1.0})})
    return Message(content, RUN_ID, "train")


def test_without_masks_the_server_adds_up_the_same_numbers():
    values = [[LARGEST] * 8, [LARGEST] * 8, [-3] * 8]
    total, clients = sum_of([reply(numbers(each)) for each in values], sent=sent(), trained=TRAINED)
    assert clients == 3
    assert {name: set(value.ravel().tolist()) for name, value in total.items()} == {
        name: {2 * LARGEST - 3} for name in TRAINED
    }


def test_the_strategy_gets_the_model_less_a_step_along_the_mean_gradient():
    plan = mechanism_of(EXPERIMENT).plan(EXPERIMENT, noise_multiplier=8.0)
    steps = plan.grid.steps
    total = {"w": np.full((2, 3), 64 * steps), "b": np.full(2, -32 * steps)}
    (message,) = decoded(total, clients=2, sent=sent(), trained=TRAINED, plan=plan, learning_rate=0.5)
    arrays = message.content[protocol.ARRAYS]
    # Over 2 clients of 32 records in expectation: a mean gradient of 1 and of -1/2.
    assert np.allclose(arrays["w"].numpy(), 0.5)
    assert np.allclose(arrays["b"].numpy(), 0.25)
    assert np.array_equal(arrays["frozen"].numpy(), sent()["frozen"].numpy())
    assert dict(message.content[protocol.METRICS]) == {protocol.WEIGHT: 1.0}


@pytest.mark.parametrize("members", [3, 5])
def test_another_cohort_than_the_noise_is_planned_for_is_refused(members):
    with pytest.raises(ConfigError, match=f"shared by the 4 members of a cohort, and this one has {members}"):
        SUMMING.parameters(members=members, sent=sent())


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("w", np.ones((2, 3), np.float32) * 2, "the array w holds no whole numbers, and is not as it was received"),
        ("w", np.ones((3, 2), np.int32), r"the array w has the shape \(3, 2\), not \(2, 3\)"),
        ("frozen", np.ones(2, np.float32), "the array frozen holds no whole numbers"),
        ("w", np.ones((2, 3), np.int64), "the array w holds no whole numbers"),
    ],
)
def test_what_is_neither_a_whole_number_nor_as_received_is_not_summed(name, array, message):
    trained = ArrayRecord({**numbers([1] * 8), name: Array(array)})
    with pytest.raises(TransportError, match=message):
        words(trained)
