"""Whether rounds that were done again are paid for, where clients reserve the whole run in advance."""

from itertools import pairwise

from fedtrain.audit.evidence import Evidence
from fedtrain.ledger import Asked, Closed, Completed, Record


def repeats(evidence: Evidence) -> list[str]:
    """Say which rounds were released more than once, where cohorts are secret and each round is reserved once.

    A round may be done again if its model was lost before it had a checkpoint: then its record is followed by the same
    question again, or by an end of the run before it. With secure noise, what is followed by anything else was
    released. With seeded noise the same model comes again, and tells nothing new. Elsewhere each repetition has a
    reservation of its own.
    """
    if not evidence.secret:
        return []
    problems: list[str] = []
    models: dict[int, str] = {}
    released: dict[int, Completed] = {}
    secure = evidence.opened.noise == "secure"
    for record, after in pairwise([*evidence.records, None]):
        if isinstance(record, Asked) and models.setdefault(record.round, record.model) != record.model:
            problems.append(f"round {record.round} was asked with two models: the round before was released twice")
        if not isinstance(record, Completed):
            continue
        if secure and _lost(record, after):
            continue
        before = released.setdefault(record.round, record)
        if before is record:
            continue
        if secure:
            problems.append(f"round {record.round} was released twice, and reserved once")
        elif before.aggregate != record.aggregate:
            problems.append(f"round {record.round} was done twice and gave two models, and it was reserved once")
    return problems


def _lost(record: Completed, after: Record | None) -> bool:
    if isinstance(after, Asked):
        return after.round == record.round
    return isinstance(after, Closed) and after.rounds < record.round
