"""Number the classes as the experiment names them, whichever of them occur in the records."""

from dataclasses import replace

import numpy as np

from fedtrain.config import Data
from fedtrain.data.sources import decode
from fedtrain.data.sources.types import Decoded
from fedtrain.data.types import ClassTarget, Split
from fedtrain.errors import DataError

_SHOWN = 12


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

    Raises:
        DataError: they are missing or malformed; or have columns of categories, which become as many features as
            categories occur in these very records, or numbers whose names are those of these very files; or the order
            of the features is not given.
    """
    decoded = with_classes(decode(data), data.class_names)
    if decoded.categorical:
        raise DataError(
            f"column {decoded.categorical[0]!r} holds categories, and which of them occur differs between sites, and "
            "how they are numbered: write numbers that mean the same at all sites in its place, or leave it out with "
            "feature_columns"
        )
    if decoded.info.kind == "table" and data.source == "parquet" and data.feature_columns is None:
        raise DataError(
            "feature_columns is not set: it names the columns in the order of the model's inputs, which is the same at "
            "all sites"
        )
    return decoded
