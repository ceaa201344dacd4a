"""What of a state dict is a strategy's business, and what is not."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import nn

from fedtrain.config import from_flat
from fedtrain.config.sections import STRATEGY_PARAMETERS
from fedtrain.errors import RunError
from fedtrain.flower.client_dp import clip_reply
from fedtrain.flower.grids.base import collect
from fedtrain.flower.grids.validating import ValidatingGrid
from fedtrain.flower.messages import protocol
from fedtrain.flower.summing import Layout, to_vector
from fedtrain.flower.totals import from_total
from fedtrain.privacy.clipping import bits_equal
from fedtrain.secagg import Parameters
from fedtrain.serverapp.aggregation import Aggregation, counted
from fedtrain.serverapp.channel import Channel
from fedtrain.serverapp.preparation import prepare
from fedtrain.serverapp.rounds import Rounds, initial_state
from fedtrain.serverapp.run_warnings import of_statistics
from tests.fakes import InProcessGrid, digits_experiment

NODES = range(50, 57)
SETTINGS = {
    "FedAvgM": {"server_momentum": 0.9},
    "FedAdam": {"eta": 0.5},
    "FedYogi": {"eta": 0.5},
    "FedAdagrad": {"eta": 0.5},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 2},
    "Bulyan": {"num_malicious_nodes": 1},
}
NAN = np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)
CONSTANTS = {
    "seeds": np.array([2**53 + 1, -(2**63), 2**63 - 1]),
    "large": np.array([2**64 - 1], np.uint64),
    "mask": np.array([[0, -np.inf], [-0.0, np.inf]], np.float32),
    "unset": NAN,
    "on": np.array(True),
    "frozen": np.array([0.1, 1 / 3, -1e-30], np.float32),
    "half": np.array([0.1, -np.inf], np.float16),
}
MODEL = {
    **CONSTANTS,
    "weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "running_var": np.ones(3, np.float32),
    "num_batches_tracked": np.array(0),
}
TRAINED = frozenset({"weight"})


def aggregation(name="FedAvg", *, private=False, trained=TRAINED, **parameters):
    values = {"federation.clients": len(NODES), "federation.cohort": len(NODES), "server.strategy": name}
    given = {f"server.parameters.{key}": value for key, value in (SETTINGS.get(name, {}) | parameters).items()}
    return Aggregation(from_flat(values | given), trained=trained, private=private)


def a_round(made, number, model, train, memory=None):
    """Run one round; ``train`` takes a node and a copy of the model, and changes the copy."""

    def answer(message):
        node = message.metadata.dst_node_id
        arrays = {name: np.array(array.numpy()) for name, array in message.content[protocol.ARRAYS].items()}
        metrics = MetricRecord({protocol.WEIGHT: float(1 + node % 3), protocol.LOSS: 0.5 + node / 100})
        train(node, arrays)
        content = {name: Array(np.asarray(value)) for name, value in arrays.items()}
        return RecordDict({protocol.ARRAYS: ArrayRecord(content), "metrics": metrics})

    grid = InProcessGrid(answer, NODES)
    random.seed(number)
    sent, messages = made.ask(number, model, ConfigRecord({protocol.LEARNING_RATE: 0.1}), grid, memory or {})
    assert list(sent) == list(model)
    return made.aggregate(number, model, collect(grid, messages, timeout=10))


def trained(node, arrays):
    arrays["weight"] -= np.float32(0.1 + node / 1000)
    arrays["running_var"][:] = 0.1 + node / 1000
    arrays["num_batches_tracked"] += np.int64(10 + node % 2)


@pytest.mark.parametrize("name", STRATEGY_PARAMETERS)
def test_statistics_are_averaged_and_constants_stay_under_every_strategy(name):
    made, model, memory = aggregation(name), MODEL, {}
    shares = np.array([1.0 + node % 3 for node in NODES])
    shares /= shares.sum()
    for number in (1, 2, 3):
        before = model
        model, memory = a_round(made, number, before, trained, memory)
        assert list(model) == list(MODEL)
        for key, value in CONSTANTS.items():
            assert (model[key].dtype, model[key].tobytes()) == (value.dtype, value.tobytes()), key
        # The first step of momentum takes the variance from 1 to 0.1; the second must not take it below zero.
        expected = np.dot(shares, [0.1 + node / 1000 for node in NODES])
        np.testing.assert_allclose(model["running_var"], np.full(3, expected), rtol=1e-6)
        moved = int(model["num_batches_tracked"] - before["num_batches_tracked"])
        assert moved == round(float(np.dot(shares, [10 + node % 2 for node in NODES])))
        assert (model["weight"] != before["weight"]).all()
        # What the strategy remembers is of what is trained alone.
        assert {key.partition("/")[2] for key in memory} <= {"weight", "0"}


@pytest.mark.parametrize("name", STRATEGY_PARAMETERS)
def test_half_precision_is_aggregated_in_single_precision(name):
    # Near 1 a sum in half precision loses a part of each term: the mean of equal weights would be another weight.
    made = aggregation(name)
    model = {"weight": np.ones(4, np.float16)}
    after, _ = a_round(made, 1, model, lambda node, arrays: arrays["weight"].__setitem__(slice(None), 1.5))
    assert after["weight"].dtype == np.float16
    if name not in {"FedAdam", "FedYogi", "FedAdagrad", "QFedAvg"}:  # these make a step of their own
        np.testing.assert_array_equal(after["weight"], np.full(4, 1.5, np.float16))


@pytest.mark.parametrize("name", ["Krum", "MultiKrum", "Bulyan"])
def test_distances_are_over_the_changes_of_what_is_trained(name):
    """Six clients move one way by little, in a large model; one moves the other way, and counts its batches alike."""
    far = NODES[2]
    model = {**MODEL, "weight": np.full((2, 3), 1000.0, np.float32)}

    def train(node, arrays):
        step = -1e-3 if node == far else 1e-3 + 1e-4 * (node - NODES[0]) / len(NODES)
        arrays["weight"] += np.float32(step)
        # The counter alone would put the one that is far into the middle of the others.
        arrays["num_batches_tracked"] += np.int64(1000 * (node - far))

    after, _ = a_round(aggregation(name), 1, model, train)
    assert (after["weight"] > model["weight"]).all()


def test_a_step_of_a_large_model_is_not_lost_in_the_distance():
    # In single precision the distance between these is rounding: squares of 1e4 against differences of 1e-3.
    model = {"weight": np.full(2000, 1e4, np.float32)}
    for first in range(len(NODES)):
        steps = [0.1 if place == first else 0.002 * ((place - first) % len(NODES) - 1) for place in range(len(NODES))]

        def train(node, arrays, steps=steps):
            arrays["weight"] += np.float32(steps[node - NODES[0]])

        after, _ = a_round(aggregation("Krum"), 1, model, train)
        # The one with the nearest neighbours is in the middle of the six that agree.
        assert np.unique(after["weight"] - model["weight"]) == pytest.approx([0.005], abs=0.0021)


def test_in_a_private_run_only_what_is_trained_changes():
    after, _ = a_round(aggregation(private=True), 1, MODEL, trained)
    for key in MODEL.keys() - TRAINED:
        assert after[key].tobytes() == MODEL[key].tobytes()
    assert (after["weight"] < MODEL["weight"]).all()


def test_what_becomes_not_finite_is_refused_by_name():
    def spoiled(_node, arrays):
        arrays["running_var"][1] = np.inf

    with pytest.raises(RunError, match="FedAvg made running_var not finite in round 1; lower the learning rates"):
        a_round(aggregation(), 1, MODEL, spoiled)


def test_a_memory_of_the_whole_model_becomes_one_of_what_is_trained():
    # Earlier versions gave the strategy all of the model.
    order = list(MODEL)
    made = aggregation("FedAvgM")
    old = {
        f"momentum_vector/{place}": np.full(MODEL[name].shape, place, np.float32) for place, name in enumerate(order)
    }
    first, _ = a_round(made, 2, MODEL, trained, old)
    place = order.index("weight")
    now = {"momentum_vector/0": np.full((2, 3), place, np.float32)}
    second, _ = a_round(aggregation("FedAvgM"), 2, MODEL, trained, now)
    np.testing.assert_array_equal(first["weight"], second["weight"])
    named = {f"{kind}/{name}": np.ones(MODEL[name].shape, np.float32) for kind in ("m_t", "v_t") for name in MODEL}
    _, memory = a_round(aggregation("FedAdam"), 2, MODEL, trained, named)
    assert memory.keys() == {"m_t/weight", "v_t/weight"}


@pytest.mark.parametrize(
    ("sent", "returned", "weights", "expected"),
    [
        (np.array([5]), [[7], [7], [7]], [1, 1, 1], [7]),
        (np.array([2**53 + 1]), [[2**53 + 3], [2**53 + 5]], [1, 1], [2**53 + 5 - 1]),
        (np.array([0, 4]), [[3, 4], [0, 4]], [3, 1], [2, 4]),
        (np.array([250], np.uint8), [[255], [251]], [1, 1], [253]),
        (np.array([2**64 - 4], np.uint64), [[2**64 - 2], [2**64 - 2]], [1, 2], [2**64 - 2]),
        (np.array([True, False, False]), [[True, True, True], [True, True, False]], [1, 2], [True, True, False]),
        (np.array([1 + 1j], np.complex64), [[2 + 1j], [4 + 3j]], [1, 1], [3 + 2j]),
        (np.array([0.0, -np.inf]), [[1.0, -np.inf], [2.0, -np.inf]], [1, 3], [1.75, -np.inf]),
        (np.array([0, 0], np.float16), [[1, 0]] * 1000, [1] * 1000, [1, 0]),
    ],
)
def test_what_clients_count(sent, returned, weights, expected):
    arrays = [np.array(value, sent.dtype) for value in returned]
    found = counted(sent, arrays, [float(weight) for weight in weights])
    assert found.dtype == sent.dtype
    np.testing.assert_array_equal(found, np.array(expected, sent.dtype))


def test_bits_are_compared_and_not_values():
    zeros = np.array([0.0, -0.0])
    assert bits_equal(zeros, zeros[::-1].copy()).tolist() == [False, False]
    assert bits_equal(NAN, NAN).all()
    assert not bits_equal(NAN, NAN[::-1].copy()).any()
    assert bits_equal(np.array(np.nan), np.array(np.nan)).shape == ()


def grid_with(changes, **settings):
    """Return the replies of one node that changes arrays of the model, as the checks let them pass."""

    def answer(message):
        arrays = {name: array.numpy() for name, array in message.content[protocol.ARRAYS].items()} | changes
        return RecordDict(
            {
                protocol.ARRAYS: ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()}),
                "metrics": MetricRecord({protocol.WEIGHT: 1.0}),
            }
        )

    inner = InProcessGrid(answer, [5])
    grid = ValidatingGrid(
        inner, metrics=frozenset({protocol.WEIGHT}), weight_key=protocol.WEIGHT, public_weight=None, **settings
    )
    content = RecordDict({protocol.ARRAYS: ArrayRecord({name: Array(value) for name, value in MODEL.items()})})
    (reply,) = grid.send_and_receive([inner.create_message(content, "train", 5, "")])
    return reply.error.reason if reply.has_error() else ""


@pytest.mark.parametrize("fixed", [False, True])
def test_constants_pass_the_checks_whatever_they_are(fixed):
    assert grid_with({"weight": MODEL["weight"] + 1}, trained=TRAINED, fixed=fixed) == ""
    # In another layout they are the same.
    assert grid_with({"mask": np.asfortranarray(MODEL["mask"])}, trained=TRAINED, fixed=fixed) == ""


@pytest.mark.parametrize(
    ("name", "value", "fixed", "reason"),
    [
        ("mask", np.array([[0, np.inf], [-0.0, np.inf]], np.float32), False, "mask has 1 values that are not finite"),
        ("running_var", np.array([1, np.nan, np.inf], np.float32), False, "running_var has 2 values that are not"),
        ("running_var", np.full(3, 0.5, np.float32), True, "running_var was changed, and in a private run"),
        ("num_batches_tracked", np.array(1), True, "num_batches_tracked was changed"),
        ("mask", np.array([[-0.0, -np.inf], [-0.0, np.inf]], np.float32), True, "mask was changed"),
        ("weight", np.full((2, 3), np.inf, np.float32), True, "weight has 6 values that are not finite"),
    ],
)
def test_what_does_not_pass(name, value, fixed, reason):
    assert reason in grid_with({name: value}, trained=TRAINED, fixed=fixed)


def test_a_sum_keeps_constants():
    parameters = Parameters.plan(members=2, length=64, bits=16, bound=1.0, threshold=None, neighbours=None)
    layout = Layout()
    received = ArrayRecord({name: Array(value) for name, value in MODEL.items()})
    parameters = replace(parameters, length=layout.length(received))
    after = copy.deepcopy(MODEL) | {"weight": MODEL["weight"] + np.float32(0.5)}
    words = to_vector(
        layout,
        parameters,
        received=received,
        trained=ArrayRecord({name: Array(value) for name, value in after.items()}),
        metrics=MetricRecord(),
        random=np.random.default_rng(0),
    )
    total = from_total(layout, parameters, words=words + words, clients=2, sent=received)
    average = total.average(received)
    for name in CONSTANTS:
        assert average[name].data == received[name].data, name
    np.testing.assert_allclose(average["weight"].numpy(), after["weight"], atol=1e-3)


def test_clipping_an_update_keeps_constants():
    received = ArrayRecord({name: Array(value) for name, value in MODEL.items()})
    after = ArrayRecord({**received, "weight": Array(MODEL["weight"] + 1)})
    floating = frozenset(name for name, value in MODEL.items() if value.dtype.kind == "f")
    clipped, within = clip_reply(received=received, trained=after, trainable=floating, clip_norm=1.0)
    assert not within
    for name in CONSTANTS:
        assert clipped[name].data == received[name].data, name
    # An infinity in the mask would have made the whole update zero.
    assert float(np.linalg.norm(clipped["weight"].numpy() - MODEL["weight"])) == pytest.approx(1.0, rel=1e-5)


class Normalized(nn.Module):
    """A classifier with a batch normalisation, hash seeds, a mask with infinities, and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(64, 16).requires_grad_(requires_grad=False)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 10)
        self.register_buffer("seeds", torch.tensor([2**53 + 1]))
        self.register_buffer("mask", torch.zeros(10).index_fill(0, torch.tensor([3]), -torch.inf))

    def forward(self, inputs):
        return self.last(self.norm(self.frozen(inputs.flatten(1)))) + self.mask


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAvgM", "FedYogi"])
def test_rounds_of_a_model_with_everything(cache, strategy):
    momentum = {"server.parameters.server_momentum": 0.9} if strategy == "FedAvgM" else {}
    preparation = prepare(digits_experiment(cache, **{"server.strategy": strategy}, **momentum))
    preparation = replace(preparation, model=Normalized())
    clients = {100 + client: client for client in range(4)}

    def answer(message):
        model = Normalized()
        model.load_state_dict(message.content[protocol.ARRAYS].to_torch_state_dict())
        with torch.no_grad():
            model.norm.running_var.fill_(0.1)
            model.norm.num_batches_tracked += 2
            model.last.weight += 0.01 * (message.metadata.dst_node_id - 99)
        metrics = MetricRecord({protocol.WEIGHT: 10.0, protocol.LOSS: 1.0})
        return RecordDict({protocol.ARRAYS: ArrayRecord(model.state_dict()), "metrics": metrics})

    rounds = Rounds(Channel(grid=InProcessGrid(answer, clients), clients=clients), preparation, None, done=0)
    state = first = initial_state(preparation)
    for _ in range(3):
        state = rounds.next(state, on_start=lambda *_: None, on_reply=lambda _: None)
        assert state.round_log[-1].dropped == ()
    for name in ("frozen.weight", "frozen.bias", "seeds", "mask"):
        assert state.model[name].tobytes() == first.model[name].tobytes()
    np.testing.assert_allclose(state.model["norm.running_var"], np.full(16, 0.1), rtol=1e-6)
    assert int(state.model["norm.num_batches_tracked"]) == 6
    assert (state.model["last.weight"] != first.model["last.weight"]).all()


def test_a_robust_strategy_says_what_it_does_not_bound():
    robust = from_flat({"server.strategy": "FedMedian"})
    said = of_statistics(robust, Normalized())
    assert "FedMedian bounds what a client does to trained parameters alone" in said
    assert "norm.running_mean, norm.running_var" in said
    assert of_statistics(robust, nn.Linear(2, 2)) == ""
    assert of_statistics(from_flat({}), Normalized()) == ""


@pytest.mark.parametrize("name", ["FedAvg", *SETTINGS])
def test_what_the_strategy_wrote_is_sent_as_it_is(name):
    made = aggregation(name, **SETTINGS.get(name, {}))
    model, memory = a_round(made, 1, MODEL, trained)
    sent = made.as_sent(model)
    for key, value in model.items():
        assert (sent[key].dtype, sent[key].data) == (Array(value).dtype, Array(np.array(value)).data), key
    other = aggregation(name, **SETTINGS.get(name, {}))
    again = {key: np.array(value) for key, value in model.items()}
    ours, theirs = a_round(made, 2, model, trained, memory)[0], a_round(other, 2, again, trained, memory)[0]
    assert all(bits_equal(ours[key], theirs[key]).all() for key in model)


def test_a_model_is_not_written_anew_for_each_round():
    made = aggregation()
    model, _ = a_round(made, 1, MODEL, trained)
    assert made.as_sent(model)["weight"].data is made.as_sent(model)["weight"].data
    other = {**model, "weight": np.array(model["weight"]) + 1}
    assert made.as_sent(other)["weight"].data == Array(other["weight"]).data
