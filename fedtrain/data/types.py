"""What the rest of fedtrain knows of a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """The public facts of a data set.

    Attributes:
        kind: ``image`` (uint8 pixels) or ``table`` (float32 features).
        shape: the shape of one record: (channels, height, width), or (features,).
        classes: the names of the classes; a label is an index into them.
    """

    kind: Literal["image", "table"]
    shape: tuple[int, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Records and their labels.

    Attributes:
        features: records, shape (n, *info.shape), dtype uint8 (images) or float32 (tables); may be memory-mapped.
        labels: shape (n,), each in [0, classes).
        owners: shape (n,), codes 0, 1, ... of the owners in sorted order where the source names owners, else ``None``.
    """

    features: NDArray[np.uint8] | NDArray[np.float32]
    labels: Labels
    owners: Labels | None = None

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class DataStore:
    """A decoded data set: training records, split over clients, and test records that no client sees.

    Attributes:
        info: the public facts of the data set.
        train: the training records.
        test: the test records; their owners are not kept.
        folder: where the decoded arrays are cached, and beside which splits over clients are; ``None`` in memory only.
    """

    info: DataInfo
    train: Split
    test: Split
    folder: Path | None = None
