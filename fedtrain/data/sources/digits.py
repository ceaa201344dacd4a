"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels, ten classes."""

import numpy as np
from sklearn.datasets import load_digits

from fedtrain.config import Data
from fedtrain.data.sources.types import Decoded
from fedtrain.data.types import DataInfo, Split
from fedtrain.errors import DataError


def decode(data: Data) -> Decoded:
    """Return the digits, their intensities 0 to 16 scaled to 0 to 255.

    Raises:
        DataError: an owner column is asked for; the digits name no owners.
    """
    if data.partition.column is not None:
        raise DataError(
            f"partition.column = {data.partition.column!r}: the digits do not say who wrote them; "
            "choose another kind of partition and leave the column unset"
        )
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    return Decoded(
        info=DataInfo(kind="image", shape=pixels.shape[1:], classes=tuple(str(name) for name in digits.target_names)),
        train=Split(features=pixels, labels=digits.target.astype(np.int64)),
        test=None,
    )
