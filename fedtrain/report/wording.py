"""What a claim rests on, in words: what is promised, who is trusted, and what is not covered.

All of it follows from the plan, the source of noise and the transport, so that an audit can compare it.
"""

from typing import Literal

from fedtrain.privacy import PrivacyPlan
from fedtrain.report.mechanism import Sampling
from fedtrain.report.numbers import upper
from fedtrain.report.transport import Transport

Mode = Literal["record", "client"]


def trusted(plan: PrivacyPlan, transport: Transport) -> tuple[str, ...]:
    """Return whom the guarantee relies on, and for what.

    With secure aggregation the server cannot clip a second time. In client privacy each client's own program then has
    to. The guarantee of a client that does holds whatever the others send: it is about the difference that its own
    contribution makes to the sum, which clipping bounds, and all that the others send may be taken as given. Rounding
    is part of the contribution: the client clips to the clipping norm less the largest error of rounding, so that the
    sensitivity is the clipping norm of the plan. A client that sends numbers beyond the range can make the sum wrap
    around. The server reduces the sum once more with the noise in it (`fedtrain.privacy.client_level.release_sum`), so
    that the result is a function of the noisy sum.
    """
    if plan.spec.unit == "record":
        return (_OWN_NOISE,)
    clips = "" if transport.only_sums else "to clip, "
    keeps = "the sums, and whatever they tell," if transport.only_sums else "updates and cohorts"
    found = [f"The server, {clips}to add the noise, and to keep {keeps} to itself."]
    found.append(_OWN_CLIPPING if transport.summed else _OWN_RECORDS)
    if not transport.sealed:
        found.append("Whoever relays messages between server and clients, to keep what is in them to itself.")
    elif plan.spec.secret_cohorts:
        found.append("Whoever relays messages between server and clients, to keep to itself who is asked.")
    return tuple(found)


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
    if spec.secret_cohorts:
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


def statement(plan: PrivacyPlan, epsilon: float, noise: Literal["seeded", "secure"], transport: Transport) -> str:
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
        seen = (
            "Where it follows the protocol, the server sees the sum of the clients' updates of each round; it is "
            "trusted with that, and with the noise."
            if transport.only_sums
            else "The server sees each client's update and is trusted with it, and with the noise."
        )
        text = (
            "Whoever sees the models of this run can hardly tell whether any one client's records were used at all: "
            f"{odds}. {seen}"
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


def not_covered(plan: PrivacyPlan, transport: Transport) -> tuple[str, ...]:
    """Return what else epsilon does not cover. In record privacy it covers sums as it covers updates."""
    sums = transport.summed and plan.spec.unit == "client"
    return (*_NOT_COVERED, _SUMS) if sums else _NOT_COVERED


_OWN_NOISE = "Each client's own program, to sample, clip and add noise: one that does not harms its own records alone."
_OWN_RECORDS = "Each client's own program, to train on nothing but its own records."
_OWN_CLIPPING = (
    "Each client's own program, to clip its update, and to train on nothing but its own records: one that does not "
    "clip harms its own records alone."
)

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

_NOT_COVERED = (
    "The test records: they are held by the server, and the best model is selected on them.",
    "Records that are in several data sets of a client: each data set has its own ledger, and their epsilons add up.",
    "Tuning: the choice of the configuration by earlier runs, beyond what is in the ledgers.",
    "One person's records at several clients, and, where the unit is a record, several records of one person.",
    "How long a client takes, whether it answers, and what it gives as the reason if it does not.",
)

_SUMS = (
    "What a sum of updates tells the server: secure aggregation hides single updates in it, and is no differential "
    "privacy. Who has all but one update of a sum has that one, and who gets the same work summed in cohorts that "
    "differ in one client has the update of that client."
)

COMPOSITION = (
    "For each client over all steps of all runs in the ledger of its data set, this run included; over clients, whose "
    "records are taken to be disjoint, the largest epsilon. A round is charged before a record is trained on, and also "
    "where a client was asked and nothing signed says that it did not train."
)
