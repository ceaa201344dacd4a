"""What a claim rests on, in words: who is protected against whom, who is trusted, and what is not covered.

All of it follows from the mode, the plan and the source of noise, so that an audit can compare it.
"""

from typing import Literal

from fedtrain.privacy import PrivacyPlan
from fedtrain.report.mechanism import Adversary, Sampling
from fedtrain.report.numbers import upper

Mode = Literal["record", "client"]


def adversaries(mode: Mode, noise: Literal["seeded", "secure"]) -> tuple[Adversary, ...]:
    """Return who is bounded by what. Seeded noise bounds nobody: whoever knows the seed can take it away."""
    return tuple(
        adversary.model_copy(
            update={"bounded": False, "by": f"nothing: the noise is seeded; with secure noise, {adversary.by}"}
        )
        if noise == "seeded" and adversary.bounded
        else adversary
        for adversary in _ADVERSARIES[mode]
    )


def sampling(plan: PrivacyPlan) -> Sampling:
    """Return how units are chosen, and whether epsilon makes use of it."""
    spec = plan.spec
    if spec.unit == "record":
        return Sampling(
            scheme="Poisson, records",
            rate=spec.sampling_rate,
            amplification=spec.sampling_rate < 1,
            reason="Each client draws its own batches, and nobody else learns which records are in them. "
            "The choice of the cohort by the server is not counted on.",
        )
    if spec.neighbouring == "add or remove one client":
        return Sampling(
            scheme="Poisson, clients",
            rate=spec.sampling_rate,
            amplification=spec.sampling_rate < 1,
            reason="The server, which is trusted, draws each client by itself and keeps the cohorts secret: "
            "they are not in this report.",
        )
    return Sampling(
        scheme="none",
        rate=1.0,
        amplification=False,
        reason="Cohorts are known, so every participation counts in full, up to the cap.",
    )


def statement(plan: PrivacyPlan, epsilon: float, noise: Literal["seeded", "secure"]) -> str:
    """Return the guarantee in plain language."""
    spec = plan.spec
    odds = (
        f"the odds of any conclusion change by a factor of at most exp({upper(epsilon)}), except with probability "
        f"{spec.delta:g}"
    )
    if spec.unit == "record":
        text = (
            "Whoever sees every model and every update of this run, the server included, can hardly tell whether any "
            f"one record was among a client's training records: {odds}."
        )
    else:
        text = (
            "Whoever sees the models of this run can hardly tell whether any one client's records were used at all: "
            f"{odds}. The server sees each client's update and is trusted with it, and with the noise."
        )
    if noise == "seeded":
        text += (
            " This holds for noise that nobody can predict; this run is a simulation with seeded noise, and shows what "
            "a deployment would promise."
        )
    return text


def accesses_not_covered(mode: Mode, noise: Literal["seeded", "secure"]) -> tuple[str, ...]:
    """Return which accesses to the data epsilon does not pay for. With secure noise, a report has no counts."""
    return (_COUNTS, *_ACCESSES[mode]) if noise == "seeded" else _ACCESSES[mode]


_ADVERSARIES: dict[Mode, tuple[Adversary, ...]] = {
    "record": (
        Adversary(
            who="whoever gets the model",
            sees="the final and the best model",
            bounded=True,
            by="noise in every step at the client",
        ),
        Adversary(
            who="another client",
            sees="the global model of each round that it takes part in",
            bounded=True,
            by="noise in every step at the client",
        ),
        Adversary(
            who="the server, also one that chooses the models it sends",
            sees="every update of every client, and who took part",
            bounded=True,
            by="noise in every step at the client, whatever model is sent",
        ),
        Adversary(
            who="whoever reads this report",
            sees="configuration, measurements on test records, ledgers",
            bounded=True,
            by="all are public constants or computed from released models, except what is listed as not covered",
        ),
    ),
    "client": (
        Adversary(
            who="whoever gets the model",
            sees="the final and the best model",
            bounded=True,
            by="noise on the sum of the clipped updates",
        ),
        Adversary(
            who="another client",
            sees="the global model of each round that it takes part in",
            bounded=True,
            by="noise on the sum; with secret cohorts only as far as it does not learn who else took part",
        ),
        Adversary(
            who="the server",
            sees="every clipped update of every client",
            bounded=False,
            by="nothing: the server is trusted with the updates and the noise",
        ),
        Adversary(
            who="whoever reads this report",
            sees="configuration, measurements on test records, ledgers",
            bounded=True,
            by="all are public constants or computed from released models, except what is listed as not covered",
        ),
    ),
}

TRUSTED: dict[Mode, tuple[str, ...]] = {
    "record": (
        "Each client's own program, to sample, clip and add noise: one that does not harms its own records alone.",
    ),
    "client": (
        "The server, to clip, to add the noise, and to keep updates and cohorts to itself.",
        "Each client's own program, to train on nothing but its own records.",
    ),
}

_COUNTS = "The label histogram in this report, and the sizes of the data sets: read directly from the data."

RANDOM_SOURCE: dict[Literal["seeded", "secure"], str] = {
    "seeded": "a seeded fast generator, for simulation only: whoever knows the seed can remove the noise",
    "secure": "an AES-256-CTR key stream with a key from the operating system, never stored",
}

_ACCESSES: dict[Mode, tuple[str, ...]] = {
    "record": (
        "The keyed digest of each data set, which tells only whether the same client used the same records before.",
    ),
    "client": (
        "Which clients there are: their keys and ledgers are in this report.",
        "When the run began and ended: with secret cohorts, how long it took depends a little on how many trained.",
    ),
}

NOT_COVERED = (
    "The test records: they are held by the server, and the best model is selected on them.",
    "Records that are in several data sets of a client: each data set has its own ledger, and their epsilons add up.",
    "Tuning: the choice of the configuration by earlier runs, beyond what is in the ledgers.",
    "One person's records at several clients, and, where the unit is a record, several records of one person.",
    "How long a client takes, and whether it answers.",
)

COMPOSITION = (
    "For each client over all steps of all runs in the ledger of its data set, this run included; over clients, whose "
    "records are disjoint, the largest epsilon. A round is charged before a record is trained on, and also where a "
    "client was asked and nothing signed says that it did not train."
)
