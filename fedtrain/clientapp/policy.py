"""What this client allows, and the reservation in its ledger that comes before a record is trained on."""

from functools import lru_cache
from typing import TypedDict

from fedtrain.clientapp.context import ClientContext
from fedtrain.config import Experiment
from fedtrain.config.sections import ENCODERS
from fedtrain.errors import BudgetError, ClientError
from fedtrain.ledger import Ledger, LedgerEntry, check
from fedtrain.privacy import Event, PrivacyPlan
from fedtrain.privacy.mechanisms import Mechanism, mechanism_of


class Subject(TypedDict):
    """What a reservation is for, as a ledger takes it."""

    run: str
    round_number: int
    plan: str
    model: str
    event: Event


def refuse_task(client: ClientContext) -> None:
    """Refuse a task or an encoder that the client's site file does not allow, before any of its code runs.

    An encoder of somebody's own needs leave of its own where the site file names the tasks.

    Raises:
        BudgetError: it is not allowed; nothing was trained.
        SiteError: the site file cannot be used.
    """
    policy, task = client.policy, client.experiment.task.name
    if policy is not None and policy.tasks is not None and task not in policy.tasks:
        raise BudgetError(
            f"client {client.client} does not train the task {task!r}: its site file allows the tasks "
            f"{', '.join(policy.tasks) or 'none at all'}; nothing was trained"
        )
    encoder = client.experiment.task.encoder
    if policy is None or encoder is None or (policy.encoders is None and policy.tasks is None):
        return
    allowed = tuple(ENCODERS) if policy.encoders is None else policy.encoders
    if encoder not in allowed:
        raise BudgetError(
            f"client {client.client} does not train on what the encoder {encoder!r} computes: its site file allows the "
            f"encoders {', '.join(allowed) or 'none at all'}; nothing was trained"
        )


def refuse_mode(client: ClientContext) -> None:
    """Refuse training without privacy where the client's site file does not list mode "none".

    On a machine of its own, seeded noise is refused too, whatever the site file says.

    Raises:
        BudgetError: likewise; nothing was trained.
        SiteError: the site file cannot be used.
    """
    policy, privacy, mechanism = client.policy, client.experiment.privacy, mechanism_of(client.experiment)
    if policy is not None and not mechanism.private and privacy.mode not in policy.modes:
        raise BudgetError(
            f"client {client.client} does not train without privacy: its site file allows the modes "
            f"{', '.join(policy.modes)}; nothing was trained"
        )
    if client.node is not None and mechanism.private and privacy.noise == "seeded":
        raise BudgetError(
            f"client {client.client} does not train with seeded noise, which anybody can compute and subtract: it is "
            'for simulations; set privacy.noise = "secure"; nothing was trained'
        )


def refuse_unmasked(client: ClientContext, *, masked: bool) -> None:
    """Refuse to send a share of the noise alone: on a machine of its own, only into a sum of masked vectors.

    Raises:
        BudgetError: the request asks for no sum; nothing was trained.
    """
    if client.node is not None and mechanism_of(client.experiment).requires.only_sums and not masked:
        raise BudgetError(
            f"client {client.client} adds a share of the noise, which protects in sums of several clients alone, and "
            "the server asks for it without masks; set transport.secagg.enabled = true; nothing was trained"
        )


@lru_cache(maxsize=8)
def checked_plan(experiment: Experiment, noise_multiplier: float) -> PrivacyPlan:
    """Return the plan with the server's noise, checked by this client against the budget in its own accounting.

    Raises:
        PrivacySpecError: that noise does not keep the budget.
    """
    return mechanism_of(experiment).plan(experiment, noise_multiplier=noise_multiplier)


def reserve_run(ledger: Ledger, client: ClientContext, plan: PrivacyPlan, *, run: str) -> None:
    """Reserve a whole run with secret cohorts, durably and once, if the client's policy and budget allow it.

    Every round of such a run spends, whether the client is drawn or not.

    Raises:
        BudgetError: the policy or the budget does not allow it; nothing is reserved.
    """
    subject = _run_subject(client, plan, run)
    if ledger.reserved(**subject) is None:
        noise = client.experiment.privacy.noise
        _check(ledger, client, plan, subject)
        ledger.reserve(**subject, repeatable=False, unit=plan.spec.unit, noise=noise)


def reserved_run(ledger: Ledger, client: ClientContext, plan: PrivacyPlan, *, run: str) -> LedgerEntry:
    """Return the reservation of a whole run.

    Raises:
        ClientError: there is none.
    """
    reservation = ledger.reserved(**_run_subject(client, plan, run))
    if reservation is None:
        raise ClientError("this client has not reserved the run, and does not train in it; nothing was trained")
    return reservation


def _run_subject(client: ClientContext, plan: PrivacyPlan, run: str) -> Subject:
    return {
        "run": run,
        "round_number": 0,
        "plan": plan.digest,
        "model": plan.digest,
        "event": mechanism_of(client.experiment).reservation(plan),
    }


def reserve(
    ledger: Ledger, client: ClientContext, plan: PrivacyPlan, *, run: str, round_number: int, request: str
) -> LedgerEntry:
    """Reserve what a round spends, durably, if the plan and the client's policy and budget allow it.

    With seeded noise the same work gives the very same update, which tells nobody anything new, and is not charged
    again (docs/decisions/0006). With secure noise each attempt is another release.

    Args:
        ledger: the ledger of the data set.
        client: what the client allows.
        plan: the checked plan.
        run: id of the run.
        round_number: the round, from 1.
        request: digest of all that was received.

    Raises:
        BudgetError: they do not allow it; nothing is reserved.
    """
    experiment = client.experiment
    subject: Subject = {
        "run": run,
        "round_number": round_number,
        "plan": plan.digest,
        "model": request,
        "event": mechanism_of(experiment).reservation(plan),
    }

    def permit() -> None:
        if not 1 <= round_number <= experiment.federation.rounds:
            raise BudgetError(
                f"round {round_number} is not one of the {experiment.federation.rounds} rounds of the experiment; "
                "nothing was trained"
            )
        if (taken := ledger.totals.reservations(run)) >= plan.spec.rounds:
            raise BudgetError(
                f"this client has taken part in this run {taken} times, and the noise is calibrated for "
                f"{plan.spec.rounds}; nothing was trained"
            )
        _check_separation(ledger, plan, run, round_number)
        _check(ledger, client, plan, subject)

    privacy = experiment.privacy
    return ledger.reserve(
        **subject, repeatable=privacy.noise == "seeded", unit=plan.spec.unit, noise=privacy.noise, permit=permit
    )


def _check_separation(ledger: Ledger, plan: PrivacyPlan, run: str, round_number: int) -> None:
    """Refuse a round that is too near to the last one of this run, or the same again, where the noise relies on that.

    Work that was reserved before and gives the very same update does not come here.
    """
    correlation, latest = plan.spec.correlation, ledger.totals.latest(run)
    if correlation is None or not latest or round_number - latest >= correlation.separation:
        return
    raise BudgetError(
        f"round {round_number} is too near to round {latest}, the last one of this run that this client has reserved: "
        f"the noise is calibrated for {correlation.separation} rounds from one to the next; nothing was trained"
    )


def _check(ledger: Ledger, client: ClientContext, plan: PrivacyPlan, subject: Subject) -> None:
    """Refuse a charge that the client's policy or budget does not allow."""
    privacy, mechanism = client.experiment.privacy, mechanism_of(client.experiment)
    _check_trust(client, mechanism, plan)
    check(
        client.limits,
        ledger.totals,
        subject["event"],
        run=subject["run"],
        whole=mechanism.event(plan, plan.spec.rounds),
        mode=privacy.mode,
        unit=plan.spec.unit,
        noise=privacy.noise,
    )


def _check_trust(client: ClientContext, mechanism: Mechanism, plan: PrivacyPlan) -> None:
    """Refuse noise that others add, where the client's policy does not allow it, or not for so few colluders."""
    limits, shares = client.limits, plan.spec.shares
    if mechanism.trust not in limits.trust:
        raise BudgetError(
            f"{mechanism.trust} noise is not allowed by this client (allowed: {', '.join(limits.trust) or 'none'}); "
            "nothing was trained. The owner of the client can allow it with [policy] trust in its site file"
        )
    if shares is not None and shares.colluders < limits.colluders:
        raise BudgetError(
            f"the noise is shared for privacy.colluders = {shares.colluders}, and this client asks for "
            f"{limits.colluders} or more; nothing was trained"
        )
