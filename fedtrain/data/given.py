"""Records that are objects of the calling program, in the place of those that a source decodes.

They are a `DataStore`, or a pair of map-style data sets as PyTorch has them, for training and for the test. A data set
is read once, item by item in the order of its indices, and is then what an archive of the same arrays is.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.data.store import with_classes
from fedtrain.data.types import DataInfo, DataStore, Split, Target, TargetKind, Text, Tokens, stored_shape
from fedtrain.errors import DataError
from fedtrain.progress import working

_PAIR = "data=(train, test), two map-style data sets whose items are pairs of features and target"

# So many items are read again, from the first to the last, to find those that are not the same each time.
_READ_TWICE = 32


class MapStyle(Protocol):
    """A map-style data set, such as a ``torch.utils.data.Dataset``: items by index, from 0."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, index: int, /) -> Any:
        """Return an item: features and target."""


def opened(given: object, data: Data) -> tuple[DataStore, Data]:
    """Return a caller's records as what the rest of fedtrain relies on, and what an experiment says of them.

    Args:
        given: a `DataStore`, or a pair of map-style data sets: training and test. Features are a tensor, an array or a
            number: uint8 pixels (height, width), (height, width, channels) or (channels, height, width), or numbers
            (features,). A target is of the kind of ``data.target``: a class, an integer or a string; a number; or
            labels, 0 or 1 each, of shape (labels,).
        data: of the experiment. It says how records are split; and of data sets ``target`` and ``classes``.

    Raises:
        DataError: they are not of this form, or not as their facts say, or a field is set that a source would read.
    """
    if isinstance(given, tuple) and len(given) == 2:  # noqa: PLR2004 - training and test
        section = _section(data, "target", "classes")
        return _read_pair(given[0], given[1], section), section
    return check_store(given), _section(data)


def check_store(store: object) -> DataStore:
    """Return a caller's data set as what the rest of fedtrain relies on: as its facts say, finite, and in C order.

    It has no folder: what is cached beside one would be of the records that the source decoded.

    Raises:
        DataError: it is no `DataStore`, is empty, or has records or labels that are not as its facts say.
    """
    if not isinstance(store, DataStore):
        raise DataError(
            f"data is a {type(store).__name__}, and a fedtrain.DataStore is needed: "
            f"DataStore(info=DataInfo(...), train=Split(...), test=Split(...)); or {_PAIR}"
        )
    train = _checked("data.train", store.train, store.info)
    if store.owners and (train.owners is None or not 0 <= train.owners.min() <= train.owners.max() < len(store.owners)):
        raise DataError(
            f"data.owners has {len(store.owners)} names; each code in data.train.owners is an index into them, and "
            "without codes there are no names"
        )
    return DataStore(
        info=store.info,
        train=train,
        test=replace(_checked("data.test", store.test, store.info), owners=None),
        owners=store.owners,
    )


def _section(data: Data, *described: str) -> Data:
    """Return what an experiment says of records that are an object of the caller: how they are split.

    Args:
        data: of the experiment.
        described: fields that say what the records are, where the objects do not.

    Raises:
        DataError: a field is set that a source would read.
    """
    kept = {name: getattr(data, name) for name in ("partition", "cache", *described)}
    section = Data(source="object", **kept)
    given = [f"data.{name}" for name, value in data if name != "source" and value != getattr(section, name)]
    if given:
        raise DataError(
            f"{', '.join(given)} is set, and the records are an object: leave it unset, and choose the records in the "
            "program that makes the object"
        )
    return section


def _read_pair(train: object, test: object, data: Data) -> DataStore:
    from fedtrain.data.sources.arrays import decode_arrays  # noqa: PLC0415 - like every decoder, only where it is used

    decoded = decode_arrays(
        "the training data set",
        *_arrays(train, "the training data set"),
        test=("the test data set", *_arrays(test, "the test data set")),
        target=data.target,
        names=data.class_names,
    )
    decoded = with_classes(decoded, data.class_names)
    assert decoded.test is not None  # it was given
    return DataStore(info=decoded.info, train=decoded.train, test=decoded.test)


def _arrays(items: object, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read a data set once, and return its features and targets, an item in each row.

    Raises:
        DataError: it has no items by index, an item is malformed or unlike the first, or an item that is read twice is
            not the same.
    """
    read = _reader(items, name)
    try:
        count = len(cast("MapStyle", items))
    except Exception as error:  # the code of the caller may raise anything
        raise DataError(f"{name} does not say how many items it has: {type(error).__name__}: {error}") from error
    if count == 0:
        raise DataError(f"{name} holds no records")
    first = read(0)
    features = np.empty((count, *first[0].shape), dtype=first[0].dtype)
    targets = [first[1].copy()]  # the data set may reuse its memory
    features[0] = first[0]
    with working(f"reading the items of {name}", count) as done:
        for index in range(1, count):
            item = read(index)
            for what, found, expected in zip(("features", "a target"), item, first, strict=True):
                if found.shape != expected.shape or _kind(found) != _kind(expected):
                    raise DataError(
                        f"{name}, item {index} has {what} of shape {found.shape} and dtype {found.dtype}, and item 0 "
                        f"of shape {expected.shape} and dtype {expected.dtype}; all items have the same"
                    )
            features[index] = item[0]
            targets.append(item[1].copy())
            done(index + 1)
    for index in np.unique(np.linspace(0, count - 1, min(count, _READ_TWICE)).round().astype(int)).tolist():
        again = read(index)
        if not (_same(again[0], features[index]) and _same(again[1], targets[index])):
            raise DataError(
                f"{name}, item {index} is another each time that it is read; a record is the same each time, or the "
                "digest by which a client's ledger knows its records means nothing, and neither does a charge to "
                "them. Leave random transforms out of the data set: augment in the task (task.augment = true for "
                "images, or collate of a task of your own), which draws anew in each step"
            )
    # A column of single numbers is a table of one column.
    return features[:, None] if features.ndim == 1 else features, np.stack(targets)


def _reader(items: object, name: str) -> Callable[[int], tuple[NDArray[Any], NDArray[Any]]]:
    """Return what reads an item.

    Raises:
        DataError: the object is no map-style data set.
    """
    from torch.utils.data import IterableDataset  # noqa: PLC0415 - with torch, which takes seconds to import

    if isinstance(items, IterableDataset):
        raise DataError(
            f"{name} is an IterableDataset, whose records have no index and are known only once all have passed; read "
            "them into one that has them all, for example list(dataset), where they fit into memory"
        )
    if isinstance(items, str | bytes | dict) or not all(hasattr(items, part) for part in ("__len__", "__getitem__")):
        raise DataError(f"{name} is a {type(items).__name__}, which has no items by index; allowed: {_PAIR}")
    indexed = cast("MapStyle", items)

    def read(index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        place = f"{name}, item {index}"
        try:
            item = indexed[index]
        except Exception as error:  # the code of the caller may raise anything
            raise DataError(f"{place} cannot be read: {type(error).__name__}: {error}") from error
        if not isinstance(item, tuple | list) or len(item) != 2:  # noqa: PLR2004 - features and target
            raise DataError(f"{place} is a {type(item).__name__}; it is to be a pair: features and target")
        return _array(item[0], f"{place}, features", "a tensor, an array or a number", number=np.float64), _array(
            item[1], f"{place}, target", "a tensor, an array, a number or a string"
        )

    return read


def _array(value: object, place: str, allowed: str, *, number: type | None = None) -> NDArray[Any]:
    """Return a tensor, an array or a number as an array on the CPU; a string too, where ``number`` is not given."""
    from torch import Tensor  # noqa: PLC0415

    found: NDArray[Any] | None = None
    try:
        if isinstance(value, Tensor):
            found = value.detach().cpu().numpy()
        elif isinstance(value, np.ndarray | np.generic):
            found = np.asarray(value)
        elif isinstance(value, bool | int | float):
            found = np.asarray(value, dtype=number)
        elif isinstance(value, str) and number is None:
            found = np.asarray(value)
    except (TypeError, RuntimeError, OverflowError) as error:  # a kind of number that NumPy does not have
        raise DataError(f"{place}: no array can be made of it: {error}; convert it to float32") from error
    if found is None or found.dtype.kind not in ("biuf" if number is not None else "biufU"):
        kind = type(value).__name__ if found is None else f"{type(value).__name__} of {found.dtype}"
        several = "; a model has one input, so put several into one array" if isinstance(value, dict) else ""
        raise DataError(f"{place}: found a {kind}; allowed: {allowed}{several}")
    if np.ma.is_masked(value):
        raise DataError(f"{place}: found an array with missing values; leave such records out")
    return found


def _kind(array: NDArray[Any]) -> object:
    return array.dtype.kind if array.dtype.kind == "U" else array.dtype


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and _kind(one) == _kind(other) and one.tobytes() == other.tobytes()


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
    if info.target.kind == "text" and not isinstance(info.features, Text | Tokens):
        raise DataError(f'{name} has {info.kind} records, and a target of kind "text" is for texts or tokens')
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


_SHAPES: Final[dict[TargetKind, str]] = {"class": "(n,)", "number": "(n,)", "labels": "(n, labels)", "text": "(n, 0)"}


def _check_targets(name: str, targets: NDArray[Any], target: Target) -> None:
    dtype, wanted = np.dtype(target.dtype), _SHAPES[target.kind]
    if targets.shape != stored_shape(target, len(targets)) or targets.dtype != dtype:
        raise DataError(
            f"{name} has shape {targets.shape} and dtype {targets.dtype}; it is {dtype.name} of shape {wanted}"
        )
    match target.kind:
        case "number":
            bad = np.flatnonzero(~np.isfinite(targets))
            if bad.size:
                raise DataError(f"{name} has a value that is not finite, in record {bad[0]}")
            return
        case "text":
            return
        case "labels":
            most, what = 1, "a record has a label or not"
        case "class":
            most, what = len(target.names) - 1, f"the {len(target.names)} classes are 0 to {len(target.names) - 1}"
    if targets.min() < 0 or targets.max() > most:
        raise DataError(f"{name} has values from {targets.min()} to {targets.max()}; {what}")
