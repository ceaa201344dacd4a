"""What a claim rests on, in words: who is protected against whom, who is trusted, and what is not covered."""

from typing import Literal

from fedtrain.report import Adversary

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

ACCESSES_NOT_COVERED: dict[Mode, tuple[str, ...]] = {
    "record": (
        "The label histogram in this report, and the sizes of the data sets: read directly from the data.",
        "The keyed digest of each data set, which tells only whether the same client used the same records before.",
    ),
    "client": (
        "The label histogram in this report, and the sizes of the data sets: read directly from the data.",
        "Which clients there are: their keys and ledgers are in this report.",
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
