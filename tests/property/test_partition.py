"""Whatever the labels: every record belongs to exactly one client, and equal inputs give equal splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtrain.config import Data, Partition
from fedtrain.data import ClassTarget, Columns, DataInfo, DataStore, Split, partition
from fedtrain.data.partition import largest_remainder
from fedtrain.errors import DataError

CLASSES = 6
labels = st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=60)
clients = st.integers(1, 8)
seeds = st.integers(0, 2**63 - 1)


def store(values, owners=None):
    records = Split(
        features=np.zeros((len(values), 1), dtype=np.float32),
        targets=np.array(values, dtype=np.int64),
        owners=None if owners is None else np.array(owners, dtype=np.int64),
    )
    info = DataInfo(features=Columns(shape=(1,)), target=ClassTarget(names=tuple("abcdef")))
    return DataStore(info=info, train=records, test=records)


def check(data_store, options, count, seed):
    """Split twice and check both; ``None`` where the split is refused, both times alike."""
    data = Data(partition=options)
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(partition(data_store, data, clients=count, seed=seed))
        except DataError as error:
            outcomes.append(error)
    first, again = outcomes
    if isinstance(first, DataError):
        assert str(first) == str(again)
        return None
    parts = [first.indices(client) for client in range(count)]
    assert first.clients == count
    assert all(part.dtype == np.int64 and part.size and np.all(np.diff(part) > 0) for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(data_store.train)))
    for client, part in enumerate(parts):
        np.testing.assert_array_equal(part, again.indices(client))
    return parts


@settings(deadline=None, max_examples=40)
@given(labels, clients, seeds)
def test_iid(values, count, seed):
    parts = check(store(values), Partition(kind="iid"), count, seed)
    assert (parts is None) == (count > len(values))
    if parts is not None:
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@settings(deadline=None, max_examples=40)
@given(labels, clients, seeds, st.floats(0.05, 1000))
def test_dirichlet(values, count, seed, alpha):
    parts = check(store(values), Partition(kind="dirichlet", alpha=alpha), count, seed)
    assert parts is not None or count > 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(any), st.integers(0, 10_000))
def test_largest_remainder(weights, total):
    proportions = np.array(weights) / np.sum(weights)
    counts = largest_remainder(proportions, total)
    assert counts.sum() == total
    assert counts.min() >= 0
    assert np.abs(counts - proportions * total).max() < 1 + 1e-9


@settings(deadline=None, max_examples=40)
@given(labels, clients, seeds, st.integers(1, CLASSES))
def test_pathological(values, count, seed, classes):
    values += list(range(CLASSES)) * 8  # a record of each class for each client
    parts = check(store(values), Partition(kind="pathological", classes_per_client=classes), count, seed)
    assert parts is not None or count < CLASSES
    if parts is not None:
        assert {len({values[row] for row in part}) for part in parts} == {classes}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, 9)), min_size=1, max_size=60), seeds)
def test_natural(records, seed):
    values, names = zip(*records, strict=True)
    owners = np.unique(names, return_inverse=True)[1]
    parts = check(store(values, owners), Partition(kind="natural", column="who"), owners.max() + 1, seed)
    assert [set(owners[part]) for part in parts] == [{client} for client in range(owners.max() + 1)]


def test_the_seed_has_no_part_in_natural_splits():
    data = Data(partition=Partition(kind="natural", column="who"))
    first, second = (partition(store([0, 1, 0], [1, 0, 1]), data, clients=2, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first.rows, second.rows)
    with pytest.raises(DataError, match="2 owners"):
        partition(store([0, 1, 0], [1, 0, 1]), data, clients=1, seed=0)
