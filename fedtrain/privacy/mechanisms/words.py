"""Words and constants that mechanisms share."""

from typing import Literal

from fedtrain.config import Experiment
from fedtrain.privacy.mechanisms.base import Adversary, Sampling, Seen
from fedtrain.privacy.plan import PrivacyPlan


def participations(experiment: Experiment) -> int:
    """Return the rounds that one client trains in at most, where that is capped.

    More than the rounds of the experiment is room for rounds that are lost and asked again.
    """
    return experiment.privacy.max_participations or experiment.federation.rounds


def reader(by: str) -> Adversary:
    """Return the one who gets the models, and what bounds them."""
    return Adversary(who="whoever gets the model", sees="the final and the best model", bounded=True, by=by)


def other_client(by: str) -> Adversary:
    """Return another client, and what bounds it."""
    return Adversary(who="another client", sees=OTHER_CLIENT, bounded=True, by=by)


def relay(seen: Seen, *, by: str, bounded: bool = True) -> Adversary:
    """Return the one who relays messages, and what bounds them, or why nothing does."""
    return Adversary(
        who="whoever relays messages between server and clients",
        sees=SEALED if seen.sealed else OPEN,
        bounded=bounded,
        by=by,
    )


def poisson(plan: PrivacyPlan, units: Literal["records", "clients"], *, reason: str) -> Sampling:
    """Return that units are drawn in secret, each by itself, and that epsilon makes use of it."""
    return Sampling(
        scheme="Poisson, records" if units == "records" else "Poisson, clients",
        rate=plan.spec.sampling_rate,
        amplification=plan.spec.sampling_rate < 1,
        reason=reason,
    )


def own_batches(plan: PrivacyPlan) -> Sampling:
    """Return that each client draws the records of its batches in secret."""
    return poisson(
        plan,
        "records",
        reason="Each client draws its own batches, and nobody else learns which records are in them. "
        "The choice of the cohort by the server is not counted on.",
    )


KNOWN_COHORTS = Sampling(
    scheme="none",
    rate=1.0,
    amplification=False,
    reason="Cohorts are known, so every participation counts in full, up to the cap.",
)

AUDITOR = Adversary(
    who="whoever reads this report",
    sees="configuration, measurements on test records, ledgers",
    bounded=True,
    by="all are public constants or computed from released models, except what is listed as not covered",
)

DATASET_DIGEST = (
    "The keyed digest of each data set, which tells only whether the same client used the same records before."
)

OPEN = "what the server sees"
SEALED = "who sends how much to whom, and when; keys, ledgers and statements; models and updates only encrypted"
OTHER_CLIENT = (
    "the global model of each round that it takes part in, and with secure aggregation who else takes part in it"
)
ONLY_SUMS = (
    "the sum of the {} of each round, and who took part; a single update with the help of other clients of a cohort, "
    "or if it asks for the same work in cohorts that differ in one client, and subtracts the sums"
)
