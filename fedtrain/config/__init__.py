"""The experiment, typed and validated."""

from fedtrain.config.loading import flatten, from_flat, parse_settings, read_flat, read_toml, to_flat
from fedtrain.config.sections import (
    Data,
    Experiment,
    Federation,
    Output,
    Partition,
    Privacy,
    SecureAggregation,
    Server,
    StrategyParameters,
    TaskConfig,
    Training,
    Transport,
    aggregation_problem,
)

__all__ = [
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
