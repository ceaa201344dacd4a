"""What a claim rests on, in words: what is promised, who is trusted, and what is not covered.

All of it follows from the plan, the source of noise and the transport, so that an audit can compare it. What depends on
the mechanism it says itself (`fedtrain.privacy.mechanisms`); here is what holds for every one.

Secure aggregation bounds nobody: a sum still tells of its members, and only noise bounds how much. It changes what a
server sees that follows the protocol, and in client privacy who is trusted to clip. A server that does not can ask for
the same work twice, in cohorts that differ in one client, and has that client's update in the difference of the sums.
"""

from dataclasses import asdict
from typing import Literal

from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import Seen, mechanism_of_plan
from fedtrain.report.mechanism import Adversary, Sampling
from fedtrain.report.numbers import upper


def adversaries(plan: PrivacyPlan, noise: Literal["seeded", "secure"], seen: Seen) -> tuple[Adversary, ...]:
    """Return who is bounded by what. Seeded noise bounds nobody: whoever knows the seed can take it away."""
    found = [Adversary(**asdict(adversary)) for adversary in mechanism_of_plan(plan).adversaries(plan, seen)]
    return tuple(
        adversary.model_copy(
            update={"bounded": False, "by": f"nothing: the noise is seeded; with secure noise, {adversary.by}"}
        )
        if noise == "seeded" and adversary.bounded
        else adversary
        for adversary in found
    )


def trusted(plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
    """Return whom the guarantee relies on, and for what."""
    return mechanism_of_plan(plan).trusted(plan, seen)


def sampling(plan: PrivacyPlan) -> Sampling:
    """Return how units are chosen, and whether epsilon makes use of it."""
    return Sampling(**asdict(mechanism_of_plan(plan).sampling(plan)))


def statement(plan: PrivacyPlan, epsilon: float, noise: Literal["seeded", "secure"], seen: Seen) -> str:
    """Return the guarantee in plain language."""
    odds = (
        f"the odds of any conclusion change by a factor of at most exp({upper(epsilon)}), except with probability "
        f"{plan.spec.delta:g}"
    )
    text = mechanism_of_plan(plan).statement(odds, seen)
    if noise == "seeded":
        text += (
            " This holds for noise that nobody can predict; this run is a simulation with seeded noise, and shows what "
            "a deployment would promise."
        )
    return text


def accesses_not_covered(plan: PrivacyPlan, noise: Literal["seeded", "secure"]) -> tuple[str, ...]:
    """Return which accesses to the data epsilon does not pay for. With secure noise, a report has no counts."""
    accesses = mechanism_of_plan(plan).accesses()
    return (_COUNTS, *accesses) if noise == "seeded" else accesses


def not_covered(plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
    """Return what else epsilon does not cover."""
    return (*_NOT_COVERED, *mechanism_of_plan(plan).gaps(seen))


_COUNTS = "The label histogram in this report, and the sizes of the data sets: read directly from the data."

RANDOM_SOURCE: dict[Literal["seeded", "secure"], str] = {
    "seeded": "a seeded fast generator, for simulation only: whoever knows the seed can remove the noise",
    "secure": "an AES-256-CTR key stream with a key from the operating system, never stored",
}

_NOT_COVERED = (
    "The test records: they are held by the server, and the best model is selected on them.",
    "Records that are in several data sets of a client: each data set has its own ledger, and their epsilons add up.",
    "Tuning: the choice of the configuration by earlier runs, beyond what is in the ledgers.",
    "One person's records at several clients, and, where the unit is a record, several records of one person.",
    "How long a client takes, whether it answers, and what it gives as the reason if it does not.",
)

COMPOSITION = (
    "For each client over all steps of all runs in the ledger of its data set, this run included; over clients, whose "
    "records are taken to be disjoint, the largest epsilon. A round is charged before a record is trained on, and also "
    "where a client was asked and nothing signed says that it did not train."
)
