"""Whether what the report says of privacy is what the signed entries and records give."""

from collections import Counter
from math import isclose
from statistics import median_high

from fedtrain.privacy import COARSE, SampledGaussian, epsilon_of
from fedtrain.report.audit.evidence import Evidence
from fedtrain.report.audit.spending import Spent
from fedtrain.report.audit.verdict import Finding, decide, not_proven
from fedtrain.report.mechanism import PrivacyEvent
from fedtrain.report.privacy import ClientPrivacy

_COMPUTED = 12  # values of the curve that are composed again; each takes a tenth of a second
_CURVE_TOLERANCE = 0.01  # the curve is composed on a coarse grid

Events = tuple[SampledGaussian, ...]


def mechanism(evidence: Evidence) -> Finding:
    """The mechanism, the unit and the sampling of the report are those of the plan that the run was opened with."""
    told, privacy, plan = evidence.mechanism, evidence.report.privacy, evidence.plan
    spec, adaptive = plan.spec, told.adaptive_clipping
    clipping = spec.adaptive
    pairs = {
        "plan digest": (told.plan_digest, plan.digest),
        "unit": (privacy.unit, spec.unit),
        "neighbouring": (privacy.neighbouring, spec.neighbouring),
        "sampling rate": (told.sampling_rate, spec.sampling_rate),
        "noise multiplier": (told.noise_multiplier, plan.noise_multiplier),
        "clip norm": (told.clip_norm, spec.clip_norm),
        "divisor": (told.divisor, spec.divisor),
        "population": (told.population, spec.population),
        "steps per round": (told.steps_per_round, spec.steps_per_round),
        "rounds": (told.rounds, spec.rounds),
        "clipping quantile": (adaptive and adaptive.quantile, clipping and clipping.quantile),
        "clipping rate": (adaptive and adaptive.learning_rate, clipping and clipping.learning_rate),
        "clipping noise": (adaptive and adaptive.count_noise, clipping and clipping.count_noise),
    }
    problems = [
        f"{name} is {said} in the report, and {planned} in the plan"
        for name, (said, planned) in pairs.items()
        if said != planned
    ]
    if adaptive is not None and not isclose(adaptive.value_noise_multiplier, plan.value_noise_multiplier):
        said, planned = adaptive.value_noise_multiplier, plan.value_noise_multiplier
        problems.append(f"noise multiplier of the values is {said} in the report, and {planned} by the plan")
    sampling = privacy.sampling
    if sampling is not None and sampling.amplification and not (evidence.secret or spec.unit == "record"):
        problems.append("amplification by sampling is claimed, and cohorts are not secret")
    return decide(problems, f"as in the plan {plan.digest[:16]}, which each client's entries name")


def clients(evidence: Evidence) -> Finding:
    """What the report says of each client is what its ledger gives; every client of the roster is there."""
    told = {client.client: client for client in evidence.report.privacy.clients}
    problems = [
        f"client {client} is missing from privacy.clients" for client in evidence.roster.clients if client not in told
    ]
    problems += [
        f"client {client} is in privacy.clients and not in the roster"
        for client in told
        if client not in evidence.roster.clients
    ]
    for client, spent in evidence.spent.items():
        if client in told:
            problems += _differences(told[client], evidence, spent)
    return decide(problems, f"data set, entries, steps and rounds of {len(told)} clients are those of their ledgers")


def _differences(told: ClientPrivacy, evidence: Evidence, spent: Spent) -> list[str]:
    entries, run = evidence.ledgers[told.client].entries, evidence.opened.run
    pairs = {
        "dataset": (told.dataset, entries[0].dataset if entries else None),
        "entries": (told.entries, len(entries)),
        "steps": (told.steps, sum(charge.event.steps for charge in spent.charges)),
        "rounds": (told.rounds, tuple(sorted({charge.round for charge in spent.charges if charge.run == run}))),
        "unanswered": (tuple(sorted(told.unanswered)), tuple(sorted(set(spent.unanswered)))),
    }
    return [
        f"client {told.client}: {name} is {said} in the report, and {found} by its ledger and the server's record"
        for name, (said, found) in pairs.items()
        if said != found
    ]


def events(evidence: Evidence) -> Finding:
    """The charges in the report are exactly those of the ledgers, and the questions that were left unanswered."""
    told = Counter(map(_key, evidence.report.privacy.events))
    found: Counter[tuple[int, str, int, float, float, int]] = Counter()
    for client, spent in evidence.spent.items():
        for charge in spent.charges:
            event = charge.event
            found[client, charge.run, charge.round, event.sampling_rate, event.noise_multiplier, event.steps] += 1
    problems = [f"round {key[2]}, client {key[0]}: a charge is missing from privacy.events" for key in found - told]
    problems += [
        f"round {key[2]}, client {key[0]}: privacy.events has a charge that nothing gives" for key in told - found
    ]
    return decide(problems, f"{found.total()} charges are those of the ledgers and of unanswered questions")


def _key(event: PrivacyEvent) -> tuple[int, str, int, float, float, int]:
    return (event.client, event.run, event.round, event.sampling_rate, event.noise_multiplier, event.steps)


def curve(evidence: Evidence) -> Finding:
    """Epsilon over the rounds is what the charges give: some values composed again, all in the order of the steps."""
    privacy, run = evidence.report.privacy, evidence.opened.run
    spent = [evidence.spent[client.client] for client in privacy.clients if client.client in evidence.spent]
    cells: list[tuple[int, Events, float]] = []
    problems: list[str] = []
    numbers = [point.round for point in privacy.curve]
    courses = [mine.course(run, numbers) for mine in spent]
    for place, point in enumerate(privacy.curve):
        until = [course[place] for course in courses]
        if point.clients and len(point.clients) == len(until):
            cells += [(point.round, *cell) for cell in zip(until, point.clients, strict=True)]
            if median_high(point.clients) != point.median:
                problems.append(f"round {point.round}: the median of the curve is not that of its clients")
        else:
            until.sort(key=_steps)
            cells += [(point.round, until[-1], point.max), (point.round, until[len(until) // 2], point.median)]
    if len({(event.sampling_rate, event.noise_multiplier) for _, found, _ in cells for event in found}) > 1 and not all(
        point.clients for point in privacy.curve
    ):
        return not_proven("there are many clients and several mechanisms: only the end of the curve is checked")
    cells.sort(key=lambda cell: (_steps(cell[1]), cell[2]))
    distinct = list(dict.fromkeys(found for _, found, _ in cells))
    computed = {found: epsilon_of(found, evidence.delta, discretization=COARSE) for found in _some(distinct)}
    for number, found, value in cells:
        if found in computed and abs(value - computed[found]) > _CURVE_TOLERANCE * max(1.0, computed[found]):
            problems.append(f"round {number}: the curve says {value:.6g}, and the charges give {computed[found]:.6g}")
    problems += _disorder(cells)
    between = "" if len(computed) == len(distinct) else ", the others lie between them"
    return decide(problems, f"{len(computed)} of {len(distinct)} values composed again{between}")


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
    before: dict[tuple[float, float], float] = {}
    for number, found, value in cells:
        if len(found) != 1:
            continue
        key = (found[0].sampling_rate, found[0].noise_multiplier)
        if value < before.get(key, 0.0) * (1 - _CURVE_TOLERANCE):
            problems.append(f"round {number}: the curve says {value:.6g}, less than for fewer steps")
        before[key] = max(value, before.get(key, 0.0))
    return problems
