import numpy as np

from fedtrain.data import (
    ClassTarget,
    Columns,
    DataInfo,
    DataStore,
    Partitions,
    Split,
    format_histogram,
    label_histogram,
)


def test_counts_of_each_client_and_class():
    labels = np.array([0, 2, 2, 1, 0, 2])
    records = Split(features=np.zeros((6, 1), dtype=np.float32), targets=labels)
    info = DataInfo(features=Columns(shape=(1,)), target=ClassTarget(names=("a", "b", "c", "d")))
    partitions = Partitions(offsets=np.array([0, 2, 6]), rows=np.array([1, 4, 0, 2, 3, 5]))
    histogram = label_histogram(DataStore(info=info, train=records, test=records), partitions)
    assert histogram.dtype == np.int64
    assert histogram.tolist() == [[1, 0, 1, 0], [1, 1, 2, 0]]


def test_few_clients_are_shown_in_full():
    text = format_histogram(np.array([[1, 20], [300, 4]]), ("cat", "a very long class name"))
    assert text.splitlines() == [
        "client  cat  a very long c…  total",
        "     0    1              20     21",
        "     1  300               4    304",
    ]


def test_many_clients_are_summed_up():
    histogram = np.column_stack([np.arange(30), np.full(30, 7)])
    assert format_histogram(histogram, ("cat", "dog")).splitlines() == [
        "class  min  median  max  clients",
        "  cat    0    14.5   29       29",
        "  dog    7       7    7       30",
        "total    7    21.5   36       30",
    ]


def test_many_classes_are_summed_up():
    lines = format_histogram(np.ones((2, 13), dtype=np.int64), tuple(f"c{label}" for label in range(13))).splitlines()
    assert len(lines) == 15
    assert lines[-1].split() == ["total", "13", "13", "13", "2"]
