"""Flower's strategies by name, and what they remember between rounds."""

from typing import cast

import numpy as np
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedtrain.config import Experiment
from fedtrain.flower.messages import protocol

Arrays = dict[str, NDArray[np.generic]]

# Everything that a strategy of Flower 1.41 carries from round to round, besides the model itself.
_MEMORY = ("m_t", "v_t", "momentum_vector")


def build_strategy(experiment: Experiment) -> FedAvg:
    """Build the configured strategy. It trains on all nodes that a grid offers, and has none evaluate."""
    parameters = {name: value for name, value in experiment.server.parameters if value is not None}
    if experiment.server.strategy == "FedProx":
        parameters.setdefault("proximal_mu", 0.0)
    if experiment.server.strategy == "QFedAvg":
        parameters.setdefault("client_learning_rate", experiment.training.learning_rate)
        parameters["train_loss_key"] = protocol.LOSS
    kind = getattr(flower, experiment.server.strategy)
    return cast(
        "FedAvg",
        kind(
            # A cohort is drawn before the strategy sees it, and a Poisson one may be empty. Evaluation is central.
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=0,
            min_available_nodes=0,
            weighted_by_key=protocol.WEIGHT,
            arrayrecord_key=protocol.ARRAYS,
            configrecord_key=protocol.CONFIG,
            **parameters,
        ),
    )


def remembered(strategy: FedAvg) -> Arrays:
    """Return what the strategy remembers, as named arrays."""
    arrays: Arrays = {}
    for name in _MEMORY:
        memory = getattr(strategy, name, None) or {}
        items = memory.items() if isinstance(memory, dict) else enumerate(memory)
        arrays.update({f"{name}/{key}": np.asarray(value) for key, value in items})
    return arrays


def remind(strategy: FedAvg, arrays: Arrays) -> None:
    """Put a strategy where one was that remembered these arrays, whatever it remembers now."""
    for name in filter(lambda name: hasattr(strategy, name), _MEMORY):
        memory = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{name}/")}
        is_list = name == "momentum_vector"
        setattr(strategy, name, ([memory[str(i)] for i in range(len(memory))] if is_list else memory) or None)
    if hasattr(strategy, "current_arrays"):
        # FedAvgM would start from its own last result, which is not yet in the types of the model that clients get.
        strategy.current_arrays = None
