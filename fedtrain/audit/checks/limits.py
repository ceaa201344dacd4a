"""What no audit of a report can prove. It is listed every time, so that nobody takes it for proven."""

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Check, Finding, not_proven
from fedtrain.privacy.mechanisms import mechanism_of_plan
from fedtrain.report.wording import Transport

LIMITS = (
    (
        "data sets",
        "that a data set is what it is said to be, and that its records are in no other: a ledger knows a keyed digest",
    ),
    ("one ledger each", "that a client has no second ledger under another key, or uses the records without any"),
    (
        "collusion",
        "that server and clients did not agree on a false story: what all holders of keys sign together, verifies",
    ),
    (
        "measurements",
        "every measurement, and that the model files are those that the rounds gave: the server alone signs them",
    ),
    (
        "encryption",
        (
            "that models and updates were encrypted and updates masked, and that a sum is of the updates that entries "
            "commit to: the server alone signs it, and each client's program sees to its own part "
            "where it was told to insist"
        ),
    ),
    ("software", "that the programs which ran were those of the digests in the report"),
    (
        "texts",
        "what the report says of its name, tuning, software, learning rates and durations: the server alone signs them",
    ),
)
"""What is not proven, by name."""


def noise(evidence: Evidence) -> Finding:
    """Whether noise was drawn at all, and from where, only those who drew it know. What clients signed of it is told.

    A reservation for seeded noise, of whatever run, is one that the epsilon of its client counts and that protects it
    from nobody who knows the seed.
    """
    if evidence.report.privacy.noise == "seeded":
        return not_proven(
            "seeded noise protects nobody: this is a simulation, and its numbers are those that a deployment with "
            "secure noise would have"
        )
    seeded = [
        f"client {client} (entry {entry.sequence})"
        for client, ledger in evidence.ledgers.items()
        for entry in ledger.entries
        if entry.noise == "seeded"
    ]
    if seeded:
        more = f" and {len(seeded) - 1} more" if seeded[1:] else ""
        return not_proven(
            f"seeded noise protects nobody, and ledgers have reservations for it, by {seeded[0]}{more}: epsilon counts "
            "them as if nobody could know the seed"
        )
    return not_proven(mechanism_of_plan(evidence.plan).unproven(Transport.of(evidence.records)))


def limits() -> tuple[Check, ...]:
    """Return the fixed list."""
    return tuple(Check(name=name, status="not proven", detail=detail) for name, detail in LIMITS)
