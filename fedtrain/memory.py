"""What becomes of memory that is freed: kept for the next model, or given back where models are large."""

import ctypes
import gc
from contextlib import suppress

LARGE = 32 << 20
"""Bytes of a model, or of one weight, beyond which memory is scarcer than the time that it takes to get it anew.

Beyond it files of messages are given back once they are read, weights are let go of one by one, and cycles are searched
for. The allocator takes pages of the system for such a weight alone.
"""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let the GNU allocator keep some of the memory that is freed, where the process has that allocator.

    Each round frees models and makes new ones. Memory that was given back to the operating system costs several times
    more to get again than to fill, so up to 64 MiB are kept. These are the largest values to which the allocator
    would adapt by itself.
    """
    with suppress(AttributeError, OSError):  # another allocator
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE)


def give_back_memory() -> None:
    """Let the GNU allocator give back to the operating system what is freed, between pieces that are in use too."""
    with suppress(AttributeError, OSError):  # another allocator
        ctypes.CDLL(None).malloc_trim(0)


def give_back_models(size: int) -> None:
    """Search for cycles where models have more than `LARGE` bytes: Flower's records of a message refer to each other.

    Python does so by the number of objects, of which a model has few.
    """
    if size > LARGE:
        gc.collect()
