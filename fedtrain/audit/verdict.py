"""What an audit found, and the page that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from fedtrain.report.numbers import exact, short, upper
from fedtrain.report.schema import Report

Status = Literal["holds", "fails", "not proven"]

_SHOWN = 3
_PROBLEM = 300  # characters of one problem: what it quotes may be of any length
_DETAIL = 1000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        status: holds, fails, or not proven: neither can be said from what there is.
        detail: what was checked, or what is wrong and where, in words.
    """

    status: Status
    detail: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check by its name, and what it found, in a form that can do no harm on a terminal or a page."""

    name: str
    status: Status
    detail: str

    @classmethod
    def of(cls, name: str, finding: Finding) -> Self:
        """Return a check with what it found, which may quote anything that is in a report."""
        return cls(name=name, status=finding.status, detail=short(finding.detail, _DETAIL))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All checks of an audit.

    Attributes:
        checks: in the order in which they were made.
        pinned: whether signatures were verified against keys that the auditor gave.
    """

    checks: tuple[Check, ...]
    pinned: bool

    @property
    def holds(self) -> bool:
        """Whether no check fails. What is not proven is for the reader to judge."""
        return not self.of("fails")

    def of(self, status: Status) -> tuple[Check, ...]:
        """Return the checks with one status."""
        return tuple(check for check in self.checks if check.status == status)

    @property
    def summary(self) -> str:
        """The verdict in a sentence or two."""
        held, failed, open_ = (len(self.of(status)) for status in ("holds", "fails", "not proven"))
        whose = "" if self.pinned else "The keys are not pinned: nothing is proven about who signed. "
        if failed:
            return f"{whose}The report is refuted: {failed} of {len(self.checks)} checks fail."
        return f"{whose}The report holds as far as it can be proven: {held} checks hold, {open_} cannot be proven."


class UnprovenError(Exception):
    """What a check needs is not there: the message says why. No error of the caller, so it is none of ours."""


def fails(detail: str) -> Finding:
    """Return that something is wrong."""
    return Finding(status="fails", detail=detail)


def not_proven(detail: str) -> Finding:
    """Return that neither can be said."""
    return Finding(status="not proven", detail=detail)


def decide(problems: Sequence[str], detail: str) -> Finding:
    """Return that a check fails, with the first problems and the number of the others, or else that it holds."""
    if not problems:
        return Finding(status="holds", detail=detail)
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return fails("; ".join(short(problem, _PROBLEM) for problem in problems[:_SHOWN]) + more)


def render_audit(verdict: Verdict, report: Report | None, *, digest: str, files: int) -> str:
    """Return the verdict as one page that stands alone: no scripts, no requests, readable offline and on paper.

    Args:
        verdict: what the audit found.
        report: the report that it is about; ``None`` for one that contradicts itself.
        digest: SHA-256 of the report's bytes, in hexadecimal, so that the page says which file it is about.
        files: how many ledger files the auditor gave.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only the page needs templates

    environment = Environment(
        loader=PackageLoader("fedtrain.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(upper_bound=upper, exact=exact, short=short)
    return environment.get_template("audit.html.j2").render(verdict=verdict, report=report, digest=digest, files=files)
