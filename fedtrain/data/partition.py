"""Split the training records over the clients, and count what each has of each class."""

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data, Partition
from fedtrain.data.cache import Entry, cached
from fedtrain.data.store import open_store
from fedtrain.data.types import DataStore, Labels, Split
from fedtrain.errors import DataError
from fedtrain.progress import working

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
    holders = assign(store.train, data.partition, clients=clients, seed=seed)
    sizes = np.bincount(holders[holders >= 0], minlength=clients)
    empty = np.flatnonzero(sizes == 0)
    if empty.size:
        named = ", ".join(str(client) for client in empty[:_SHOWN])
        more = f" and {empty.size - _SHOWN} more" if empty.size > _SHOWN else ""
        raise DataError(
            f"partition.kind = {data.partition.kind!r} with {clients} clients leaves these without records: "
            f"{named}{more}; use fewer clients, more records, or a larger partition.alpha"
        )
    if (holders < 0).any():
        left_out = np.setdiff1d(store.train.targets, store.train.targets[holders >= 0])
        named = ", ".join(store.info.classes[label] for label in left_out[:_SHOWN])
        raise DataError(
            f"partition.kind = {data.partition.kind!r} with {clients} clients of {data.partition.classes_per_client} "
            f"classes gives {left_out.size} classes to no client: {named}; use at least {len(store.info.classes)} "
            "clients, or a larger partition.classes_per_client"
        )
    # Sorted by client, and of one client as the records lie.
    rows = np.argsort(holders, kind="stable")
    return Entry(meta={}, arrays={"offsets": np.concatenate([[0], np.cumsum(sizes)]), "rows": rows})


def assign(records: Split, options: Partition, *, clients: int, seed: int) -> Labels:
    """Return the client of each record. A client may be left without any, and a class without a client.

    ``dirichlet`` draws the proportions that Flower Datasets draws for the same labels, alpha and seed with
    ``min_partition_size=1``, up to eleven times until no client is empty. It rounds them by largest remainder: Flower
    Datasets cuts off the fractions of their running sums, which gives the last client a record of about every class.
    The other kinds are those of Flower Datasets; ``pathological`` is the assignment of Li et al., "Federated Learning
    on Non-IID Data Silos", which is its ``first-deterministic``.

    Returns:
        Clients, shape (records,), int64; -1 for the records of a class that no client holds.

    Raises:
        DataError: the records cannot be split as asked.
    """
    if options.kind == "dirichlet":
        return _dirichlet(records.targets, options.alpha, clients=clients, seed=seed)
    if options.kind == "pathological":
        return _pathological(records.targets, options.classes_per_client, clients=clients, seed=seed)
    if options.kind == "natural":
        assert records.owners is not None  # checked by the caller
        return np.unique(records.owners, return_inverse=True)[1].astype(np.int64)
    holders = np.empty(len(records), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(records))
    holders[order] = np.repeat(np.arange(clients), _even(len(records), clients))
    return holders


def _even(total: int, parts: int) -> Labels:
    """Return whole numbers of a sum that differ by one at most, the larger ones first."""
    least, more = divmod(total, parts)
    return np.full(parts, least, dtype=np.int64) + (np.arange(parts) < more)


def _dirichlet(labels: NDArray[Any], alpha: float, *, clients: int, seed: int) -> Labels:
    """Draw until no client is empty, eleven times at most; return the first draw if one was in each."""
    generator = np.random.default_rng(seed)
    of_classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    draws = (_draw(of_classes, np.full(clients, alpha), generator) for _ in range(_DRAWS))
    first = next(draws)
    return next((drawn for drawn in chain([first], draws) if np.bincount(drawn, minlength=clients).all()), first)


def _draw(of_classes: list[Labels], alphas: NDArray[np.float64], generator: np.random.Generator) -> Labels:
    holders = np.empty(sum(map(len, of_classes)), dtype=np.int64)
    for rows in of_classes:
        holders[rows] = np.repeat(np.arange(len(alphas)), largest_remainder(generator.dirichlet(alphas), len(rows)))
    return holders


def _pathological(labels: NDArray[Any], classes: int, *, clients: int, seed: int) -> Labels:
    """Give client ``i`` class ``i`` and others that are drawn, and each class in even parts to those that hold it."""
    of_classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if classes > len(of_classes):
        raise DataError(
            f"partition.kind = 'pathological' with {clients} clients: partition.classes_per_client = {classes} is "
            f"greater than the number of classes that occur, {len(of_classes)}"
        )
    generator = np.random.default_rng(seed)
    holding: list[list[int]] = [[] for _ in of_classes]
    for client in range(clients):
        held = [client % len(of_classes)]
        while len(held) < classes:
            if (drawn := int(generator.integers(len(of_classes)))) not in held:
                held.append(drawn)
        for place in held:
            holding[place].append(client)
    holders = np.full(len(labels), -1, dtype=np.int64)
    for rows, members in zip(of_classes, holding, strict=True):
        if len(members) > len(rows):
            raise DataError(
                f"partition.kind = 'pathological' with {clients} clients: {len(members)} of them hold class "
                f"{labels[rows[0]]}, which has {len(rows)} records; use fewer clients or a smaller "
                "partition.classes_per_client"
            )
        if members:
            holders[rows] = np.repeat(members, _even(len(rows), len(members)))
    return holders


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
