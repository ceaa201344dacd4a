"""Reserve privacy in this client's ledger, before a record is trained on."""

from typing import TypedDict

from fedtrain.clientapp.node import Node
from fedtrain.clientapp.work import Work
from fedtrain.config import Experiment
from fedtrain.errors import BudgetError, ClientError
from fedtrain.ledger import Ledger, LedgerEntry, check
from fedtrain.privacy import PrivacyPlan, SampledGaussian


class Subject(TypedDict):
    """What a reservation is for, as a ledger takes it."""

    run: str
    round_number: int
    plan: str
    model: str
    event: SampledGaussian


def reserve_run(ledger: Ledger, node: Node, experiment: Experiment, plan: PrivacyPlan, *, run: str) -> None:
    """Reserve a whole run with secret cohorts, durably and once, if the client's policy and budget allow it.

    Every round of such a run spends, whether the client is drawn or not.

    Raises:
        BudgetError: the policy or the budget does not allow it; nothing is reserved.
    """
    subject = _run_subject(plan, run)
    if ledger.reserved(**subject) is None:
        _add(ledger, node, experiment, plan, subject)


def reserved_run(ledger: Ledger, plan: PrivacyPlan, *, run: str) -> LedgerEntry:
    """Return the reservation of a whole run.

    Raises:
        ClientError: there is none.
    """
    reservation = ledger.reserved(**_run_subject(plan, run))
    if reservation is None:
        raise ClientError("this client has not reserved the run, and does not train in it; nothing was trained")
    return reservation


def _run_subject(plan: PrivacyPlan, run: str) -> Subject:
    return {
        "run": run,
        "round_number": 0,
        "plan": plan.digest,
        "model": plan.digest,
        "event": plan.event(plan.spec.steps),
    }


def reserve(ledger: Ledger, node: Node, work: Work, plan: PrivacyPlan, *, run: str) -> LedgerEntry:
    """Reserve what a round spends, durably, if the plan and the client's policy and budget allow it.

    With seeded noise the same work gives the very same update, which tells nobody anything new, and is not charged
    again (docs/decisions/0006). With secure noise each attempt is another release.

    Raises:
        BudgetError: they do not allow it; nothing is reserved.
    """
    experiment = work.site.experiment
    subject: Subject = {
        "run": run,
        "round_number": work.round_number,
        "plan": plan.digest,
        "model": work.digest,
        "event": plan.round_event,
    }
    if experiment.privacy.noise == "seeded" and (made := ledger.reserved(**subject)) is not None:
        return made
    if not 1 <= work.round_number <= experiment.federation.rounds:
        raise BudgetError(
            f"round {work.round_number} is not one of the {experiment.federation.rounds} rounds of the experiment; "
            "nothing was trained"
        )
    if (taken := ledger.totals.reservations(run)) >= plan.spec.rounds:
        raise BudgetError(
            f"this client has taken part in this run {taken} times, and the noise is calibrated for "
            f"{plan.spec.rounds}; nothing was trained"
        )
    return _add(ledger, node, experiment, plan, subject)


def _add(ledger: Ledger, node: Node, experiment: Experiment, plan: PrivacyPlan, subject: Subject) -> LedgerEntry:
    privacy = experiment.privacy
    check(
        node.policy,
        ledger.totals,
        subject["event"],
        run=subject["run"],
        whole=plan.event(plan.spec.steps),
        mode=privacy.mode,
        unit=plan.spec.unit,
        noise=privacy.noise,
    )
    return ledger.reserve(**subject, repeatable=False, unit=plan.spec.unit, noise=privacy.noise)
