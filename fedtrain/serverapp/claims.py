"""The privacy part of the report: the claim, the evidence behind it, and what it does not cover."""

from fedtrain.config import Experiment
from fedtrain.privacy import PrivacyPlan, epsilon_of
from fedtrain.privacy.accounting import ceiling, claim, second_opinion
from fedtrain.privacy.events import sampled_gaussian
from fedtrain.report import (
    Accountant,
    AdaptiveClipping,
    ClientPrivacy,
    Mechanism,
    Privacy,
    PrivacyEvent,
    wording,
)
from fedtrain.report.transport import Transport
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.spending import Charge, charges, curve


def private_claim(experiment: Experiment, trail: AuditTrail, *, rounds: int) -> Privacy:
    """Return what a private run can claim after so many rounds."""
    plan, spec, mode = trail.plan, trail.plan.spec, experiment.privacy.mode
    spent, transport = charges(trail), Transport.of(trail.log.records)
    clients = tuple(_client(client, mine, trail) for client, mine in spent.items())
    most = max(clients, key=lambda client: client.epsilon)
    return Privacy(
        mode=mode,
        epsilon=most.epsilon,
        delta=spec.delta,
        budget=spec.epsilon,
        unit=spec.unit,
        neighbouring=spec.neighbouring,
        adversaries=wording.adversaries(plan, trail.noise, transport),
        trusted=wording.trusted(plan, transport),
        mechanism=_mechanism(plan),
        sampling=wording.sampling(plan),
        accountants=_accountants(spent[most.client], spec.delta),
        composition=wording.COMPOSITION,
        noise=trail.noise,
        random_source=wording.RANDOM_SOURCE[trail.noise],
        tuning=experiment.privacy.tuning,
        statement=wording.statement(plan, most.epsilon, trail.noise, transport),
        accesses_not_covered=wording.accesses_not_covered(plan, trail.noise),
        not_covered=wording.not_covered(plan, transport),
        clients=clients,
        events=tuple(_event(charge) for mine in spent.values() for charge in mine),
        curve=curve(spent, trail, rounds=range(1, rounds + 1)),
    )


def no_claim(experiment: Experiment) -> Privacy:
    """Return the claim of a run without privacy: none."""
    return Privacy(
        mode="none",
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
        statement="This run gives no privacy guarantee. Its models may reveal the records that they were trained on.",
        accesses_not_covered=("Everything.",),
        not_covered=("Everything.",),
        clients=(),
        events=(),
        curve=(),
    )


def _client(client: int, mine: tuple[Charge, ...], trail: AuditTrail) -> ClientPrivacy:
    delta = trail.plan.spec.delta
    stated = trail.copies.stated(client)
    entries = trail.copies.entries(client)
    return ClientPrivacy(
        client=client,
        epsilon=epsilon_of((charge.event for charge in mine), delta),
        run_epsilon=epsilon_of((charge.event for charge in mine if charge.run == trail.run), delta),
        # A budget at another delta cannot be compared.
        budget=stated.epsilon if stated is not None and stated.delta == delta else None,
        rounds=tuple(sorted({charge.round for charge in mine if charge.run == trail.run})),
        steps=sum(charge.event.steps for charge in mine),
        dataset=entries[0].dataset if entries else None,
        entries=len(entries),
        unanswered=tuple(sorted({charge.round for charge in mine if charge.unanswered})),
    )


def _event(charge: Charge) -> PrivacyEvent:
    event = sampled_gaussian(charge.event)
    return PrivacyEvent(
        client=charge.client,
        run=charge.run,
        round=charge.round,
        sampling_rate=event.sampling_rate,
        noise_multiplier=event.noise_multiplier,
        steps=event.steps,
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
    return Mechanism(
        name="Gaussian" if spec.sampling_rate == 1 else "Poisson-sampled Gaussian",
        sampling_rate=spec.sampling_rate,
        noise_multiplier=plan.noise_multiplier,
        clip_norm=spec.clip_norm,
        divisor=spec.divisor,
        population=spec.population,
        steps_per_round=spec.steps_per_round,
        rounds=spec.rounds,
        adaptive_clipping=adaptive,
        plan_digest=plan.digest,
        plan=plan.as_data(),
    )


def _accountants(mine: tuple[Charge, ...], delta: float) -> tuple[Accountant, ...]:
    events = [charge.event for charge in mine]
    bounds = {
        "claim": claim(events, delta),
        "second opinion": second_opinion(events, delta),
        "ceiling": ceiling(events, delta),
    }
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
