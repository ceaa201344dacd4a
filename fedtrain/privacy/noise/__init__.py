"""Where the randomness of private training comes from."""

from typing import Literal

from fedtrain.privacy.noise.secure import SecureSource
from fedtrain.privacy.noise.seeded import SeededSource
from fedtrain.privacy.noise.types import RandomSource

__all__ = ["RandomSource", "SecureSource", "SeededSource", "open_source"]


def open_source(kind: Literal["seeded", "secure"], seed: int) -> RandomSource:
    """Return the source that a configuration names. The secure one makes no use of the seed."""
    return SeededSource(seed) if kind == "seeded" else SecureSource()
