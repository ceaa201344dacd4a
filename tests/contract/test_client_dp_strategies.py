"""What sum-based strategies of Flower make of the one reply that stands for all clients."""

import random

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedtrain.config import from_flat
from fedtrain.flower.client_dp import clip_reply, release_round
from fedtrain.flower.grids.base import collect
from fedtrain.flower.messages import protocol
from fedtrain.privacy import AdaptiveClipping
from fedtrain.privacy.noise import SeededSource
from fedtrain.serverapp.assembly import build_strategy
from tests.fakes import InProcessGrid
from tests.plans import capped_plan

CLIENTS = 6
NODES = range(100, 100 + CLIENTS)
MODEL = {
    "layer/weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "counter": np.array(3, np.int64),
    "bias": np.full(3, 0.25, np.float32),
    "frozen": np.array([5.0, -5.0], np.float32),
}
TRAINABLE = frozenset({"layer/weight", "bias"})
CLIP_NORM = 100.0
PARAMETERS = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": 0.5, "server_momentum": 0.9},
    "FedAdam": {"eta": 0.3, "beta_1": 0.8},
    "FedYogi": {"eta": 0.3},
    "FedAdagrad": {"eta": 0.3},
    "FedProx": {"proximal_mu": 0.25},
}
strategies = pytest.mark.parametrize("name", PARAMETERS)


def plan(noise_multiplier, adaptive=None):
    return capped_plan(CLIENTS, clip_norm=CLIP_NORM, noise_multiplier=noise_multiplier, adaptive=adaptive)


def strategy(name):
    values = {"federation.clients": CLIENTS, "federation.cohort": CLIENTS, "server.strategy": name}
    parameters = {f"server.parameters.{key}": value for key, value in PARAMETERS[name].items()}
    return build_strategy(from_flat(values | parameters))


def answer(message):
    """Move the trained arrays as a client might, and send them as a client in client privacy does."""
    generator = np.random.default_rng([message.metadata.dst_node_id, message.content[protocol.CONFIG][protocol.ROUND]])
    received = message.content[protocol.ARRAYS]
    trained = ArrayRecord(
        {
            name: Array(np.asarray(array.numpy() + generator.normal(0, 0.1, array.shape), array.numpy().dtype))
            for name, array in received.items()
        }
    )
    arrays, within = clip_reply(received=received, trained=trained, trainable=TRAINABLE, clip_norm=CLIP_NORM)
    metrics = MetricRecord({protocol.WEIGHT: 1.0, protocol.WITHIN_CLIP: float(within)})
    return RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: metrics})


def record(model):
    return ArrayRecord({name: Array(value) for name, value in model.items()})


def asked(strategy, number, model):
    """Return the replies of all clients to what the strategy sends."""
    grid = InProcessGrid(answer, NODES)
    random.seed(number)
    messages = strategy.configure_train(number, record(model), ConfigRecord({protocol.LEARNING_RATE: 0.1}), grid)
    return collect(grid, list(messages), timeout=10)


def released(replies, model, *, noise=1e-9, seed=0, plan=plan):
    messages, _ = release_round(
        replies,
        sent=record(model),
        trainable=TRAINABLE,
        plan=plan(noise),
        clip_norm=CLIP_NORM,
        source=SeededSource(seed),
    )
    return messages


def aggregated(strategy, number, replies, model):
    """Return the new model as the server takes it from the strategy."""
    arrays, _ = strategy.aggregate_train(number, replies)
    assert list(arrays) == list(model)
    after = {}
    for name, before in model.items():
        value = arrays[name].numpy()
        after[name] = np.asarray(value if before.dtype.kind == "f" else np.rint(value), before.dtype)
        assert after[name].shape == before.shape
    return after


@strategies
def test_with_all_clients_it_is_the_plain_average(name):
    private, plain = strategy(name), strategy(name)
    first = second = MODEL
    for number in (1, 2, 3):
        first = aggregated(private, number, released(asked(private, number, first), first), first)
        second = aggregated(plain, number, asked(plain, number, second), second)
        for key in MODEL:
            assert first[key] == pytest.approx(second[key], rel=1e-4, abs=1e-5)
    assert any(np.abs(first[key] - MODEL[key]).max() > 0.01 for key in TRAINABLE)


@strategies
def test_an_empty_cohort_is_a_step_of_noise(name):
    several = strategy(name)
    model = MODEL
    for number in (1, 2, 3):
        asked(several, number, model)
        after = aggregated(several, number, released([], model, noise=0.01, seed=number), model)
        for key in TRAINABLE:
            assert (after[key] != model[key]).all()
            assert np.isfinite(after[key]).all()
        model = after


@strategies
def test_what_is_not_trained_never_moves(name):
    several = strategy(name)
    model = MODEL
    for number in (1, 2, 3):
        replies = asked(several, number, model)
        model = aggregated(several, number, released(replies, model, noise=0.01, seed=number), model)
    assert model["counter"] == 3
    assert model["frozen"] == pytest.approx(MODEL["frozen"], abs=1e-6)


@strategies
def test_a_client_that_is_missing_counts_zero_and_the_others_no_more(name):
    short, zeroed = strategy(name), strategy(name)
    replies = asked(short, 1, MODEL)
    asked(zeroed, 1, MODEL)
    idle = RecordDict(
        {
            protocol.ARRAYS: record(MODEL),
            protocol.METRICS: MetricRecord({protocol.WEIGHT: 1.0, protocol.WITHIN_CLIP: 1.0}),
        }
    )
    replaced = list(replies)
    replaced[2].content = idle
    first = aggregated(short, 1, released([*replies[:2], *replies[3:]], MODEL), MODEL)
    second = aggregated(zeroed, 1, released(replaced, MODEL), MODEL)
    for key in MODEL:
        assert first[key].tobytes() == second[key].tobytes()


def test_the_noise_that_a_strategy_averages_is_that_of_the_plan():
    big = {"x": np.zeros(20_000, np.float32)}
    averaging = strategy("FedAvg")
    (message,), _ = release_round(
        [], sent=record(big), trainable=frozenset(big), plan=plan(1.5), clip_norm=0.4, source=SeededSource(3)
    )
    arrays, _ = averaging.aggregate_train(1, [message])
    assert arrays["x"].numpy().std() == pytest.approx(1.5 * 0.4 / CLIENTS, rel=0.02)


def test_with_adaptive_clipping_the_strategy_sees_no_count():
    adaptive = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=1.0)
    averaging = strategy("FedAvg")
    replies = asked(averaging, 1, MODEL)
    messages = released(replies, MODEL, plan=lambda noise: plan(noise, adaptive))
    _, metrics = averaging.aggregate_train(1, messages)
    assert dict(metrics) == {}
