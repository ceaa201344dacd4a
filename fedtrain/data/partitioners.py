"""Flower Datasets' partitioners, run on the labels and owners alone."""

import contextlib
import io
import os
import warnings

import numpy as np
from datasets import Dataset

from fedtrain.config import Partition
from fedtrain.data.types import Labels, Split
from fedtrain.errors import DataError

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # flwr_datasets reads it when it is imported, so this comes first

from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
)


def assign(records: Split, options: Partition, *, clients: int, seed: int) -> list[Labels]:
    """Return the rows of each client, sorted. A client may be left without any, and a class without a client.

    ``dirichlet`` gives what Flower Datasets gives for the same labels, alpha and seed with ``min_partition_size=1``:
    it draws up to eleven times until no client is empty. ``pathological`` is the assignment of Li et al., "Federated
    Learning on Non-IID Data Silos", which is Flower Datasets' ``first-deterministic``.

    Raises:
        DataError: the partitioner cannot split these records as asked.
    """
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
        if options.kind == "dirichlet":
            # It has drawn again and again for a split without empty clients; show the caller the first draw.
            return _run(_partitioner(options, clients, seed, min_records=0), dataset, clients)
        raise DataError(f"partition.kind = {options.kind!r} with {clients} clients: {error}") from error


def _partitioner(options: Partition, clients: int, seed: int, *, min_records: int = 1) -> Partitioner:
    match options.kind:
        case "iid":
            return IidPartitioner(num_partitions=clients)
        case "dirichlet":
            return DirichletPartitioner(
                num_partitions=clients,
                partition_by="label",
                alpha=options.alpha,
                min_partition_size=min_records,
                self_balancing=False,
                shuffle=False,
                seed=seed,
            )
        case "pathological":
            return PathologicalPartitioner(
                num_partitions=clients,
                partition_by="label",
                num_classes_per_partition=options.classes_per_client,
                class_assignment_mode="first-deterministic",
                shuffle=False,
                seed=seed,
            )
        case "natural":
            return NaturalIdPartitioner(partition_by="owner")


def _run(partitioner: Partitioner, dataset: Dataset, clients: int) -> list[Labels]:
    partitioner.dataset = dataset
    with (
        warnings.catch_warnings(action="ignore", category=UserWarning),  # of what is an error here, or drawn again
        contextlib.redirect_stderr(io.StringIO()),  # a progress bar that cannot be turned off
    ):
        return [
            np.sort(np.array(partitioner.load_partition(client)[:]["row"], dtype=np.int64)) for client in range(clients)
        ]
