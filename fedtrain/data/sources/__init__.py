"""One module for each kind of source, imported when it is first decoded."""

from importlib import import_module

from fedtrain.config import Data
from fedtrain.data.sources.types import Decoded


def decode(data: Data) -> Decoded:
    """Read and check all records of a source.

    The decoders import pyarrow, Pillow or datasets, which take seconds that a cached store need not pay.

    Raises:
        DataError: the source is missing, malformed or empty.
    """
    module = import_module(f"{__name__}.{data.source}")  # the configuration allows only the names of this folder
    decoded: Decoded = module.decode(data)
    return decoded
