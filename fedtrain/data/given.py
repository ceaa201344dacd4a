"""A data set that is an object of the calling program, in the place of one that a source decodes."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.data.types import DataInfo, DataStore, Split, Target
from fedtrain.errors import DataError


def check_store(store: object) -> DataStore:
    """Return a caller's data set as what the rest of fedtrain relies on: as its facts say, finite, and in C order.

    It has no folder: what is cached beside one would be of the records that the source decoded.

    Raises:
        DataError: it is no `DataStore`, is empty, or has records or labels that are not as its facts say.
    """
    if not isinstance(store, DataStore):
        raise DataError(
            f"data is a {type(store).__name__}, and a fedtrain.DataStore is needed: "
            "DataStore(info=DataInfo(...), train=Split(...), test=Split(...))"
        )
    return DataStore(
        info=store.info,
        train=_checked("data.train", store.train, store.info),
        test=replace(_checked("data.test", store.test, store.info), owners=None),
    )


def data_section(data: Data) -> Data:
    """Return what an experiment says of records that are an object of the caller: how they are split, nothing else.

    Raises:
        DataError: a field is set that a source would read.
    """
    partition_alone = Data(source="object", partition=data.partition, cache=data.cache)
    given = [
        f"data.{name}"
        for name, value in data
        if name not in {"source", "partition", "cache"} and value != getattr(partition_alone, name)
    ]
    if given:
        raise DataError(
            f"{', '.join(given)} is set, and the records are an object: leave it unset, and choose the records in the "
            "program that makes the object"
        )
    return partition_alone


def _checked(name: str, split: Split, info: DataInfo) -> Split:
    features, targets = split.features, split.targets
    shape, dtype = (len(targets), *info.shape), np.dtype(info.features.dtype)
    if features.shape != shape or features.dtype != dtype:
        raise DataError(
            f"{name}.features has shape {features.shape} and dtype {features.dtype}; {info.kind} records of shape "
            f"{info.shape} with {len(targets)} targets are {dtype.name} of shape {shape}"
        )
    if len(targets) == 0:
        raise DataError(f"{name} has no records; it needs at least one")
    _check_targets(f"{name}.targets", targets, info.target)
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        raise DataError(f"{name}.features has a value that is not finite, in record {bad[0][0]}")
    if split.owners is not None and (split.owners.shape != targets.shape[:1] or split.owners.dtype != np.int64):
        raise DataError(
            f"{name}.owners has shape {split.owners.shape} and dtype {split.owners.dtype}; it is int64 of shape "
            f"{targets.shape[:1]}"
        )
    # PyTorch computes otherwise on what is laid out otherwise, and rounds differently.
    contiguous = cast("NDArray[np.uint8] | NDArray[np.float32]", np.ascontiguousarray(features))
    in_order = cast("NDArray[np.int64] | NDArray[np.float32] | NDArray[np.uint8]", np.ascontiguousarray(targets))
    return replace(split, features=contiguous, targets=in_order)


def _check_targets(name: str, targets: NDArray[Any], target: Target) -> None:
    dtype, wanted = np.dtype(target.dtype), "(n, labels)" if target.kind == "labels" else "(n,)"
    shape = (len(targets), len(target.names)) if target.kind == "labels" else (len(targets),)
    if targets.shape != shape or targets.dtype != dtype:
        raise DataError(
            f"{name} has shape {targets.shape} and dtype {targets.dtype}; it is {dtype.name} of shape {wanted}"
        )
    match target.kind:
        case "number":
            bad = np.flatnonzero(~np.isfinite(targets))
            if bad.size:
                raise DataError(f"{name} has a value that is not finite, in record {bad[0]}")
            return
        case "labels":
            most, what = 1, "a record has a label or not"
        case "class":
            most, what = len(target.names) - 1, f"the {len(target.names)} classes are 0 to {len(target.names) - 1}"
    if targets.min() < 0 or targets.max() > most:
        raise DataError(f"{name} has values from {targets.min()} to {targets.max()}; {what}")
