"""The mean in blocks is Flower's, bit for bit, for every strategy that builds on FedAvg."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg, FedMedian
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from fedtrain.flower import averaging
from fedtrain.flower.averaging import InBlocks, in_blocks, weighted_mean
from fedtrain.flower.messages.records import view
from fedtrain.serverapp.assembly import _OF_FEDAVG
from tests.fakes import InProcessGrid

NODES = range(10, 17)
DRAWN = np.random.default_rng(0)
KINDS = ("float16", "float32", "float64", "complex64", "complex128")
BUILT_ON_FEDAVG = sorted(_OF_FEDAVG)


def content(arrays, weight):
    metrics = MetricRecord({"num-examples": weight, "loss": weight / 7})
    record = ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})
    return RecordDict({"arrays": record, "metrics": metrics})


def replies_of(contents):
    grid = InProcessGrid(lambda message: contents[message.metadata.dst_node_id - NODES[0]], NODES)
    messages = [Message(RecordDict(), node, "train") for node in list(NODES)[: len(contents)]]
    return list(grid.send_and_receive(messages))


def drawn(kind, shape):
    values = DRAWN.normal(0, 3, shape)
    return (values + 1j * DRAWN.normal(0, 3, shape)).astype(kind) if "complex" in kind else values.astype(kind)


def data(record):
    return {name: (array.dtype, array.shape, array.stype, array.data) for name, array in record.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [[1.0] * 7, [3.0, 1.0, 100.0, 7.0, 2.0, 13.0, 1e9], [5, 1, 2, 3, 9, 1, 4], [0.1]])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (64,), (65,), (3, 43), (2, 64, 3)])
def test_the_bytes_are_those_of_flower(monkeypatch, kind, weights, shape):
    monkeypatch.setattr(averaging, "_BLOCK", 64)
    contents = [content({"b": drawn(kind, shape), "a": drawn(kind, shape)}, weight) for weight in weights]
    assert data(weighted_mean(contents, "num-examples")) == data(aggregate_arrayrecords(contents, "num-examples"))


def test_so_they_are_with_blocks_as_they_are_and_numbers_that_are_not_finite():
    values = [drawn("float32", (700, 500)) for _ in range(3)]
    values[1][0, :5] = [np.inf, -np.inf, np.nan, -0.0, np.finfo(np.float32).smallest_subnormal]
    contents = [content({"w": value}, weight) for value, weight in zip(values, [20.0, 3.0, 77.0], strict=True)]
    assert data(weighted_mean(contents, "num-examples")) == data(aggregate_arrayrecords(contents, "num-examples"))


@pytest.mark.parametrize(
    "values",
    [
        [np.asfortranarray(drawn("float32", (4, 6))), drawn("float32", (4, 6))],
        [np.arange(6), np.arange(6) + 1],
        [np.array([True, False]), np.array([True, True])],
        [drawn("float32", (5,)), drawn("float64", (5,))],
        [drawn("float32", (5,)).astype(">f4"), drawn("float32", (5,)).astype(">f4")],
    ],
)
def test_what_is_not_plain_is_flowers_own(values):
    contents = [content({"x": value, "y": np.ones(2, np.float32)}, 1.0 + place) for place, value in enumerate(values)]
    assert data(weighted_mean(contents, "num-examples")) == data(aggregate_arrayrecords(contents, "num-examples"))


@pytest.mark.parametrize("name", BUILT_ON_FEDAVG)
def test_a_strategy_that_builds_on_fedavg_gives_the_same_model_over_rounds(name):
    kind = getattr(flower, name)
    options = {"fraction_evaluate": 0.0, **({"proximal_mu": 0.5} if name == "FedProx" else {})}
    ours, theirs = in_blocks(kind)(**options), kind(**options)
    assert isinstance(ours, kind)
    assert type(ours).__name__ == name
    grid = InProcessGrid(lambda _: RecordDict(), NODES)
    models = [ArrayRecord({"w": Array(drawn("float32", (9, 5)))})] * 2
    for number in (1, 2, 3):
        contents = [content({"w": drawn("float32", (9, 5))}, 1.0 + place) for place in range(len(NODES))]
        found = []
        for strategy, model in zip((ours, theirs), models, strict=True):
            list(strategy.configure_train(number, model, ConfigRecord(), grid))
            found.append(strategy.aggregate_train(number, replies_of(contents)))
        assert data(found[0][0]) == data(found[1][0])
        assert found[0][1] == found[1][1]
        models = [arrays for arrays, _ in found]


def test_a_strategy_that_looks_at_all_replies_gets_them():
    values = [drawn("float32", (4,)) for _ in NODES]
    found, _ = in_blocks(FedMedian)(fraction_evaluate=0.0).aggregate_train(
        1, replies_of([content({"w": value}, 1.0) for value in values])
    )
    np.testing.assert_array_equal(view("w", found["w"]), np.median(values, axis=0))


def test_replies_that_do_not_agree_are_refused_and_none_give_nothing():
    strategy = InBlocks(fraction_evaluate=0.0)
    assert strategy.aggregate_train(1, []) == FedAvg(fraction_evaluate=0.0).aggregate_train(1, []) == (None, None)
    contents = [content({"w": np.ones(2)}, 1.0), content({"v": np.ones(2)}, 1.0)]
    with pytest.raises(InconsistentMessageReplies):
        strategy.aggregate_train(1, replies_of(contents))
