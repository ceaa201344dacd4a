"""The claim of a private run, derived from the signed records: by the server that states it, and again by an audit.

``derive_claim`` reads nothing but its arguments. The server calls it with its own record and its copies of the ledgers
to write ``report.privacy``; an audit calls it with what it verified, and compares every field. What both get wrong in
the same way only others can show: the second opinion on epsilon is another library's, and golden reports pin what was
claimed before.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median_high
from typing import Any

from fedtrain.config import Experiment, to_flat
from fedtrain.errors import PrivacySpecError
from fedtrain.ledger import FirstRecord, LedgerEntry, Record, Statement, named_clients, unanswered
from fedtrain.privacy import COARSE, Event, PrivacyPlan, ceiling, claim, epsilon_of, merge, second_opinion
from fedtrain.privacy.accounting import Bound
from fedtrain.privacy.correlation import mean_error
from fedtrain.privacy.events import SampledGaussian, SampledSkellam
from fedtrain.privacy.mechanisms import mechanism_of, mechanism_of_plan, read_plan
from fedtrain.privacy.shares import Grid
from fedtrain.privacy.shares import NoiseShares as Shares
from fedtrain.report import wording
from fedtrain.report.parts import SiteName
from fedtrain.report.privacy import (
    CURVE_CLIENTS,
    Accountant,
    AdaptiveClipping,
    ClientPrivacy,
    Correlation,
    IntegerNoise,
    Mechanism,
    NoiseShares,
    Privacy,
    PrivacyEvent,
    PrivacyPoint,
)
from fedtrain.report.wording import Transport
from fedtrain.trust import Roster

ACCOUNTING: Mapping[str, Callable[[Iterable[Event], float], Bound]] = {
    "claim": claim,
    "second opinion": second_opinion,
    "ceiling": ceiling,
}
"""What computes the epsilon of each role."""


@dataclass(frozen=True, kw_only=True)
class ClientLedger:
    """A client's ledger and its last word about it, both verified, as far as they are known.

    Attributes:
        entries: the entries.
        head: digest of the last line.
        stated: the newest statement; ``None`` if the client gave none.
    """

    entries: Sequence[LedgerEntry]
    head: str
    stated: Statement | None

    @property
    def covering(self) -> Statement | None:
        """The statement, if it says of this very ledger that it is all."""
        covers = self.stated is not None and self.stated.covers(len(self.entries), self.head)
        return self.stated if covers else None


@dataclass(frozen=True, kw_only=True)
class Charge:
    """Steps that count for one client.

    Attributes:
        run: the run that made it, this one or an earlier one on the same records.
        round: the round; 0 for a whole run.
        event: the steps.
    """

    run: str
    round: int
    event: Event


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Everything that is charged to one client.

    Attributes:
        charges: each reservation of its ledger, and each question that it left unanswered.
        unanswered: the rounds of the latter; one that counts twice is there twice.
    """

    charges: tuple[Charge, ...]
    unanswered: tuple[int, ...]

    def events(self, run: str | None = None) -> tuple[Event, ...]:
        """Return the steps of one run, or of all, merged: equal charges give equal tuples, in whatever order."""
        return merge(charge.event for charge in self.charges if run is None or charge.run == run)

    def cumulative(self, run: str, rounds: Sequence[int]) -> tuple[tuple[Event, ...], ...]:
        """Return all steps but those of later rounds of a run, merged, for each of some rounds in ascending order."""
        later = sorted((charge for charge in self.charges if charge.run == run), key=lambda charge: charge.round)
        merged = merge(charge.event for charge in self.charges if charge.run != run)
        points, place = [], 0
        for number in rounds:
            end = bisect_right(later, number, key=lambda charge: charge.round)
            merged = merge((*merged, *(charge.event for charge in later[place:end])))
            points.append(merged)
            place = end
        return tuple(points)


_NOTHING = Spent(charges=(), unanswered=())


def charged(
    client: int, ledger: ClientLedger, plan: PrivacyPlan, first: FirstRecord, records: Sequence[Record]
) -> Spent:
    """Return everything that is charged to a client: each reservation, and each question left unanswered.

    Args:
        client: the client.
        ledger: its ledger.
        plan: the plan of the run.
        first: the first record of the run.
        records: the record.
    """
    reserved = [
        Charge(run=entry.run, round=entry.round, event=entry.event)
        for entry in ledger.entries
        if entry.status == "reserved"
    ]
    missing = unanswered(client, records, ledger.entries, ledger.covering, noise=first.noise)
    event = mechanism_of_plan(plan).event(plan, 1)
    asked = [Charge(run=first.run, round=number, event=event) for number in missing]
    return Spent(charges=(*reserved, *asked), unanswered=tuple(missing))


def derive_claim(
    experiment: Experiment,
    roster: Roster,
    records: Sequence[Record],
    ledgers: Mapping[int, ClientLedger],
    *,
    rounds: int | None,
) -> Privacy:
    """Return what a run can claim.

    Everything is taken from the signed records. Plan, noise and mode are those of the first record, and never
    those of the configuration, of which only the declared tuning and the encoder are taken. Whether the two agree is
    for the audit to check.

    Args:
        experiment: the experiment.
        roster: the keys of the run.
        records: the server's record, verified, from the first on.
        ledgers: the ledger of each client of the roster, with its statement.
        rounds: rounds that are complete; ``None`` to leave out the curve, whose points take a tenth of a second each,
            and the accountants that are not those of the claim.

    Raises:
        PrivacySpecError: the record lacks its first, its plan is of no mechanism that is registered, a client of the
            roster has no ledger, the record names a client that is not in the roster, or an epsilon cannot be bounded.
    """
    first = records[0] if records else None
    if not isinstance(first, FirstRecord):
        raise PrivacySpecError("a claim needs the record of a run from its first record on")
    if missing := [client for client in roster.clients if client not in ledgers]:
        raise PrivacySpecError(f"a claim needs the ledger of each client of the roster, and lacks client {missing[0]}")
    if strangers := sorted(named_clients(records) - roster.clients.keys()):
        raise PrivacySpecError(
            f"the record names client {strangers[0]}, and the roster has no key of it: what it spent is unknown"
        )
    plan = read_plan(first.plan)
    spec, seen = plan.spec, Transport.of(records)
    spent = {client: charged(client, ledgers[client], plan, first, records) for client in sorted(roster.clients)}
    clients = tuple(
        _client(client, mine, ledgers[client], run=first.run, delta=spec.delta) for client, mine in spent.items()
    )
    # Where clients are asked when they are first drawn, a run may end before anybody was.
    most = max(clients, key=lambda client: client.epsilon, default=None)
    epsilon, charges = (0.0, _NOTHING) if most is None else (most.epsilon, spent[most.client])
    return Privacy(
        **derive_guarantee(plan, first, seen, to_flat(experiment), epsilon=epsilon),
        epsilon=epsilon,
        accountants=_accountants(charges, spec.delta, others=rounds is not None),
        tuning=experiment.privacy.tuning,
        clients=clients,
        events=tuple(_event(client, charge) for client, mine in spent.items() for charge in mine.charges),
        curve=() if rounds is None else _curve(spent, first.run, spec.delta, rounds=range(1, rounds + 1)),
    )


def derive_guarantee(
    plan: PrivacyPlan, first: FirstRecord, seen: Transport, config: Mapping[str, object], *, epsilon: float
) -> dict[str, Any]:
    """Return the fields of a claim that follow from the first record and the transport, whatever was spent.

    Args:
        plan: the plan that the run was opened with.
        first: the first record of the run.
        seen: what held of the transport.
        config: every field by its dotted key; the encoder is taken.
        epsilon: what the statement is to say.
    """
    spec = plan.spec
    return {
        "mode": mechanism_of_plan(plan).mode,
        "delta": spec.delta,
        "budget": spec.epsilon,
        "unit": spec.unit,
        "neighbouring": spec.neighbouring,
        "adversaries": wording.adversaries(plan, first.noise, seen),
        "trusted": wording.trusted(plan, seen),
        "mechanism": _mechanism(plan),
        "sampling": wording.sampling(plan),
        "composition": wording.COMPOSITION,
        "noise": first.noise,
        "random_source": wording.RANDOM_SOURCE[first.noise],
        "statement": wording.statement(plan, epsilon, first.noise, seen),
        "accesses_not_covered": wording.accesses_not_covered(plan, first.noise),
        "not_covered": wording.not_covered(plan, seen, config),
    }


def site_names(stated: Mapping[int, Statement | None]) -> tuple[SiteName, ...]:
    """Return what clients allow to be called by, in the order of their numbers: each in its own signed statement.

    Args:
        stated: the newest statement of each client, verified; ``None`` for one that gave none.
    """
    names = {client: said.name for client, said in sorted(stated.items()) if said is not None}
    return tuple(SiteName(client=client, name=name) for client, name in names.items() if name is not None)


def no_claim(experiment: Experiment) -> Privacy:
    """Return the claim of a run without privacy: none."""
    mechanism, seen = mechanism_of(experiment), Transport.of(())
    return Privacy(
        mode=mechanism.mode,
        epsilon=None,
        delta=None,
        budget=None,
        unit=None,
        neighbouring=None,
        adversaries=(),
        trusted=(),
        mechanism=None,
        sampling=None,
        accountants=(),
        composition="none",
        noise=None,
        random_source="none",
        tuning=experiment.privacy.tuning,
        statement=mechanism.statement("", seen),
        accesses_not_covered=mechanism.accesses(),
        not_covered=mechanism.gaps(seen),
        clients=(),
        events=(),
        curve=(),
    )


def _client(client: int, mine: Spent, ledger: ClientLedger, *, run: str, delta: float) -> ClientPrivacy:
    stated, entries = ledger.stated, ledger.entries
    return ClientPrivacy(
        client=client,
        epsilon=epsilon_of(mine.events(), delta),
        run_epsilon=epsilon_of(mine.events(run), delta),
        # A budget at another delta cannot be compared.
        budget=stated.epsilon if stated is not None and stated.delta == delta else None,
        rounds=tuple(sorted({charge.round for charge in mine.charges if charge.run == run})),
        steps=sum(charge.event.steps for charge in mine.charges),
        dataset=entries[0].dataset if entries else None,
        entries=len(entries),
        unanswered=tuple(sorted(set(mine.unanswered))),
    )


def _event(client: int, charge: Charge) -> PrivacyEvent:
    """Return a charge as the report has it.

    Raises:
        PrivacySpecError: the report has no place for events of its kind.
    """
    event = charge.event
    if not isinstance(event, SampledGaussian | SampledSkellam):
        raise PrivacySpecError(f"a report has no place for events of kind {event.kind!r}")
    skellam = None
    if isinstance(event, SampledSkellam):
        skellam = IntegerNoise(variance=event.variance, l2=event.l2, l1=event.l1, values=event.values)
    return PrivacyEvent(
        client=client,
        run=charge.run,
        round=charge.round,
        sampling_rate=event.sampling_rate,
        noise_multiplier=event.noise_multiplier,
        steps=event.steps,
        skellam=skellam,
    )


def _mechanism(plan: PrivacyPlan) -> Mechanism:
    spec = plan.spec
    adaptive = None
    if spec.adaptive is not None:
        adaptive = AdaptiveClipping(
            quantile=spec.adaptive.quantile,
            learning_rate=spec.adaptive.learning_rate,
            count_noise=spec.adaptive.count_noise,
            value_noise_multiplier=plan.value_noise_multiplier,
        )
    correlation = None
    if spec.correlation is not None:
        correlation = Correlation(
            rounds=spec.correlation.rounds,
            separation=spec.correlation.separation,
            bands=spec.correlation.bands,
            value_noise_multiplier=plan.value_noise_multiplier,
            error=mean_error(spec.correlation, spec.rounds),
        )
    noise = "Gaussian" if spec.shares is None else "Skellam"
    return Mechanism(
        name=noise if spec.sampling_rate == 1 else f"Poisson-sampled {noise}",  # type: ignore[arg-type]
        sampling_rate=spec.sampling_rate,
        noise_multiplier=plan.noise_multiplier,
        clip_norm=spec.clip_norm,
        divisor=spec.divisor,
        population=spec.population,
        steps_per_round=spec.steps_per_round,
        rounds=spec.rounds,
        adaptive_clipping=adaptive,
        correlation=correlation,
        shares=None if spec.shares is None else _noise_shares(spec.shares, plan.grid),
        plan_digest=plan.digest,
        plan=plan.as_data(),
    )


def _noise_shares(shares: Shares, grid: Grid) -> NoiseShares:
    return NoiseShares(
        members=shares.members,
        threshold=shares.threshold,
        colluders=shares.colluders,
        honest=shares.honest,
        bits=shares.bits,
        steps=grid.steps,
        limit=grid.limit,
        most=grid.most,
        values=grid.values,
        l2=grid.l2,
        l1=grid.l1,
        share=grid.share,
        variance=grid.variance,
    )


def _accountants(mine: Spent, delta: float, *, others: bool) -> tuple[Accountant, ...]:
    roles = ACCOUNTING if others else ("claim",)
    bounds = {role: ACCOUNTING[role](mine.events(), delta) for role in roles}
    return tuple(
        Accountant.model_validate(
            {
                "name": bound.accountant,
                "version": bound.version,
                "role": role,
                "epsilon": bound.epsilon,
                "note": bound.note,
            }
        )
        for role, bound in bounds.items()
    )


def _curve(spent: Mapping[int, Spent], run: str, delta: float, *, rounds: Iterable[int]) -> tuple[PrivacyPoint, ...]:
    """Return epsilon after each round, quick upper bounds except for the last, which is exact."""
    final = [epsilon_of(mine.events(), delta) for mine in spent.values()]
    numbers = sorted(
        {0, *rounds, *(charge.round for mine in spent.values() for charge in mine.charges if charge.run == run)}
    )
    cumulative = [mine.cumulative(run, numbers) for mine in spent.values()]
    points = []
    for place, number in enumerate(numbers):
        values = [min(coarse(mine[place], delta), most) for mine, most in zip(cumulative, final, strict=True)]
        if number == numbers[-1]:
            values = final
        points.append(
            PrivacyPoint(
                round=number,
                max=max(values, default=0.0),
                median=median_high(values or [0.0]),
                clients=tuple(values) if len(values) <= CURVE_CLIENTS else (),
            )
        )
    return tuple(points)


@cache
def coarse(events: tuple[Event, ...], delta: float) -> float:
    """Return a quick upper bound on the epsilon of merged events."""
    return epsilon_of(events, delta, discretization=COARSE)
