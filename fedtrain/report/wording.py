"""What a report says in words about a guarantee: against whom, relying on whom, and not covering what."""

from typing import Literal

from fedtrain.report.mechanism import Adversary, Sampling
from fedtrain.report.numbers import exact, upper
from fedtrain.report.privacy import Noise

Scheme = Literal["record", "client, Poisson cohorts", "client, capped participation"]
"""The three mechanisms that a report may claim."""

_SEEDED_BOUND = "nothing: the noise is seeded, so whoever knows the seed can remove it; with secure noise, "


def adversaries(scheme: Scheme, noise: Noise) -> tuple[Adversary, ...]:
    """Return who may want to learn about what is protected, and what stops each of them."""
    record = scheme == "record"
    secret = scheme == "client, Poisson cohorts"
    epsilon = "epsilon: the noise is added by each client" if record else "epsilon: the server adds the noise first"
    rows = [
        ("whoever gets the model", "the final and the best model", True, epsilon),
        ("another client", "the global model of every round that it takes part in", True, epsilon),
        (
            "the server",
            "each client's update" + ("" if record else ", before the noise is added to the sum"),
            record,
            epsilon + ", whatever model the server sends" if record else "trust: it could keep what it sees",
        ),
        (
            "the reader of this report",
            "configuration, measurements, charges" + ("" if secret else ", who took part in which round"),
            True,
            "epsilon for the models; the measurements are of test records, and charges do not depend on data",
        ),
        ("a client that deviates from the protocol", "its own records", False, "nothing: it harms its own records"),
    ]
    return tuple(
        Adversary(
            who=who,
            sees=sees,
            bounded=bounded and noise == "secure",
            by=_SEEDED_BOUND + by if bounded and noise == "seeded" else by,
        )
        for who, sees, bounded, by in rows
    )


def trusted(scheme: Scheme) -> tuple[str, ...]:
    """Return whom the guarantee relies on, and for what."""
    client = "Each client with its own records: that its program is the one named here, clips, and draws fresh noise."
    if scheme == "record":
        return (client, "Nobody else: the server and the other clients may do what they like.")
    noise = "The server with every update: that it adds fresh noise to the sum before anyone else sees it."
    cohorts = (
        "The server and the network with the cohorts: who takes part in which round must stay secret.",
        "Each client that takes part: that it does not tell anyone when it did.",
    )
    return (noise, *(cohorts if scheme == "client, Poisson cohorts" else ()))


def sampling(scheme: Scheme, rate: float) -> Sampling:
    """Return how the units of a step are chosen, and why the accounting may rely on it."""
    if scheme == "record":
        reason = "Each client draws each record of each batch independently, and tells nobody which it drew."
        return Sampling(scheme="Poisson, records", rate=rate, amplification=rate < 1, reason=reason)
    if scheme == "client, Poisson cohorts":
        reason = "The server draws each client of each round independently, and no record or report says whom it drew."
        return Sampling(scheme="Poisson, clients", rate=rate, amplification=rate < 1, reason=reason)
    reason = (
        "Cohorts are known, so the draw gives no amplification; each client takes part in a limited number of rounds."
    )
    return Sampling(scheme="none", rate=1.0, amplification=False, reason=reason)


def composition(scheme: Scheme) -> str:
    """Return the scope of epsilon."""
    charged = {
        "record": "A round is charged when the client reserves it, before it touches a record, and also when it was "
        "asked and nothing that it signed says that it did not train.",
        "client, capped participation": "A round is charged when the client reserves it, before it trains, and also "
        "when it was asked and nothing that it signed says that it did not train.",
        "client, Poisson cohorts": "All planned rounds are charged to each client when it joins, whether it is drawn "
        "or not and however far the run comes.",
    }
    across = (
        "over clients, whose records are disjoint, the largest epsilon counts"
        if scheme == "record"
        else "over clients the largest epsilon counts, each being a unit of its own"
    )
    return (
        "For each client over every step of every round of every run in the ledger of its data set, this run and "
        f"earlier ones; {across}. {charged[scheme]}"
    )


def statement(scheme: Scheme, noise: Noise, epsilon: float, delta: float) -> str:
    """Return the guarantee in plain language."""
    who, what = (
        ("sees every model of this run, the server included", "any one record was among a client's training records")
        if scheme == "record"
        else ("sees every model that this run released", "any one client took part with its data")
    )
    promise = (
        f"Whoever {who}, can hardly tell whether {what}: the odds of any conclusion change by a factor of at most "
        f"exp({upper(epsilon)}), except with probability {exact(delta)}."
    )
    if noise == "seeded":
        promise += (
            " This holds for noise that nobody can predict. This run is a simulation with seeded noise: it protects "
            "nobody, and shows what a deployment would promise."
        )
    return promise


def random_source(noise: Noise) -> str:
    """Return where the noise and the draws came from."""
    if noise == "seeded":
        return "seeded fast generator, for simulation only: whoever knows the seed can remove the noise"
    return "AES-256 in counter mode, with a key from the operating system's generator for each process"


def accesses_not_covered(*, histogram: bool) -> tuple[str, ...]:
    """Return the accesses to the data that epsilon does not account for."""
    shown = ("The label histogram and the numbers of records in this report: a simulation reads them from the data.",)
    return (
        *(shown if histogram else ()),
        "The test records: the server holds them, measures on them, and selects the best model on them.",
        "Whatever was done with the records outside of this program: cleaning, labelling, choosing the model by hand.",
    )


def not_covered(scheme: Scheme) -> tuple[str, ...]:
    """Return what else the guarantee does not cover."""
    unit = (
        "Several records of one person: the unit is one record, so that their epsilons add up.",
        "What many clients hold copies of: a record that two clients hold is protected by the sum of their epsilons.",
    )
    rest = (
        "What is true of many: a model may reveal about a person what holds for people like them, used or not.",
        "Other uses of the same data that no ledger saw.",
        "Tuning: the choice of the configuration by earlier runs, unless those are in the ledgers.",
        "Timing, and attacks on the last bits of floating-point noise (Mironov 2012).",
    )
    taking_part = (
        "That a client is a member of the federation: who the members are is public.",
        "The clients' updates from the server, which sees them before the noise.",
    )
    return (*(unit if scheme == "record" else taking_part), *rest)
