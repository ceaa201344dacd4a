"""Whether epsilon over the rounds is what the charges give."""

from itertools import pairwise
from statistics import median_high

from fedtrain.audit.checks.accounting import near
from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide, not_proven
from fedtrain.privacy import COARSE, Event, epsilon_of

_COMPUTED = 12  # values of the curve that are composed again; each takes a tenth of a second
_CURVE_TOLERANCE = 0.01  # the curve is composed on a coarse grid

Events = tuple[Event, ...]


def curve(evidence: Evidence) -> Finding:
    """Epsilon over the rounds is what the charges give: some values composed again, and none falls from round to round.

    Where all steps are of one mechanism, more steps spend more, so that the others lie between those.
    """
    privacy, run = evidence.report.privacy, evidence.first_record.run
    spent = [evidence.spent[client.client] for client in privacy.clients if client.client in evidence.spent]
    cells: list[tuple[int, Events, float]] = []
    problems = _points(evidence)
    numbers = [point.round for point in privacy.curve]
    cumulative = [mine.cumulative(run, numbers) for mine in spent]
    for place, point in enumerate(privacy.curve):
        until = [events[place] for events in cumulative]
        if point.clients and len(point.clients) == len(until):
            cells += [(point.round, *cell) for cell in zip(until, point.clients, strict=True)]
            if median_high(point.clients) != point.median:
                problems.append(f"round {point.round}: the median of the curve is not that of its clients")
        elif until:
            until.sort(key=_steps)
            cells += [(point.round, until[-1], point.max), (point.round, until[len(until) // 2], point.median)]
    several = len({(event.kind, event.parameters) for _, found, _ in cells for event in found}) > 1
    falls = _falls(evidence)
    if several and not (problems or falls) and not all(point.clients for point in privacy.curve):
        return not_proven("there are many clients and several mechanisms: only the end of the curve is checked")
    cells.sort(key=lambda cell: (_steps(cell[1]), cell[2]))
    distinct = list(dict.fromkeys(found for _, found, _ in cells))
    computed = {found: epsilon_of(found, evidence.delta, discretization=COARSE) for found in _some(distinct)}
    for number, found, value in cells:
        if found in computed and abs(value - computed[found]) > _CURVE_TOLERANCE * max(1.0, computed[found]):
            problems.append(f"round {number}: the curve says {value:.6g}, and the charges give {computed[found]:.6g}")
    problems += [*_disorder(cells), *falls]
    others = ", the others do not fall from round to round" if several else ", the others lie between them"
    return decide(
        problems,
        f"{len(computed)} of {len(distinct)} values composed again{others if len(computed) < len(distinct) else ''}",
    )


def _points(evidence: Evidence) -> list[str]:
    """Say which rounds the curve lacks, and which it must not have: from 0 to the last, and what was charged after."""
    report, run = evidence.report, evidence.first_record.run
    charged = {charge.round for mine in evidence.spent.values() for charge in mine.charges if charge.run == run}
    due, told = (
        {*range(min(report.rounds, len(evidence.completed)) + 1), *charged},
        {point.round for point in report.privacy.curve},
    )
    problems = [f"the curve has no point of round {number}" for number in sorted(due - told)]
    return [*problems, *(f"the curve has a point of round {number}" for number in sorted(told - due))]


def _falls(evidence: Evidence) -> list[str]:
    """Say where a column of the curve falls, or is above the epsilon that it ends with."""
    privacy = evidence.report.privacy
    columns = {
        "the largest": ([point.max for point in privacy.curve], privacy.epsilon or 0.0),
        "the median": (
            [point.median for point in privacy.curve],
            median_high([client.epsilon for client in privacy.clients] or [0.0]),
        ),
    }
    if all(point.clients for point in privacy.curve):
        columns |= {
            f"client {client.client}": ([point.clients[place] for point in privacy.curve], client.epsilon)
            for place, client in enumerate(privacy.clients)
        }
    numbers = [point.round for point in privacy.curve]
    problems = []
    for name, (values, final) in columns.items():
        for number, (before, value) in zip(numbers[1:], pairwise(values), strict=True):
            if value < before and not near(value, before):
                problems.append(f"round {number}: the curve of {name} falls from {before:.6g} to {value:.6g}")
        problems += [
            f"round {number}: the curve of {name} says {value:.6g}, and it ends with {final:.6g}"
            for number, value in zip(numbers, values, strict=True)
            if value > final and not near(value, final)
        ]
    return problems


def _steps(events: Events) -> int:
    return sum(event.steps for event in events)


def _some(distinct: list[Events]) -> list[Events]:
    """Return some of the values, evenly spaced, the first and the last among them."""
    if len(distinct) <= _COMPUTED:
        return distinct
    return [distinct[round(index * (len(distinct) - 1) / (_COMPUTED - 1))] for index in range(_COMPUTED)]


def _disorder(cells: list[tuple[int, Events, float]]) -> list[str]:
    """Say where more steps of one mechanism are said to spend less."""
    problems = []
    before: dict[tuple[str, tuple[float, ...]], float] = {}
    for number, found, value in cells:
        if len(found) != 1:
            continue
        key = (found[0].kind, found[0].parameters)
        if value < before.get(key, 0.0) * (1 - _CURVE_TOLERANCE):
            problems.append(f"round {number}: the curve says {value:.6g}, less than for fewer steps")
        before[key] = max(value, before.get(key, 0.0))
    return problems
