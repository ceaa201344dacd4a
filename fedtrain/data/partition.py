"""Split the training records over the clients, and count what each has of each class."""

import contextlib
import hashlib
import io
import json
import os
import warnings
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data, Partition
from fedtrain.data.cache import Entry, cached
from fedtrain.data.store import open_store
from fedtrain.data.types import DataStore, Labels, Split
from fedtrain.errors import DataError
from fedtrain.progress import working

if TYPE_CHECKING:
    from datasets import Dataset
    from flwr_datasets.partitioner import Partitioner

FORMAT = 2
"""Version of the splits; raising it makes every cached split be computed again."""

_DRAWS = 11
_SHOWN = 10
_MAX_ROWS = 20
_MAX_COLUMNS = 12
_MAX_CLASSES = 40
_MAX_NAME = 14
_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Partitions:
    """Which training records each client holds: every record belongs to exactly one client, and none is empty.

    Attributes:
        offsets: shape (clients + 1,): client i holds ``rows[offsets[i]:offsets[i + 1]]``.
        rows: shape (records,), indices into the training records, sorted within each client; may be memory-mapped.
    """

    offsets: Labels
    rows: Labels

    @property
    def clients(self) -> int:
        """The number of clients."""
        return len(self.offsets) - 1

    def indices(self, client: int) -> Labels:
        """Return the training records of a client, int64, sorted.

        Raises:
            DataError: there is no such client.
        """
        if not 0 <= client < self.clients:
            raise DataError(f"there is no client {client}; the clients are 0 to {self.clients - 1}")
        return self.rows[self.offsets[client] : self.offsets[client + 1]]


def partition(store: DataStore, data: Data, *, clients: int, seed: int) -> Partitions:
    """Split the training records of a store as ``data.partition`` says.

    The result is a function of the labels and owners in the store, the parameters of the partitioner, the number of
    clients and the seed, and is cached beside the store.

    - ``iid``: a seeded shuffle, cut into parts whose sizes differ by one at most.
    - ``dirichlet``: the records of each class go to the clients in proportions drawn from Dirichlet(alpha), rounded to
      whole records by largest remainder.
    - ``pathological``: each client holds ``classes_per_client`` classes.
    - ``natural``: a client is an owner, in the sorted order of the owners; the seed has no effect.

    Raises:
        DataError: the records cannot be split so that each belongs to one client and no client is empty.
        StorageError: the cache cannot be written.
    """
    _check(store, data, clients)
    options = data.partition
    facts = {
        "format": FORMAT,
        "kind": options.kind,
        "clients": clients,
        "seed": None if options.kind == "natural" else seed,
        "alpha": options.alpha if options.kind == "dirichlet" else None,
        "classes_per_client": options.classes_per_client if options.kind == "pathological" else None,
    }

    def build() -> Entry:
        with working("splitting the records over the clients"):
            return _build(store, data, clients=clients, seed=seed)

    if store.folder is None:
        entry = build()
    else:
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        entry = cached(store.folder.with_name(f"{store.folder.name}-{options.kind}-{digest}"), build)
    return Partitions(offsets=entry.arrays["offsets"], rows=entry.arrays["rows"])


def open_simulated(data: Data, *, clients: int, seed: int) -> tuple[DataStore, Partitions]:
    """Open a data set, and split its training records over simulated clients.

    Raises:
        DataError: as `open_store` and `partition`.
        StorageError: the cache cannot be written.
    """
    store = open_store(data, seed=seed)
    return store, partition(store, data, clients=clients, seed=seed)


def _check(store: DataStore, data: Data, clients: int) -> None:
    records = len(store.train)
    if clients > records:
        raise DataError(f"{clients} clients cannot share {records} training records: each needs at least one")
    if data.partition.kind == "natural":
        if store.train.owners is None:
            raise DataError('partition.kind = "natural" needs the owner of each record: set partition.column')
        owners = len(np.unique(store.train.owners))
        if owners != clients:
            raise DataError(
                f"partition.column = {data.partition.column!r} names {owners} owners, but there are {clients} clients; "
                f"a client is an owner: set federation.clients = {owners}"
            )


def _build(store: DataStore, data: Data, *, clients: int, seed: int) -> Entry:
    parts = assign(store.train, data.partition, clients=clients, seed=seed)
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    empty = np.flatnonzero(sizes == 0)
    if empty.size:
        named = ", ".join(str(client) for client in empty[:_SHOWN])
        more = f" and {empty.size - _SHOWN} more" if empty.size > _SHOWN else ""
        raise DataError(
            f"partition.kind = {data.partition.kind!r} with {clients} clients leaves these without records: "
            f"{named}{more}; use fewer clients, more records, or a larger partition.alpha"
        )
    rows = np.concatenate(parts)
    if len(rows) < len(store.train):
        left_out = np.setdiff1d(store.train.targets, store.train.targets[rows])
        named = ", ".join(store.info.classes[label] for label in left_out[:_SHOWN])
        raise DataError(
            f"partition.kind = {data.partition.kind!r} with {clients} clients of {data.partition.classes_per_client} "
            f"classes gives {left_out.size} classes to no client: {named}; use at least {len(store.info.classes)} "
            "clients, or a larger partition.classes_per_client"
        )
    return Entry(meta={}, arrays={"offsets": np.concatenate([[0], np.cumsum(sizes)]), "rows": rows})


def assign(records: Split, options: Partition, *, clients: int, seed: int) -> list[Labels]:
    """Return the rows of each client, sorted. A client may be left without any, and a class without a client.

    ``dirichlet`` draws the proportions that Flower Datasets draws for the same labels, alpha and seed with
    ``min_partition_size=1``, up to eleven times until no client is empty. It rounds them by largest remainder: Flower
    Datasets cuts off the fractions of their running sums, which gives the last client a record of about every class.
    The other kinds are those of Flower Datasets; ``pathological`` is the assignment of Li et al., "Federated Learning
    on Non-IID Data Silos", which is its ``first-deterministic``.

    Raises:
        DataError: the partitioner cannot split these records as asked.
    """
    if options.kind == "dirichlet":
        return _dirichlet(records.targets, options.alpha, clients=clients, seed=seed)
    from datasets import Dataset  # noqa: PLC0415 - it takes a second, which a cached split need not pay

    rows = np.arange(len(records))
    if options.kind == "iid":  # the partitioner cuts the records as they lie
        rows = np.random.default_rng(seed).permutation(rows)
    columns = {"row": rows, "label": records.targets[rows]}
    if options.kind == "natural":
        assert records.owners is not None  # checked by the caller
        columns["owner"] = records.owners[rows]
    dataset = Dataset.from_dict(columns)
    try:
        return _run(_partitioner(options, clients, seed), dataset, clients)
    except ValueError as error:
        raise DataError(f"partition.kind = {options.kind!r} with {clients} clients: {error}") from error


def _dirichlet(labels: NDArray[Any], alpha: float, *, clients: int, seed: int) -> list[Labels]:
    """Draw until no client is empty, eleven times at most; return the first draw if one was in each."""
    generator = np.random.default_rng(seed)
    of_classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    draws = (_draw(of_classes, np.full(clients, alpha), generator) for _ in range(_DRAWS))
    first = next(draws)
    return next((parts for parts in chain([first], draws) if min(map(len, parts)) > 0), first)


def _draw(of_classes: list[Labels], alphas: NDArray[np.float64], generator: np.random.Generator) -> list[Labels]:
    parts: list[list[Labels]] = [[] for _ in alphas]
    for rows in of_classes:
        counts = largest_remainder(generator.dirichlet(alphas), len(rows))
        for part, taken in zip(parts, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            part.append(taken)
    return [np.sort(np.concatenate(part)) for part in parts]


def largest_remainder(proportions: NDArray[np.float64], total: int) -> Labels:
    """Return whole numbers of a sum that are nearest to its proportions (Hamilton's method).

    Each is its share without the fraction; what is left goes, one each, to the largest fractions, and of equal ones to
    the first.

    Args:
        proportions: shape (n,), at least 0, of sum 1.
        total: the sum, at least 0.

    Returns:
        Numbers, shape (n,), int64, of the sum ``total``, each less than 1 away from its share.

    Example:
        >>> largest_remainder(np.array([0.5, 0.3, 0.2]), 7).tolist()
        [4, 2, 1]
    """
    shares = proportions * total
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: total - counts.sum()]] += 1
    return counts


def _partitioner(options: Partition, clients: int, seed: int) -> "Partitioner":
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # flwr_datasets reads it when it is imported, so this comes first
    from flwr_datasets.partitioner import (  # noqa: PLC0415
        IidPartitioner,
        NaturalIdPartitioner,
        PathologicalPartitioner,
    )

    if options.kind == "iid":
        return IidPartitioner(num_partitions=clients)
    if options.kind == "natural":
        return NaturalIdPartitioner(partition_by="owner")
    return PathologicalPartitioner(
        num_partitions=clients,
        partition_by="label",
        num_classes_per_partition=options.classes_per_client,
        class_assignment_mode="first-deterministic",
        shuffle=False,
        seed=seed,
    )


def _run(partitioner: "Partitioner", dataset: "Dataset", clients: int) -> list[Labels]:
    partitioner.dataset = dataset
    with (
        warnings.catch_warnings(action="ignore", category=UserWarning),  # of what is an error here
        contextlib.redirect_stderr(io.StringIO()),  # a progress bar that cannot be turned off
    ):
        return [
            np.sort(np.array(partitioner.load_partition(client)[:]["row"], dtype=np.int64)) for client in range(clients)
        ]


def client_names(store: DataStore, data: Data) -> tuple[str, ...]:
    """Return the name of each client where a client is an owner that has one; nothing where it is not.

    A column of the data has the names, and anything may be in it: they are in one line each, and of 60 characters at
    most.
    """
    if data.partition.kind != "natural" or not store.owners or store.train.owners is None:
        return ()
    return tuple(_clean(store.owners[code]) for code in np.unique(store.train.owners))


def _clean(name: str) -> str:
    visible = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return visible if len(visible) <= _LONGEST_NAME else f"{visible[: _LONGEST_NAME - 1]}…"


def label_histogram(store: DataStore, partitions: Partitions) -> Labels:
    """Count the training records of each client and class.

    Returns:
        Counts, shape (clients, classes), int64.
    """
    clients, classes = partitions.clients, len(store.info.classes)
    owner = np.repeat(np.arange(clients), np.diff(partitions.offsets))
    cells = owner * classes + store.train.targets[partitions.rows]
    return np.bincount(cells, minlength=clients * classes).reshape(clients, classes).astype(np.int64)


def format_histogram(histogram: Labels, classes: tuple[str, ...], names: tuple[str, ...] = ()) -> str:
    """Render the counts as a text table without a final newline.

    Up to 20 clients and 12 classes are shown in full, with each client's total, and its name where it has one. More are
    summed up: a row for each class with the minimum, median and maximum over the clients and the number of clients that
    hold the class, and a row for the totals. More than 40 classes have one row for all.
    """
    totals = histogram.sum(axis=1)
    if len(histogram) <= _MAX_ROWS and len(classes) <= _MAX_COLUMNS:
        rows = [["client", *(_short(name) for name in classes), "total"]]
        rows += [
            [str(client), *(str(count) for count in counts), str(total)]
            for client, (counts, total) in enumerate(zip(histogram, totals, strict=True))
        ]
        lines = _table(rows).split("\n")
        named = zip(lines, ("", *names), strict=True) if names else ((line, "") for line in lines)
        return "\n".join(f"{line}  {name}".rstrip() for line, name in named)
    rows = [["class", "min", "median", "max", "clients"]]
    if len(classes) <= _MAX_CLASSES:
        rows += [[_short(name), *_summary(histogram[:, label])] for label, name in enumerate(classes)]
    else:
        rows.append([f"each of {len(classes)}", *_summary(histogram)[:3], ""])
    rows.append(["total", *_summary(totals)])
    return _table(rows)


def _summary(counts: Labels) -> list[str]:
    middle = f"{np.median(counts):g}"
    return [str(counts.min()), middle, str(counts.max()), str(np.count_nonzero(counts))]


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
