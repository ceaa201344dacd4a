"""How ``transport.py`` measures: seconds of the CPU in turn, the peak of traced memory, and ratios side by side."""

import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison.

    Attributes:
        what: what is compared.
        ours: fedtrain's number.
        peer: whose the other number is.
        theirs: the other number.
        ratio: the largest ratio of ours to theirs that is aimed at, if any.
        most: the largest number of ours that is aimed at, if any.
    """

    what: str
    ours: float
    peer: str
    theirs: float
    ratio: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        ratio = self.ours / self.theirs
        aims = [
            f"aim {name} <= {limit:g}: {'met' if value <= limit else 'missed'}"
            for name, value, limit in (("ratio", ratio, self.ratio), ("ours", self.ours, self.most))
            if limit is not None
        ]
        return f"{self.what:40} {self.ours:10.3f} {self.theirs:10.3f} {ratio:8.3f}  {self.peer:22} {'; '.join(aims)}"


def show(title: str, lines: list[Line]) -> None:
    print(f"\n{title}\n{'':40} {'ours':>10} {'peer':>10} {'ratio':>8}")
    for line in lines:
        print(str(line).rstrip(), flush=True)


def fastest(ways: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Return the least milliseconds of the CPU that each way took, all of them in turn."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            started = time.process_time()
            way()
            samples[name].append(1e3 * (time.process_time() - started))
    return {name: min(measured) for name, measured in samples.items()}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an aggregation took.

    Attributes:
        server: CPU seconds of the server.
        clients: CPU seconds of each survivor.
        sent: bytes that a survivor sent.
        peak: bytes of memory that the server held at most, besides the message that it was given; 0 if not traced.
    """

    server: float
    clients: tuple[float, ...]
    sent: int
    peak: int = 0


class Stopwatch:
    """Adds up the seconds of the CPU that one party works."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what the work returns."""
        started = time.process_time()
        result = work(*args, **kwargs)
        self.seconds += time.process_time() - started
        return result


class Meter:
    """Follows the memory that one party holds, and its peak, in bytes. What other parties allocate does not count."""

    def __init__(self) -> None:
        self.held = 0
        self.peak = 0

    def metered(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what the work returns. Memory is traced from the first call on."""
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = work(*args, **kwargs)
        after, top = tracemalloc.get_traced_memory()
        self.peak = max(self.peak, self.held + top - before)
        self.held += after - before
        return result
