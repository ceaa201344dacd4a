"""The handwritten digits of the demo: 1,797 grey images of 8 x 8 pixels, ten classes.

They are the test set of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0), as scikit-learn distributes it: the file beside
this module has the same images and labels in the same order, as bytes and compressed.
"""

from importlib.resources import files
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.data.sources.types import Decoded
from fedtrain.data.types import ClassTarget, DataInfo, Image, Split
from fedtrain.errors import DataError

_CLASSES = tuple("0123456789")


def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the images, of shape (1797, 8, 8) and intensities 0 to 16, and their labels, of shape (1797,)."""
    data = files("fedtrain.data.sources").joinpath("digits.npz").read_bytes()
    with np.load(BytesIO(data), allow_pickle=False) as archive:
        return archive["images"], archive["labels"]


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
    images, labels = digits()
    pixels = np.rint(images * (255 / 16)).astype(np.uint8)[:, None]
    return Decoded(
        info=DataInfo(features=Image(shape=pixels.shape[1:]), target=ClassTarget(names=_CLASSES)),
        train=Split(features=pixels, targets=labels.astype(np.int64)),
        test=None,
    )
