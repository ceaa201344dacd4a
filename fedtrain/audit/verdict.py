"""What an audit found, and the page that shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

from fedtrain.report.numbers import exact, quoted, short, upper
from fedtrain.report.schema import Report
from fedtrain.report.statements import names, statements

Status = Literal["holds", "fails", "not proven"]
Outcome = Literal["holds", "refuted", "simulation"]

EXIT_STATUS: Final[Mapping[Outcome, int]] = {"holds": 0, "refuted": 1, "simulation": 4}
"""What ``fedtrain audit`` ends with. 2 is a file that is no report, and 3 a budget that is spent."""

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

    group: str
    name: str
    status: Status
    detail: str

    @classmethod
    def of(cls, group: str, name: str, finding: Finding) -> Self:
        """Return a check with what it found, which may quote anything that is in a report."""
        return cls(group=group, name=name, status=finding.status, detail=short(finding.detail, _DETAIL))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Checks that are about one thing.

    Attributes:
        title: what they are about.
        about: what it means that they hold, in a sentence.
    """

    title: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All checks of an audit.

    Attributes:
        checks: in the order in which they were made.
        groups: what they are about, in the order in which a person reads them.
        pinned: whether signatures were verified against keys that the auditor has from elsewhere than the run.
        simulation: whether the report says itself that its noise is seeded.
    """

    checks: tuple[Check, ...]
    groups: tuple[Group, ...]
    pinned: bool
    simulation: bool

    @property
    def outcome(self) -> Outcome:
        """``refuted`` if a check fails; ``simulation`` if none does and the noise is seeded; else ``holds``.

        What is not proven is for the reader to judge.
        """
        if self.of("fails"):
            return "refuted"
        return "simulation" if self.simulation else "holds"

    @property
    def holds(self) -> bool:
        """Whether no check fails, and the noise is not that of a simulation, which protects nobody."""
        return self.outcome == "holds"

    def of(self, status: Status) -> tuple[Check, ...]:
        """Return the checks with one status."""
        return tuple(check for check in self.checks if check.status == status)

    def grouped(self) -> tuple[tuple[Group, tuple[Check, ...]], ...]:
        """Return the checks of each group that has any."""
        found = ((group, tuple(check for check in self.checks if check.group == group.title)) for group in self.groups)
        return tuple((group, checks) for group, checks in found if checks)

    @property
    def summary(self) -> str:
        """The verdict in a sentence or two."""
        held, failed, open_ = (len(self.of(status)) for status in ("holds", "fails", "not proven"))
        whose = "" if self.pinned else "The keys are not pinned: nothing is proven about who signed. "
        if self.outcome == "refuted":
            return f"{whose}The report is refuted: {failed} of {len(self.checks)} checks fail."
        if self.outcome == "simulation":
            return (
                f"{whose}Simulation: protects nobody, since its noise is seeded. Its numbers are consistent: {held} "
                f"checks hold, {open_} cannot be proven."
            )
        return f"{whose}The report holds as far as it can be proven: {held} checks hold, {open_} cannot be proven."

    @property
    def reliance(self) -> str:
        """What a reader may rely on, and what not, in a paragraph."""
        if self.outcome == "refuted":
            return "On nothing in this report. Ask whoever gave it to you how the checks that fail came about."
        if self.outcome == "simulation":
            return (
                "On the arithmetic: with noise that nobody can predict, these charges compose to this epsilon. Not on "
                "any protection: whoever knows the seed, which is in the report, can take the noise off again. Clients "
                "of a simulation are no parties of their own, and their keys were made by the program that ran it."
            )
        who = (
            "On this: the holders of the pinned keys signed every charge, and epsilon is at least what the charges "
            "compose to"
            if self.pinned
            else "On this, if the keys in the report are those of the parties, which nothing here shows: their holders "
            "signed every charge, and epsilon is at least what the charges compose to"
        )
        return (
            f"{who}, unless the server and a client agreed on a false story. Not on what is listed as not proven: that "
            "each program did what it signed, above all drew its noise, and the measurements, such as accuracy."
        )


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


def render_audit(verdict: Verdict, report: Report | None, *, digest: str, roster: str | None, files: int) -> str:
    """Return the verdict as one page that stands alone: no scripts, no requests, readable offline and on paper.

    Args:
        verdict: what the audit found.
        report: the report that it is about; ``None`` for one that is not as fedtrain writes it.
        digest: SHA-256 of the report's bytes, in hexadecimal, so that the page says which file it is about.
        roster: the digest of the roster that the auditor gave; ``None`` if none was.
        files: how many ledger files the auditor gave.
    """
    from fedtrain.report.pages import page_environment  # noqa: PLC0415 - only the page needs templates

    environment = page_environment(upper_bound=upper, exact=exact, quoted=quoted, short=short)
    return environment.get_template("audit.html.j2").render(
        verdict=verdict,
        report=report,
        digest=digest,
        roster=roster,
        files=files,
        statements=[] if report is None else statements(report),
        names=[] if report is None else names(report),
    )
