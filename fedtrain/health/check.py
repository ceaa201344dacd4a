"""What a check says: one line, ok or what to do."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warns", "fails"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: what was checked, in a word or two.
        status: ``ok``; ``warns`` if all works and somebody should look nevertheless, or if it could not be checked;
            ``fails`` if a run would fail.
        detail: what was found; if it is not ``ok``, also what to do.
    """

    name: str
    status: Status
    detail: str


def ok(name: str, detail: str) -> Check:
    """Return a check that found nothing to do."""
    return Check(name=name, status="ok", detail=detail)


def warns(name: str, detail: str) -> Check:
    """Return a check that found something which somebody should look at."""
    return Check(name=name, status="warns", detail=detail)


def fails(name: str, detail: str) -> Check:
    """Return a check that found what makes a run fail."""
    return Check(name=name, status="fails", detail=detail)
