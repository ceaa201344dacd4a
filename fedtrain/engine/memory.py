"""What the processes of a run ask of the memory allocator."""

import contextlib
import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Let the GNU allocator keep some of the memory that is freed, where the process has that allocator.

    Each round frees models and makes new ones. Memory that was given back to the operating system costs several times
    more to get again than to fill, so up to 64 MiB are kept. These are the largest values to which the allocator
    would adapt by itself.
    """
    with contextlib.suppress(AttributeError, OSError):  # another allocator
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)
