"""What was charged to each client of a private run, from the signed records, and what epsilon that is."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from statistics import median_high

from fedtrain.privacy import COARSE, Event, epsilon_of, merge
from fedtrain.report import PrivacyPoint
from fedtrain.report.privacy import CURVE_CLIENTS
from fedtrain.serverapp.audit_trail import AuditTrail


@dataclass(frozen=True, kw_only=True)
class Charge:
    """Steps that count against one client's budget.

    Attributes:
        client: the client.
        run: the run that made it, this one or an earlier one on the same records.
        round: the round; 0 for a whole run.
        event: the steps.
        unanswered: whether the client's ledger, as far as it is known, has no entry for it.
    """

    client: int
    run: str
    round: int
    event: Event
    unanswered: bool = False


def charges(trail: AuditTrail) -> dict[int, tuple[Charge, ...]]:
    """Return everything that is charged, by client: each reservation, and each question left unanswered."""
    return {client: (*_reserved(trail, client), *_unanswered(trail, client)) for client in sorted(trail.roster.clients)}


def largest_epsilon(trail: AuditTrail, *, up_to: int) -> float:
    """Return a quick upper bound on the largest epsilon after a round of this run."""
    asked = trail.participations(done=up_to)
    delta, event = trail.plan.spec.delta, trail.plan.event
    spent = []
    for client in trail.roster.clients:
        mine = _charged(trail, client, up_to=up_to)
        # What was asked and is not known to be refused may have been spent.
        steps = asked[client] * trail.plan.spec.steps_per_round - sum(charged.steps for charged in mine)
        missing = [event(steps)] if client not in trail.refused and steps > 0 else []
        spent.append(_coarse(merge([*trail.copies.totals(client).events_besides(trail.run), *mine, *missing]), delta))
    return max(spent, default=0.0)


def _charged(trail: AuditTrail, client: int, *, up_to: int) -> tuple[Event, ...]:
    """Return what a client's ledger has charged for this run up to a round, those of one mechanism joined."""
    totals = trail.copies.totals(client)
    if totals.latest(trail.run) <= up_to:
        return totals.events_of(trail.run)
    reserved = _reserved(trail, client)
    return merge(charge.event for charge in reserved if charge.run == trail.run and charge.round <= up_to)


def curve(
    spent: dict[int, tuple[Charge, ...]], trail: AuditTrail, *, rounds: Iterable[int]
) -> tuple[PrivacyPoint, ...]:
    """Return epsilon after each round, quick upper bounds except for the last, which is exact."""
    delta = trail.plan.spec.delta
    final = {client: epsilon_of((charge.event for charge in mine), delta) for client, mine in spent.items()}
    numbers = sorted(
        {0, *rounds, *(charge.round for mine in spent.values() for charge in mine if charge.run == trail.run)}
    )
    points = []
    for number in numbers:
        values = []
        for client, mine in spent.items():
            events = [charge.event for charge in mine if charge.run != trail.run or charge.round <= number]
            last = number == numbers[-1]
            values.append(final[client] if last else min(_coarse(merge(events), delta), final[client]))
        points.append(
            PrivacyPoint(
                round=number,
                max=max(values),
                median=median_high(values),
                clients=tuple(values) if len(values) <= CURVE_CLIENTS else (),
            )
        )
    return tuple(points)


@cache
def _coarse(events: tuple[Event, ...], delta: float) -> float:
    return epsilon_of(events, delta, discretization=COARSE)


def _reserved(trail: AuditTrail, client: int) -> list[Charge]:
    return [
        Charge(client=client, run=entry.run, round=entry.round, event=entry.event)
        for entry in trail.copies.entries(client)
        if entry.status == "reserved"
    ]


def _unanswered(trail: AuditTrail, client: int) -> list[Charge]:
    return [
        Charge(client=client, run=trail.run, round=number, event=trail.plan.round_event, unanswered=True)
        for number in trail.unanswered(client)
    ]
