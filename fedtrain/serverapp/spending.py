"""What a private run has spent after a round, quickly, for the screen."""

from fedtrain.privacy import Event, merge
from fedtrain.privacy.mechanisms import mechanism_of_plan
from fedtrain.report.claim import coarse
from fedtrain.serverapp.audit_trail import AuditTrail


def largest_epsilon(trail: AuditTrail, *, up_to: int) -> float:
    """Return a quick upper bound on the largest epsilon after a round of this run."""
    asked = trail.participations(done=up_to)
    delta, event = trail.plan.spec.delta, mechanism_of_plan(trail.plan).event(trail.plan, 1)
    spent = []
    for client in trail.roster.clients:
        mine = _charged(trail, client, up_to=up_to)
        # What was asked and is not known to be refused may have been spent.
        steps = asked[client] * trail.plan.spec.steps_per_round - sum(charged.steps for charged in mine)
        missing = [event.with_steps(steps)] if client not in trail.refused and steps > 0 else []
        spent.append(coarse(merge([*trail.copies.totals(client).events_besides(trail.run), *mine, *missing]), delta))
    return max(spent, default=0.0)


def _charged(trail: AuditTrail, client: int, *, up_to: int) -> tuple[Event, ...]:
    """Return what a client's ledger has charged for this run up to a round, those of one mechanism joined."""
    totals = trail.copies.totals(client)
    if totals.latest(trail.run) <= up_to:
        return totals.events_of(trail.run)
    return merge(
        entry.event
        for entry in trail.copies.entries(client)
        if entry.status == "reserved" and entry.run == trail.run and entry.round <= up_to
    )
