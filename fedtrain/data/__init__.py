"""Data sources, the cache of decoded tensors, and the split over clients."""

from fedtrain.data.partition import (
    Partitions,
    client_names,
    format_histogram,
    label_histogram,
    open_simulated,
    partition,
)
from fedtrain.data.store import open_store, open_test
from fedtrain.data.types import (
    WIDE,
    ClassTarget,
    Columns,
    DataInfo,
    DataStore,
    Encoded,
    Image,
    Labels,
    LabelsTarget,
    NumberTarget,
    Sound,
    Split,
    Text,
    Tokens,
    lengths_of,
)

__all__ = [
    "WIDE",
    "ClassTarget",
    "Columns",
    "DataInfo",
    "DataStore",
    "Encoded",
    "Image",
    "Labels",
    "LabelsTarget",
    "NumberTarget",
    "Partitions",
    "Sound",
    "Split",
    "Text",
    "Tokens",
    "client_names",
    "format_histogram",
    "label_histogram",
    "lengths_of",
    "open_simulated",
    "open_store",
    "open_test",
    "partition",
]
