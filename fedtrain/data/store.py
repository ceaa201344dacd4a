"""Open a data set: decode it once, number the classes as the experiment names them, then map the decoded arrays."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.data.cache import Entry, cache_folder, cached
from fedtrain.data.groups import renumbered, with_groups
from fedtrain.data.schema import read_schema
from fedtrain.data.sources import Decoded, registered, source_of
from fedtrain.data.sources.base import path_of
from fedtrain.data.types import ClassTarget, DataInfo, DataStore, RuleCounts, Split
from fedtrain.errors import ConfigError, DataError

FORMAT = 6
"""Version of the decoded arrays; raising it makes every cached store be decoded again."""

_HOLD_OUT, _LIMIT = 1, 2  # independent streams of random numbers from one seed
_SHOWN = 12


def open_store(data: Data, *, seed: int) -> DataStore:
    """Open a data set, decoding it only where the cache does not hold it.

    The cache is keyed by everything that determines the decoded arrays: the source, its columns, fractions and limits,
    the path, size and modification time of each input file, the content of a schema file, and the seed where records
    are drawn. A data set of the hub is identified by its name alone.

    Args:
        data: where the records come from. Test records are those of the source; where ``test_fraction`` is set (and
            for digits, 0.2) that fraction, rounded, is drawn from the training records with the seed instead. Then at
            most ``max_records`` of the training records are drawn with the seed. Both keep the source's order.
        seed: seeds both draws.

    Returns:
        The store. Its arrays are memory-mapped and read-only.

    Raises:
        DataError: the source is missing, malformed or empty, or has labels that are not among ``classes``.
        StorageError: the cache cannot be written.
    """
    source = source_of(data.source)
    source.require(data)
    fraction = source.held_out if data.test_fraction is None else data.test_fraction
    folder = cache_folder(data.cache) / f"{data.source}-{digest_of(data, fraction=fraction, seed=seed)}"
    entry = cached(folder, lambda: _build(data, fraction=fraction, seed=seed))
    return DataStore(
        info=info_of(entry),
        train=Split(
            features=entry.arrays["train_features"],
            targets=entry.arrays["train_targets"],
            owners=entry.arrays.get("train_owners"),
            lengths=entry.arrays.get("train_lengths"),
        ),
        test=Split(
            features=entry.arrays["test_features"],
            targets=entry.arrays["test_targets"],
            lengths=entry.arrays.get("test_lengths"),
            groups=entry.arrays.get("test_groups"),
        ),
        folder=folder,
        owners=tuple(entry.meta["owners"]),
        groups=tuple(entry.meta["groups"]),
    )


def open_test(data: Data) -> DataStore:
    """Open the test records of a deployment, whose training records are on machines of their own.

    Returns:
        The store, without training records. Its arrays are memory-mapped and read-only.

    Raises:
        ConfigError: the classes or the test records are not named, or a field is set that is for simulations.
        DataError: the test records are missing, malformed or empty, or have labels that are not among the classes, or
            columns of categories.
        StorageError: the cache cannot be written.
    """
    _refuse_simulated(data)
    alone = data.model_copy(update={"path": data.test_path, "test_path": None})
    entry = cached(
        cache_folder(data.cache) / f"test-{data.source}-{digest_of(alone, fraction=None, seed=0)}",
        lambda: _build_test(alone),
    )
    test = records_of(entry)
    none = Split(features=test.features[:0], targets=test.targets[:0])
    test = replace(test, groups=entry.arrays.get("groups"))
    return DataStore(info=info_of(entry), train=none, test=test, groups=tuple(entry.meta["groups"]))


def _build_test(data: Data) -> Entry:
    source_of(data.source).require_test_alone(data)
    decoded = decode_numbers(data)
    assert data.path is not None  # that of the test records
    test, groups = with_groups(decoded.train, data, path=data.path)
    entry = entry_of(decoded)
    arrays = entry.arrays if test.groups is None else {**entry.arrays, "groups": test.groups}
    return Entry(meta={**entry.meta, "groups": list(groups)}, arrays=arrays)


def _refuse_simulated(data: Data) -> None:
    if not source_of(data.source).deployed:
        *most, last = (f'"{source.kind}"' for source in registered() if source.deployed)
        raise ConfigError(
            f'data.source = "{data.source}" is for simulations: in a deployment each site has its own records, and '
            f"data.source says what the test records are: {', '.join(most)} or {last}"
        )
    if data.schema_file is not None and data.schema_digest is None:
        raise ConfigError(
            "data.schema_digest is not set: in a deployment each site has a copy of the schema file, and trains only "
            f'by one of this digest. For {data.schema_file} it is "{read_schema(path_of(data.schema_file)).digest}"'
        )
    if data.names_needed:
        raise ConfigError(
            "data.classes is not set: in a deployment it names the classes, since no site has to have records of all"
        )
    if data.test_path is None:
        raise ConfigError("data.test_path is not set: in a deployment the server has test records alone")
    simulated = {
        "data.path": data.path is not None,
        "data.max_records": data.max_records is not None,
        "data.partition.kind": data.partition.kind != "iid",
        "data.partition.column": data.partition.column is not None,
    }
    if given := [field for field, is_set in simulated.items() if is_set]:
        raise ConfigError(f"{given[0]} is for simulations: in a deployment each site has its own records; unset it")


def entry_of(decoded: Decoded) -> Entry:
    """Return what is cached of records that are all of one party."""
    arrays: dict[str, NDArray[Any]] = {"features": decoded.train.features, "targets": decoded.train.targets}
    if decoded.train.lengths is not None:
        arrays["lengths"] = decoded.train.lengths
    rules = {"rules": [asdict(each) for each in decoded.rules]} if decoded.rules else {}
    return Entry(meta=decoded.info.as_json() | rules, arrays=arrays)


def records_of(entry: Entry) -> Split:
    """Return the records that `entry_of` put into an entry."""
    arrays = entry.arrays
    return Split(features=arrays["features"], targets=arrays["targets"], lengths=arrays.get("lengths"))


def rules_of(entry: Entry) -> tuple[RuleCounts, ...]:
    """Return how often the rules of a schema file were needed for the records that `entry_of` put into an entry."""
    return tuple(RuleCounts(**each) for each in entry.meta.get("rules", ()))


def info_of(entry: Entry) -> DataInfo:
    """Return the facts about a data set that are kept beside its arrays."""
    return DataInfo.from_json(entry.meta)


def digest_of(data: Data, *, fraction: float | None, seed: int) -> str:
    """Return what identifies decoded arrays: a digest of all that determines them.

    Args:
        data: where the records come from.
        fraction: the fraction that is held out, if one is.
        seed: seeds what is drawn.

    Raises:
        DataError: an input file is missing.
    """
    facts = data.model_dump(exclude={"cache", "partition", "path", "test_path"})
    facts |= {
        "format": FORMAT,
        "owner": data.partition.column,
        "test_fraction": fraction,
        "seed": None if fraction is None and data.max_records is None else seed,
        "files": [_identify(file) for file in source_of(data.source).files(data)],
        "has_test_path": data.test_path is not None,
    }
    if data.schema_file is not None:
        # An edit that leaves size and time as they were would decode by one schema, and say another.
        facts["schema"] = _content_of(path_of(data.schema_file))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _identify(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    return str(file.resolve()), status.st_size, status.st_mtime_ns


def _content_of(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _build(data: Data, *, fraction: float | None, seed: int) -> Entry:
    decoded = with_classes(source_of(data.source).decode(data), data.class_names)
    train, test, groups = _grouped(decoded.train, decoded.test, data)
    if fraction is not None:
        train, test = _hold_out(train, fraction, np.random.default_rng([seed, _HOLD_OUT]))
    if test is None:
        raise DataError(f"{data.source}: there is no test data; set test_fraction to hold a part of the records out")
    if data.max_records is not None and data.max_records < len(train):
        order = np.random.default_rng([seed, _LIMIT]).permutation(len(train))
        train = _take(train, np.sort(order[: data.max_records]))
    test, groups = renumbered(test, groups)
    arrays: dict[str, NDArray[Any]] = {
        "train_features": train.features,
        "train_targets": train.targets,
        "test_features": test.features,
        "test_targets": test.targets,
    }
    for name, split in (("train", train), ("test", test)):
        if split.lengths is not None:
            arrays[f"{name}_lengths"] = split.lengths
    if test.groups is not None:
        arrays["test_groups"] = test.groups
    owners: list[str] = []
    if train.owners is not None:
        # The draws may have left an owner without records: number those that remain.
        remaining, codes = np.unique(train.owners, return_inverse=True)
        arrays["train_owners"] = codes.astype(np.int64)
        owners = [decoded.owners[code] for code in remaining]
    return Entry(meta={**decoded.info.as_json(), "owners": owners, "groups": list(groups)}, arrays=arrays)


def _grouped(train: Split, test: Split | None, data: Data) -> tuple[Split, Split | None, tuple[str, ...]]:
    """Return the records with the groups of those that test records are of, or are drawn from."""
    if data.group_column is None:
        return train, test, ()
    if test is not None and data.test_path is not None:
        test, groups = with_groups(test, data, path=data.test_path)
        return train, test, groups
    assert data.path is not None  # the source requires it
    train, groups = with_groups(train, data, path=data.path)
    return train, test, groups


def _hold_out(records: Split, fraction: float, generator: np.random.Generator) -> tuple[Split, Split]:
    held_out = round(len(records) * fraction)
    if not 0 < held_out < len(records):
        raise DataError(
            f"test_fraction = {fraction} of {len(records)} records leaves {len(records) - held_out} for training and "
            f"{held_out} for the test; each needs at least one"
        )
    order = generator.permutation(len(records))
    return _take(records, np.sort(order[held_out:])), _take(records, np.sort(order[:held_out]))


def _take(records: Split, rows: NDArray[np.int64]) -> Split:
    return Split(
        features=records.features[rows],
        targets=records.targets[rows],
        owners=None if records.owners is None else records.owners[rows],
        lengths=None if records.lengths is None else records.lengths[rows],
        groups=None if records.groups is None else records.groups[rows],
    )


def with_classes(decoded: Decoded, names: tuple[str, ...] | None) -> Decoded:
    """Return records with the numbers of named classes in the place of those of the classes that occur.

    Args:
        decoded: the records.
        names: the classes; ``None`` to leave the records as they are, as those are whose target is no class.

    Raises:
        DataError: a class that occurs is not named.
    """
    if names is None or decoded.info.target.kind != "class":
        return decoded
    found = decoded.info.classes
    splits = [split for split in (decoded.train, decoded.test) if split is not None]
    present = sorted({int(label) for split in splits for label in np.unique(split.targets)})
    if strange := [found[label] for label in present if found[label] not in names]:
        shown = ", ".join(repr(name) for name in strange[:_SHOWN])
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise DataError(
            f"there are records of classes that are not in data.classes = {', '.join(names)}: {shown}{more}"
        )
    numbers = np.array([names.index(name) if name in names else -1 for name in found], dtype=np.int64)

    def renumbered(split: Split) -> Split:
        return replace(split, targets=numbers[split.targets])

    return replace(
        decoded,
        info=replace(decoded.info, target=ClassTarget(names=names)),
        train=renumbered(decoded.train),
        test=None if decoded.test is None else renumbered(decoded.test),
    )


def decode_numbers(data: Data) -> Decoded:
    """Read records whose features mean the same on every machine, with the classes that the experiment names.

    With a schema file they do.

    Raises:
        DataError: they are missing or malformed; or have columns of categories, which become as many features as
            categories occur in these very records, or numbers whose names are those of these very files; or the order
            of the features is not given.
    """
    decoded = with_classes(source_of(data.source).decode(data), data.class_names)
    if decoded.categorical:
        raise DataError(
            f"column {decoded.categorical[0]!r} holds categories, and which of them occur differs between sites, and "
            "how they are numbered: write numbers that mean the same at all sites in its place, or leave it out with "
            "feature_columns"
        )
    if data.schema_file is not None:
        return decoded
    if decoded.info.kind == "table" and data.source == "parquet" and data.feature_columns is None:
        raise DataError(
            "feature_columns is not set: it names the columns in the order of the model's inputs, which is the same at "
            "all sites"
        )
    return decoded
