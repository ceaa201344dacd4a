"""The experiment, typed and validated."""

from fedtrain.config.data import Data, Partition
from fedtrain.config.experiment import Experiment, aggregation_problem
from fedtrain.config.loading import flatten, from_flat, parse_settings, read_flat, read_toml, to_flat
from fedtrain.config.privacy import UNKNOWN_MODE, Privacy, SecureAggregation, Transport
from fedtrain.config.sections import (
    Federation,
    Output,
    Server,
    StrategyParameters,
    TaskConfig,
    Training,
)

__all__ = [
    "UNKNOWN_MODE",
    "Data",
    "Experiment",
    "Federation",
    "Output",
    "Partition",
    "Privacy",
    "SecureAggregation",
    "Server",
    "StrategyParameters",
    "TaskConfig",
    "Training",
    "Transport",
    "aggregation_problem",
    "flatten",
    "from_flat",
    "parse_settings",
    "read_flat",
    "read_toml",
    "to_flat",
]
