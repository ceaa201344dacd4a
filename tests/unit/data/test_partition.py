import hashlib
import warnings
from dataclasses import replace

import numpy as np
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data import (
    ClassTarget,
    Columns,
    DataInfo,
    DataStore,
    Partitions,
    Split,
    client_names,
    format_histogram,
    label_histogram,
    open_store,
    partition,
)
from fedtrain.data.partition import assign, largest_remainder
from fedtrain.errors import DataError


def made(labels, owners=None):
    """A store in memory, whose only feature is the number of the record."""
    labels = np.asarray(labels, dtype=np.int64)
    classes = tuple(f"c{label}" for label in range(labels.max() + 1))
    records = Split(
        features=np.arange(len(labels), dtype=np.float32)[:, None],
        targets=labels,
        owners=None if owners is None else np.asarray(owners, dtype=np.int64),
    )
    return DataStore(
        info=DataInfo(features=Columns(shape=(1,)), target=ClassTarget(names=classes)), train=records, test=records
    )


def split(store, clients, seed=0, **options):
    return partition(store, Data(partition=Partition(**options)), clients=clients, seed=seed)


def parts(partitions):
    return [partitions.indices(client).tolist() for client in range(partitions.clients)]


def fingerprint(partitions):
    digest = hashlib.sha256()
    for client in range(partitions.clients):
        digest.update(partitions.indices(client).astype("<i8").tobytes() + b"|")
    return digest.hexdigest()[:16]


def test_a_table_of_named_clients_has_the_names():
    text = format_histogram(np.array([[1, 2], [3, 4]]), ("a", "b"), ("Mercy", "St. John"))
    assert text.splitlines() == ["client  a  b  total", "     0  1  2      3  Mercy", "     1  3  4      7  St. John"]
    many = format_histogram(np.ones((10_000, 2), np.int64), ("a", "b"), tuple(map(str, range(10_000))))
    assert len(many.splitlines()) == 4


def test_iid_parts_are_drawn_and_of_even_size():
    store = made(np.arange(103) % 2)
    drawn = split(store, 10)
    assert sorted(len(part) for part in parts(drawn)) == [10] * 7 + [11] * 3
    assert sorted(row for part in parts(drawn) for row in part) == list(range(103))
    assert all(part == sorted(part) for part in parts(drawn))
    assert parts(drawn)[0] != list(range(11))
    assert parts(split(store, 10, seed=1)) != parts(drawn)


def test_dirichlet_draws_as_flower_datasets_and_rounds_to_the_nearest_records():
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    labels = np.random.default_rng(0).integers(0, 5, 300)
    theirs = DirichletPartitioner(
        num_partitions=6, partition_by="label", alpha=0.5, min_partition_size=1, self_balancing=False, seed=11
    )
    theirs.dataset = Dataset.from_dict({"label": labels, "row": np.arange(300)})
    ours = split(made(labels), 6, seed=11, kind="dirichlet", alpha=0.5)
    off = [
        np.bincount(labels[theirs.load_partition(client)["row"]], minlength=5)
        - np.bincount(labels[ours.indices(client)], minlength=5)
        for client in range(6)
    ]
    # The same proportions: of each class a client has as many, but for a record at most.
    assert np.abs(off).max() == 1
    assert not np.sum(off, axis=0).any()


def flower_datasets(partitioner, labels, order, owners):
    """The records of each client as Flower Datasets splits them, of records that lie in an order."""
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"row": order, "label": labels[order], "owner": owners[order]})
    clients = range(partitioner.num_partitions)
    return [sorted(partitioner.load_partition(client)["row"]) for client in clients]


@pytest.mark.parametrize(("records", "clients", "classes"), [(103, 10, 3), (97, 97, 1), (60, 7, 5), (50, 1, 5)])
def test_other_splits_are_those_of_flower_datasets(records, clients, classes, capsys):
    from flwr_datasets.partitioner import IidPartitioner, NaturalIdPartitioner, PathologicalPartitioner

    generator = np.random.default_rng(records)
    labels, as_they_lie = generator.permutation(np.arange(records) % 5), np.arange(records)
    owners = generator.permutation(as_they_lie % clients * 3)
    store, pathological = made(labels, owners), {"kind": "pathological", "classes_per_client": classes}
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(records)
        theirs = flower_datasets(IidPartitioner(num_partitions=clients), labels, shuffled, owners)
        assert parts(split(store, clients, seed=seed)) == theirs
        partitioner = PathologicalPartitioner(
            num_partitions=clients,
            partition_by="label",
            num_classes_per_partition=classes,
            class_assignment_mode="first-deterministic",
            shuffle=False,
            seed=seed,
        )
        theirs = flower_datasets(partitioner, labels, as_they_lie, owners)
        assert parts(split(store, clients, seed=seed, **pathological)) == theirs
    theirs = flower_datasets(NaturalIdPartitioner(partition_by="owner"), labels, as_they_lie, owners)
    assert parts(split(store, clients, kind="natural", column="who")) == theirs
    capsys.readouterr()  # a progress bar of theirs


def test_a_class_with_more_clients_than_records_is_named():
    with pytest.raises(DataError, match="'pathological' with 8 clients: 8 of them hold class 1, which has 2 records"):
        split(made([0] * 10 + [1] * 2), 8, kind="pathological", classes_per_client=2)


@pytest.mark.parametrize(
    ("proportions", "total", "counts"),
    [
        ([0.5, 0.3, 0.2], 7, [4, 2, 1]),
        ([0.5, 0.3, 0.2], 0, [0, 0, 0]),
        ([1.0, 0.0], 5, [5, 0]),
        ([0.25] * 4, 2, [1, 1, 0, 0]),
        ([0.9999999999999999, 1e-16], 10, [10, 0]),
        # What is cut off of running sums gives the last its record: 2, 0, 0, 1.
        ([0.98, 1e-9, 1e-9, 0.02 - 2e-9], 3, [3, 0, 0, 0]),
    ],
)
def test_proportions_are_rounded_by_largest_remainder(proportions, total, counts):
    assert largest_remainder(np.array(proportions), total).tolist() == counts


@pytest.mark.parametrize("options", [{"kind": "dirichlet", "alpha": 0.1}, {"kind": "pathological"}, {"kind": "iid"}])
def test_no_place_among_the_clients_leans(options):
    records = made(np.arange(5000) % 10).train
    seeds, clients = 24, 10
    drawn = [assign(records, Partition(**options), clients=clients, seed=seed) for seed in range(seeds)]
    cells = [np.bincount(holders * 10 + records.targets, minlength=100).reshape(clients, 10) for holders in drawn]
    classes = np.array([(counts > 0).sum(axis=1) for counts in cells])
    sizes = np.array([counts.sum(axis=1) for counts in cells])
    for measured in (classes, sizes):
        place = measured.mean(axis=0)
        # The means of 24 draws, of which none is far from the mean of all.
        assert np.abs(place - measured.mean()).max() <= 3.5 * measured.std() / seeds**0.5


# The records of each client, from another implementation, in exact fractions, on numpy's generator.
DIRICHLET = [
    (0.5, 3, [[2, 5, 8], [0, 1, 3, 4, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17]]),
    (1.0, 0, [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12, 15], [13, 14, 17], [16]]),
    (0.2, 7, [[0, 2, 3, 5], [1, 4, 6, 7, 8, 9, 10, 11, 12, 14, 15, 17], [13, 16]]),
]


@pytest.mark.parametrize(("alpha", "seed", "expected"), DIRICHLET)
def test_a_small_dirichlet_split_is_fixed(alpha, seed, expected):
    drawn = split(made(np.arange(18) % 3), len(expected), seed=seed, kind="dirichlet", alpha=alpha)
    assert parts(drawn) == expected


def test_a_small_alpha_is_more_skewed_than_a_large_one():
    store = made(np.arange(1000) % 10)

    def skew(alpha):
        drawn = split(store, 5, kind="dirichlet", alpha=alpha)
        return np.mean(
            [np.bincount(store.train.targets[part], minlength=10).max() / len(part) for part in parts(drawn)]
        )

    assert skew(0.1) > 2 * skew(100.0)


def test_dirichlet_that_leaves_clients_empty_names_them():
    with warnings.catch_warnings(record=True) as seen, pytest.raises(DataError, match="without records: 0") as caught:
        split(made([0] * 50), 40, kind="dirichlet", alpha=0.01)
    assert "and 27 more; use fewer clients, more records, or a larger partition.alpha" in str(caught.value)
    assert not seen


def test_pathological_clients_hold_so_many_classes():
    store = made(np.arange(200) % 10)
    for classes in (1, 2, 5):
        drawn = split(store, 20, kind="pathological", classes_per_client=classes)
        assert {len(np.unique(store.train.targets[part])) for part in parts(drawn)} == {classes}
        assert sorted(row for part in parts(drawn) for row in part) == list(range(200))


def test_pathological_that_leaves_out_classes_names_them():
    with pytest.raises(DataError, match="3 clients of 1 classes gives 2 classes to no client: c3, c4; use at least 5"):
        split(made(np.arange(50) % 5), 3, kind="pathological", classes_per_client=1)


def test_pathological_with_more_classes_than_there_are_is_refused():
    with pytest.raises(DataError, match=r"'pathological' with 3 clients: .* = 4 is greater than the number"):
        split(made(np.arange(50) % 2), 3, kind="pathological", classes_per_client=4)


def test_natural_clients_are_the_owners_in_order(capsys):
    drawn = split(made([0, 1, 0, 1, 1], owners=[2, 0, 1, 0, 2]), 3, kind="natural", column="who")
    assert parts(drawn) == [[1, 3], [2], [0, 4]]
    assert capsys.readouterr().err == ""


def test_natural_needs_a_client_for_each_owner():
    store = made([0, 1, 0, 1, 1], owners=[2, 0, 1, 0, 2])
    with pytest.raises(DataError, match=r"'who' names 3 owners, but there are 4 clients; .* federation.clients = 3"):
        split(store, 4, kind="natural", column="who")


def test_clients_have_the_names_of_their_owners():
    names = ("General\x1b[2J", "unused", "x" * 100, "Mercy")
    store = replace(made([0, 1, 0, 1, 1], owners=[3, 0, 2, 0, 3]), owners=names)
    natural = Data(source="digits", partition=Partition(kind="natural", column="who"))
    assert client_names(store, natural) == ("General\N{REPLACEMENT CHARACTER}[2J", "x" * 59 + "…", "Mercy")
    assert client_names(store, Data(source="digits", partition=Partition(kind="iid", column="who"))) == ()
    assert client_names(made([0, 1], owners=[0, 1]), natural) == ()


def test_natural_needs_owners():
    with pytest.raises(DataError, match=r"needs the owner of each record: set partition.column"):
        split(made([0, 1]), 2, kind="natural", column="who")


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "pathological"])
def test_more_clients_than_records_are_refused(kind):
    with pytest.raises(DataError, match="4 clients cannot share 3 training records"):
        split(made([0, 1, 0]), 4, kind=kind)


@pytest.mark.parametrize("client", [-1, 2])
def test_an_unknown_client_is_refused(client):
    with pytest.raises(DataError, match=f"there is no client {client}; the clients are 0 to 1"):
        split(made([0, 1, 0]), 2).indices(client)


# The splits of published experiments: a change here changes their numbers.
GOLDEN = {
    "iid": "5a432eb7f101b1c4",
    "dirichlet": "61627048dffa63c2",
    "pathological": "85441e047162ac52",
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_the_split_of_the_digits_is_fixed(kind):
    data = Data(partition=Partition(kind=kind))
    assert fingerprint(partition(open_store(data, seed=0), data, clients=10, seed=0)) == GOLDEN[kind]


def test_a_split_is_cached_beside_its_store():
    store = open_store(Data(), seed=0)
    first = split(store, 5)
    [folder] = (path for path in store.folder.parent.iterdir() if path.is_dir() and path != store.folder)
    before = (folder / "rows.npy").stat()
    again = split(store, 5)
    after = (folder / "rows.npy").stat()
    assert parts(first) == parts(again)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert isinstance(again.rows.base, np.memmap)
    assert again.indices(0).dtype == np.int64
    (folder / "rows.npy").unlink()
    assert parts(split(store, 5)) == parts(first)


def test_parameters_of_another_kind_do_not_split_anew():
    store = open_store(Data(), seed=0)
    split(store, 5, alpha=0.1)
    count = len(list(store.folder.parent.iterdir()))
    split(store, 5, alpha=0.2)
    assert len(list(store.folder.parent.iterdir())) == count
    split(store, 5, seed=1)
    assert len(list(store.folder.parent.iterdir())) > count


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
