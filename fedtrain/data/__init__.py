"""Data sources, the cache of decoded tensors, and the split over clients."""

from fedtrain.data.histogram import format_histogram, label_histogram
from fedtrain.data.partition import Partitions, open_simulated, partition
from fedtrain.data.store import open_store, open_test
from fedtrain.data.types import DataInfo, DataStore, Labels, Split

__all__ = [
    "DataInfo",
    "DataStore",
    "Labels",
    "Partitions",
    "Split",
    "format_histogram",
    "label_histogram",
    "open_simulated",
    "open_store",
    "open_test",
    "partition",
]
