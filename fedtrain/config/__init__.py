"""The experiment, typed and validated."""

from fedtrain.config.loading import flatten, from_flat, parse_settings, read_toml, to_flat
from fedtrain.config.sections import (
    Data,
    Experiment,
    Federation,
    Output,
    Partition,
    Privacy,
    Server,
    StrategyParameters,
    TaskConfig,
    Training,
)

__all__ = [
    "Data",
    "Experiment",
    "Federation",
    "Output",
    "Partition",
    "Privacy",
    "Server",
    "StrategyParameters",
    "TaskConfig",
    "Training",
    "flatten",
    "from_flat",
    "parse_settings",
    "read_toml",
    "to_flat",
]
