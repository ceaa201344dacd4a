"""Where a run stands, in words for a terminal: as lines of text, each with what it is about.

>>> from fedtrain.status import Begun, RunStatus
>>> begun = Begun(time=0.0, name="demo", mode="none", rounds=3, done=0, clients=4, deadline=60.0)
>>> print(plain(described(RunStatus.begun_with(begun, before=None), now=1.0)))
demo: running
round      0 of 3
epsilon    no guarantee is given
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fedtrain.report.numbers import achieved, duration, printable, short, upper
from fedtrain.status.run import RunStatus

Tone = Literal["title", "text", "good", "bad", "faint"]

_NAMES = 8  # sites that one line names
_SITES = 40  # sites in the table
_PROBLEMS = 5
_BAR = 30  # letters
_LABEL = 9
_CALLED = 32  # letters of a name: a longer one would leave no room for what is said of its site, and of the others
_CLIENT = re.compile(r"\bclient ([0-9]{1,9})\b")
_NODE = re.compile(r"\bnode ([0-9]{1,20})\b")

_STATES = {
    "running": "running",
    "completed": "completed",
    "interrupted": "interrupted; go on with --resume",
    "failed": "failed; go on with --resume once the cause is corrected",
    "gone": "its server ended without a word, as one that is killed; go on with --resume",
}


@dataclass(frozen=True, kw_only=True)
class Said:
    """A line of text, and how it is meant."""

    text: str
    tone: Tone = "text"


def with_names(text: str, names: Mapping[int, str]) -> str:
    """Return a text in which clients that have names are called by them, too.

    >>> with_names("client 1: no answer", {1: "hospital-b"})
    'hospital-b (client 1): no answer'
    """

    def named(found: re.Match[str]) -> str:
        name = names.get(int(found[1]))
        # Some texts have it already.
        if name is None or name in text[found.start() :][:80]:
            return found[0]
        return f"{short(name, _CALLED)} ({found[0]})"

    return _CLIENT.sub(named, text)


def with_nodes(text: str, nodes: Mapping[int, str]) -> str:
    """Return a text in which nodes are called by their names, and not by the numbers that the SuperLink gave them.

    >>> with_nodes("node 5990590935: the site has not approved the bundle", {5990590935: "hospital-c"})
    'hospital-c: the site has not approved the bundle'
    """
    return _NODE.sub(lambda found: nodes.get(int(found[1]), found[0]), text)


def plain(lines: Iterable[Said]) -> str:
    """Return lines as one text."""
    return "\n".join(line.text.rstrip() for line in lines)


def described(status: RunStatus, *, now: float, width: int = 100, sites: bool = True) -> list[Said]:
    """Return where a run stands.

    Args:
        status: where it stands.
        now: the time, in seconds since 1970.
        width: letters of a line.
        sites: whether each site has a line.
    """
    begun = status.begun
    tone: Tone = {"running": "title", "completed": "good"}.get(status.state, "bad")  # type: ignore[assignment]
    lines = [Said(text=f"{begun.name}: {_STATES[status.state]}", tone=tone)]
    if status.reason:
        lines += [Said(text=f"  {line}", tone="bad") for line in with_names(status.reason, begun.names).splitlines()]
    lines.append(_labelled("round", _round(status, now)))
    if status.size is not None:
        lines.append(_labelled("clients", f"{status.answers} of {status.size} have answered"))
    late = status.late(now)
    if late:
        lines.append(_labelled("late", _names(status, late), tone="bad"))
    elif status.waiting and status.answers:
        lines.append(_labelled("waits for", _names(status, status.waiting)))
    if begun.metric is not None and status.value is not None:
        baseline = "" if begun.baseline is None else f" (baseline {begun.baseline:.4f})"
        lines.append(_labelled(short(begun.metric, _CALLED), f"{achieved(status.value, begun.direction)}{baseline}"))
    lines.append(_labelled("epsilon", _epsilon(status)))
    if begun.noise == "seeded":
        lines.append(_labelled("", "simulation: protects nobody, since its noise is seeded", tone="bad"))
    if sites:
        lines += _sites(status, late)
    lines += [
        Said(
            text=f"{_clock(problem.time)}  round {problem.round}: {called(status, problem.client)}: {problem.reason}",
            tone="bad",
        )
        for problem in status.problems[-_PROBLEMS:]
    ]
    notices = [with_names(text, begun.names) for text in status.notices[-_PROBLEMS:]]
    lines += [Said(text=line, tone="faint") for text in notices for line in text.splitlines()]
    # What others wrote must not write to the terminal what it likes.
    return fitted(lines, width)


def fitted(lines: Iterable[Said], width: int) -> list[Said]:
    """Return lines that show nothing but themselves and are not too long."""
    return [Said(text=_fitted(line.text, width), tone=line.tone) for line in lines]


def called(status: RunStatus, client: int) -> str:
    """Return the name of a client as a line has it: a long one without its middle."""
    return short(status.called(client), _CALLED)


def site_in(status: RunStatus, client: int, *, late: Collection[int]) -> str:
    """Return how a site stands in a run: whether it has answered, and what it has spent of its own budget."""
    spent, budget = status.spent.get(client), status.begun.budgets.get(client)
    answer = ""
    if status.asked is not None and client in status.asked:
        answer = "late" if client in late else "answered" if client in status.answered else "asked"
    paid = "" if budget is None else f"epsilon {'not known' if spent is None else upper(spent)} of its own {budget:g}"
    return f"{answer:<8}  {paid}".rstrip()


def _round(status: RunStatus, now: float) -> str:
    rounds = status.begun.rounds
    filled = _BAR * status.done // rounds if rounds else 0
    text = f"{status.round} of {rounds}"
    if status.state != "running":
        return text
    if status.done:
        text = f"{text}  {'#' * filled}{'.' * (_BAR - filled)}"
    if status.since is not None:
        text = f"{text}  for {duration(max(0.0, now - status.since))}"
    left = status.left(now)
    return text if left is None else f"{text}  time left {duration(max(0.0, left))}"


def _epsilon(status: RunStatus) -> str:
    begun = status.begun
    if begun.epsilon is None or begun.delta is None:
        return "no guarantee is given"
    spent = "not known" if status.epsilon is None else upper(status.epsilon) if status.epsilon else "nothing yet"
    return f"{spent} of {begun.epsilon:g} at delta {begun.delta:g}"


def _sites(status: RunStatus, late: Sequence[int]) -> list[Said]:
    """Return a line for each site that has a name or a budget of its own."""
    known = sorted({*status.begun.names, *status.begun.budgets})
    if not known or status.begun.withheld or len(known) > _SITES:
        return []
    width = max(len(called(status, client)) for client in known)
    return [
        Said(
            text=f"  {called(status, client):<{width}}  {site_in(status, client, late=late)}",
            tone="bad" if client in late else "text",
        )
        for client in known
    ]


def _names(status: RunStatus, clients: Sequence[int]) -> str:
    more = f" and {len(clients) - _NAMES} more" if len(clients) > _NAMES else ""
    return ", ".join(called(status, client) for client in clients[:_NAMES]) + more


def _labelled(label: str, text: str, *, tone: Tone = "text") -> Said:
    return Said(text=f"{label:<{_LABEL}}  {text}", tone=tone)


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%H:%M:%S}"


def _fitted(text: str, width: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= width else f"{shown[: width - 1]}\N{HORIZONTAL ELLIPSIS}"
