"""Split the training records over the clients."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from fedtrain.config import Data
from fedtrain.data.cache import Entry, cached
from fedtrain.data.store import open_store
from fedtrain.data.types import DataStore, Labels
from fedtrain.errors import DataError

FORMAT = 1
"""Version of the splits; raising it makes every cached split be computed again."""

_SHOWN = 10


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
    """Split the training records of a store as ``data.partition`` says, with Flower Datasets' partitioners.

    The result is a function of the labels and owners in the store, the parameters of the partitioner, the number of
    clients and the seed, and is cached beside the store.

    - ``iid``: a seeded shuffle, cut into parts whose sizes differ by one at most.
    - ``dirichlet``: the records of each class go to the clients in proportions drawn from Dirichlet(alpha).
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
    # Flower Datasets takes seconds to import, which a cached split need not pay.
    from fedtrain.data.partitioners import assign  # noqa: PLC0415 - it takes a second to import

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
