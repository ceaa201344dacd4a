"""Whether the epsilons of the report, and their curve over the rounds, follow from the signed entries."""

from collections.abc import Iterable
from itertools import pairwise
from statistics import median_high

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, UnprovenError, decide, not_proven
from fedtrain.privacy import COARSE, Event, epsilon_of
from fedtrain.privacy.accounting import Bound, ceiling, claim, second_opinion
from fedtrain.privacy.mechanisms import adds_up, mechanism_of_plan
from fedtrain.report.claim import ACCOUNTING

TOLERANCE = 1e-3
"""By how much two computations of one epsilon may differ, absolutely or relatively, by versions of a library."""

# The second opinion is the upper end of an interval of 0.1 at most: as a rule it is much nearer, and a difference of
# that width can hide an error of it.
_CLOSE, _ROUGH = 0.03, 0.12
_OPINION_RELATIVE = 0.01


def _independent(events: Iterable[Event], delta: float) -> Bound:
    """Return the second opinion, by a library that an auditor may not have.

    Raises:
        UnprovenError: Opacus, or torch which it needs, is not installed.
    """
    try:
        return second_opinion(events, delta)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"opacus", "torch"}:
            raise
        raise UnprovenError(
            f"the second opinion is not available here: {missing} is not installed; an installation of fedtrain "
            "with all that it depends on has it"
        ) from error


def near(reported: float, found: float) -> bool:
    """Say whether two values of one epsilon agree."""
    return abs(reported - found) <= TOLERANCE * max(1.0, found)


def events(evidence: Evidence) -> Finding:
    """Every entry of this run has the run's plan and noise, and the sampling rate, noise and steps that it prescribes.

    Where noise is correlated over the rounds, no client took part in more rounds, or in nearer ones, than it is
    calibrated for; a question that was left unanswered counts as taking part.

    Every reservation, of whatever run, protects what the report's epsilon is about: charges for records and charges
    for clients do not add up.
    """
    plan, run, digest = evidence.plan, evidence.first_record.run, evidence.plan.digest
    mechanism = mechanism_of_plan(plan)
    expected = mechanism.reservation(plan).as_data()
    noise, problems, count = evidence.first_record.noise, [], 0
    for client, ledger in evidence.ledgers.items():
        for entry in ledger.entries:
            where = f"round {entry.round}, client {client}: entry {entry.sequence}"
            if not adds_up(entry.unit, plan.spec.unit):
                problems.append(f"{where} protects each {entry.unit}, and the report's epsilon each {plan.spec.unit}")
            if entry.run != run:
                continue
            count += 1
            if entry.noise != evidence.first_record.noise:
                problems.append(f"{where} was signed for {entry.noise} noise, and the report says {noise}")
            if entry.plan != digest:
                problems.append(f"{where} was signed for the plan {entry.plan[:16]}, and the run's is {digest[:16]}")
            signed = entry.event.as_data()
            problems += [
                f"{where} has {name.replace('kind', 'the kind')} {signed.get(name)}, and the plan {planned}"
                for name, planned in expected.items()
                if signed.get(name) != planned
            ]
    apart, held = _apart(evidence)
    return decide(
        [*apart, *problems], f"{count} entries of this run have the plan's sampling rate, noise and steps{held}"
    )


def _apart(evidence: Evidence) -> tuple[list[str], str]:
    """Say where a client took part more often, or sooner again, than correlated noise allows, or that none did."""
    spec, run = evidence.plan.spec, evidence.first_record.run
    if spec.correlation is None:
        return [], ""
    separation, problems = spec.correlation.separation, []
    for client, mine in evidence.spent.items():
        rounds = sorted(charge.round for charge in mine.charges if charge.run == run)
        if len(rounds) > spec.rounds:
            problems.append(f"client {client} took part {len(rounds)} times, and the noise is for {spec.rounds}")
        problems += [
            f"round {after}, client {client}: it took part in round {before}, and the noise is for {separation} rounds "
            "from one to the next"
            for before, after in pairwise(rounds)
            if after - before < separation
        ]
    return problems, f"; no client took part more than {spec.rounds} times, or sooner than {separation} rounds later"


def largest(evidence: Evidence) -> Finding:
    """The epsilon of each client, composed again with the accountants of the claim, is the one in the report."""
    delta, problems = evidence.delta, []
    methods: dict[str, None] = {}
    spent, run = evidence.spent, evidence.first_record.run
    for client in evidence.report.privacy.clients:
        if client.client not in spent:
            continue
        mine = spent[client.client]
        for name, reported, charged in (
            ("epsilon", client.epsilon, mine.events()),
            ("epsilon of this run", client.run_epsilon, mine.events(run)),
        ):
            found = claim(charged, delta)
            methods.setdefault(found.accountant)
            if not near(reported, found.epsilon):
                word = "understated" if reported < found.epsilon else "overstated"
                why = "" if found.note is None else f" by {found.accountant}, since {found.note}"
                problems.append(
                    f"client {client.client}: {name} is {word}: {reported:.6g}, and its entries give "
                    f"{found.epsilon:.6g}{why}"
                )
    who = " or ".join(methods) or claim((), delta).accountant
    return decide(problems, f"{who} gives the epsilon of each of {len(spent)} clients again")


def opinion(evidence: Evidence) -> Finding:
    """An independent implementation of another accountant agrees: closely, or only as its interval allows.

    Where the claim is the ceiling, it may be far above the second opinion. It is never below it by more than that.
    """
    delta, problems, gave_up, rough = evidence.delta, [], [], []
    for client in evidence.report.privacy.clients:
        if client.client not in evidence.spent:
            continue
        charged = evidence.spent[client.client].events()
        bound = _independent(charged, delta)
        where = f"client {client.client}"
        if bound.note is not None:
            gave_up.append(f"{where}: {bound.note}")
            continue
        far = abs(client.epsilon - bound.epsilon) - _OPINION_RELATIVE * bound.epsilon
        difference = f"{where}: epsilon is {client.epsilon:.6g}, {bound.accountant} gives {bound.epsilon:.6g}"
        if far > _ROUGH and (client.epsilon < bound.epsilon or claim(charged, delta).note is None):
            problems.append(difference)
        elif far > _CLOSE:
            rough.append(f"the two agree only roughly: {difference}")
    if (gave_up or rough) and not problems:
        return not_proven([*gave_up, *rough][0])
    return decide(problems, f"{second_opinion((), delta).accountant} agrees")


def bound(evidence: Evidence) -> Finding:
    """No epsilon is above what the loosest accountant gives."""
    delta, problems = evidence.delta, []
    for client in evidence.report.privacy.clients:
        if client.client not in evidence.spent:
            continue
        found = ceiling(evidence.spent[client.client].events(), delta)
        if client.epsilon > found.epsilon and not near(client.epsilon, found.epsilon):
            where = f"client {client.client}"
            problems.append(f"{where}: epsilon is {client.epsilon:.6g}, {found.accountant} gives {found.epsilon:.6g}")
    return decide(problems, f"no epsilon is above that of {ceiling((), delta).accountant}")


def accountants(evidence: Evidence) -> Finding:
    """The accountants that the report names are those that it may claim with, and gave what it says.

    The central limit (GDP) approximation, for example, can be below the true epsilon: no claim may rest on it.
    """
    privacy, delta = evidence.report.privacy, evidence.delta
    most = max(privacy.clients, key=lambda client: client.epsilon, default=None)
    if most is None or most.client not in evidence.spent:
        raise UnprovenError("there is no ledger of the client that spent most")
    charged = evidence.spent[most.client].events()
    expected = {**ACCOUNTING, "second opinion": _independent}
    reported = {accountant.role: accountant for accountant in privacy.accountants}
    problems, unproven = [f"no {role} is named" for role in expected if role not in reported], []
    for role, accountant in reported.items():
        try:
            found = expected[role](charged, delta)
        except UnprovenError as error:
            unproven.append(str(error))
            continue
        if accountant.name != found.accountant:
            problems.append(
                f'the {role} is of "{accountant.name}", which is not the accountant of that role, "{found.accountant}"'
            )
        elif not near(accountant.epsilon, found.epsilon):
            problems.append(f"the {role} is {accountant.epsilon:.6g}, and {accountant.name} gives {found.epsilon:.6g}")
        elif accountant.note != found.note:
            problems.append(f"the note of the {role} is not what {accountant.name} gives: {found.note}")
    if unproven and not problems:
        return not_proven("; ".join(unproven))
    return decide(
        problems, "; ".join(f"{role}: {accountant.name}, {accountant.version}" for role, accountant in reported.items())
    )


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
    due, reported = (
        {*range(min(report.rounds, len(evidence.completed)) + 1), *charged},
        {point.round for point in report.privacy.curve},
    )
    problems = [f"the curve has no point of round {number}" for number in sorted(due - reported)]
    return [*problems, *(f"the curve has a point of round {number}" for number in sorted(reported - due))]


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
