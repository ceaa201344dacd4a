"""What every strategy of Flower that the configuration names has to keep, so that runs can be resumed."""

import copy
import gc
import inspect
import random

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from fedtrain.config import Experiment, from_flat
from fedtrain.config.sections import STRATEGY_PARAMETERS, StrategyParameters
from fedtrain.flower.grids.base import collect
from fedtrain.flower.messages import protocol
from fedtrain.serverapp.assembly import build_strategy, remembered, remind
from tests.fakes import InProcessGrid

CLIENTS = 8
NODES = range(100, 100 + CLIENTS)
EXPLICIT = {
    "eta": 0.3,
    "eta_l": 0.2,
    "beta_1": 0.8,
    "beta_2": 0.95,
    "tau": 0.01,
    "server_learning_rate": 0.5,
    "server_momentum": 0.9,
    "proximal_mu": 0.25,
    "beta": 0.25,
    "num_malicious_nodes": 1,
    "num_nodes_to_select": 3,
    "client_learning_rate": 0.7,
    "q": 0.5,
}
MODEL = {"layer/weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3, np.float32)}
# Attributes that say how a strategy was built, or that configure_train sets before they are read.
SET_IN_EACH_ROUND = {"current_arrays"}

CASES = [
    pytest.param(name, {key: EXPLICIT[key] for key in taken} if explicit else {}, id=f"{name}-{label}")
    for name, taken in STRATEGY_PARAMETERS.items()
    for label, explicit in (("default", False), ("explicit", True))
]


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    # Some strategies collect garbage once for each client, which takes long with torch in memory.
    gc.freeze()
    yield
    gc.unfreeze()


def experiment(name, parameters=None) -> Experiment:
    values = {"federation.clients": CLIENTS, "federation.cohort": CLIENTS, "server.strategy": name}
    return from_flat(values | {f"server.parameters.{key}": value for key, value in (parameters or {}).items()})


def train(message):
    """Move the model as a client might: in a direction of its own that depends on the round and on what it received."""
    generator = np.random.default_rng([message.metadata.dst_node_id, message.content[protocol.CONFIG][protocol.ROUND]])
    arrays = {
        name: Array((value.numpy() * 0.9 + generator.normal(0, 0.1, value.shape)).astype(np.float32))
        for name, value in message.content[protocol.ARRAYS].items()
    }
    metrics = {protocol.WEIGHT: float(generator.integers(10, 30)), protocol.LOSS: float(generator.uniform(0.5, 2))}
    return RecordDict({protocol.ARRAYS: ArrayRecord(arrays), "metrics": MetricRecord(metrics)})


def a_round(strategy, number, model):
    """Run one round as the server does, and return the new model."""
    grid = InProcessGrid(train, NODES)
    arrays = ArrayRecord({name: Array(value) for name, value in model.items()})
    random.seed(number)
    messages = list(strategy.configure_train(number, arrays, ConfigRecord({protocol.LEARNING_RATE: 0.1}), grid))
    assert len(messages) == CLIENTS
    result, _ = strategy.aggregate_train(number, collect(grid, messages, timeout=10))
    return {name: array.numpy() for name, array in result.items()}


def rounds(strategy, numbers, model=MODEL):
    for number in numbers:
        model = a_round(strategy, number, model)
    return model


def assert_same_bits(first, second):
    assert list(first) == list(second)
    for name, value in first.items():
        assert (value.dtype, value.shape, value.tobytes()) == (
            second[name].dtype,
            second[name].shape,
            second[name].tobytes(),
        )


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_it_runs_and_moves_the_model(name, parameters):
    after = rounds(build_strategy(experiment(name, parameters)), (1, 2))
    assert list(after) == list(MODEL)
    for key, value in after.items():
        assert value.shape == MODEL[key].shape
        assert np.isfinite(value).all()
        assert (value != MODEL[key]).all()


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_one_that_is_reminded_goes_on_as_if_it_had_never_stopped(name, parameters):
    config = experiment(name, parameters)
    whole = build_strategy(config)
    between = rounds(whole, (1, 2))
    memory = copy.deepcopy(remembered(whole))
    uninterrupted = rounds(whole, (3, 4), between)

    resumed = build_strategy(config)
    remind(resumed, memory)
    assert_same_bits(rounds(resumed, (3, 4), between), uninterrupted)
    assert_same_bits(remembered(resumed), remembered(whole))

    # The same for one that has gone astray since: what a round does depends on what it is reminded of alone.
    astray = build_strategy(config)
    rounds(astray, (7, 8, 9))
    remind(astray, memory)
    assert_same_bits(rounds(astray, (3, 4), between), uninterrupted)


@pytest.mark.parametrize("name", ["FedAdam", "FedYogi", "FedAdagrad", "FedAvgM"])
def test_forgetting_would_show(name):
    # The test above can fail: for these, a strategy without its memory makes another model.
    config = experiment(name, {key: EXPLICIT[key] for key in STRATEGY_PARAMETERS[name]})
    whole = build_strategy(config)
    between = rounds(whole, (1, 2))
    uninterrupted = rounds(whole, (3,), between)
    forgetful = rounds(build_strategy(config), (3,), between)
    assert any((forgetful[key] != uninterrupted[key]).any() for key in MODEL)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_it_carries_nothing_from_round_to_round_but_what_is_remembered(name, parameters):
    # A new version of Flower that keeps more would make resumed runs differ: this is where that is noticed.
    strategy = build_strategy(experiment(name, parameters))
    built = {key: repr(value) for key, value in vars(strategy).items()}
    model = rounds(strategy, (1,))
    covered = {key.partition("/")[0] for key in remembered(strategy)} | SET_IN_EACH_ROUND
    for number in (2, 3):
        changed = {key for key, value in vars(strategy).items() if repr(value) != built.get(key)}
        assert changed <= covered
        model = a_round(strategy, number, model)


@pytest.mark.parametrize("name", STRATEGY_PARAMETERS)
def test_the_parameters_are_those_of_flower(name):
    taken = inspect.signature(getattr(flower, name)).parameters
    assert set(STRATEGY_PARAMETERS[name]) <= set(taken)
    # And none of Flower's own is left out, but for those that every strategy has or that cannot be configured.
    common = set(inspect.signature(flower.FedAvg).parameters) | {"train_loss_key", "selection_rule"}
    assert set(taken) - common == set(STRATEGY_PARAMETERS[name])


@pytest.mark.parametrize("name", STRATEGY_PARAMETERS)
def test_unset_parameters_keep_the_defaults_of_flower(name):
    strategy = build_strategy(experiment(name))
    signature = inspect.signature(getattr(flower, name)).parameters
    # The one parameter without a default follows the experiment.
    expected = {key: signature[key].default for key in STRATEGY_PARAMETERS[name]} | (
        {"client_learning_rate": 0.1} if name == "QFedAvg" else {}
    )
    assert {key: getattr(strategy, key) for key in expected} == expected


@pytest.mark.parametrize("name", STRATEGY_PARAMETERS)
def test_set_parameters_arrive(name):
    parameters = {key: EXPLICIT[key] for key in STRATEGY_PARAMETERS[name]}
    strategy = build_strategy(experiment(name, parameters))
    assert {key: getattr(strategy, key) for key in parameters} == parameters


def test_every_parameter_belongs_to_a_strategy():
    assert set(StrategyParameters.model_fields) == set().union(*STRATEGY_PARAMETERS.values())
    assert type(build_strategy(experiment("Bulyan"))) is flower.Bulyan


@pytest.mark.parametrize("name", STRATEGY_PARAMETERS)
@pytest.mark.parametrize("nodes", [[], [7], list(NODES)], ids=len)
def test_it_asks_all_nodes_that_are_offered(name, nodes):
    strategy, grid = build_strategy(experiment(name)), InProcessGrid(train, nodes)
    arrays = ArrayRecord({key: Array(value) for key, value in MODEL.items()})
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    assert sorted(message.metadata.dst_node_id for message in messages) == sorted(nodes)


def test_qfedavg_follows_the_learning_rate_of_the_experiment_unless_told():
    base = experiment("QFedAvg")
    faster = base.model_copy(update={"training": base.training.model_copy(update={"learning_rate": 0.4})})
    assert build_strategy(faster).client_learning_rate == 0.4
    assert build_strategy(experiment("QFedAvg", {"client_learning_rate": 0.9})).client_learning_rate == 0.9


def test_fedprox_tells_the_clients():
    strategy = build_strategy(experiment("FedProx", {"proximal_mu": 0.25}))
    config = ConfigRecord()
    list(strategy.configure_train(1, ArrayRecord(), config, InProcessGrid(train, NODES)))
    assert config[protocol.PROXIMAL_MU] == 0.25
    assert config[protocol.ROUND] == 1
