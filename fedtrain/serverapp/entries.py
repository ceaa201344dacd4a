"""What came of a round, for the report: who took part, who did not and why, and what the transport was."""

from collections.abc import Mapping, Sequence

from flwr.app import Message

from fedtrain.flower.summing import Outcome
from fedtrain.report import Dropped, SecureAggregation

# An error's whole traceback is in the log; the report holds its end, where the cause is.
_REASON_LENGTH = 2000


def dropped_of(
    cohort: Sequence[int], replies: Sequence[Message], clients: Mapping[int, int], *, deadline: float
) -> tuple[Dropped, ...]:
    """Return the clients of a cohort whose replies cannot be used, in the cohort's order."""
    answered = {clients[reply.metadata.src_node_id]: reply for reply in replies}
    dropped = []
    for client in cohort:
        if client not in answered:
            reason = f"no answer within federation.deadline = {deadline:g} seconds"
            dropped.append(Dropped(client=client, reason=reason))
        elif answered[client].has_error():
            dropped.append(Dropped(client=client, reason=readable(answered[client].error.reason or "")))
    return tuple(dropped)


def dropped_of_sum(cohort: Sequence[int], outcome: Outcome) -> tuple[Dropped, ...]:
    """Return the clients of a cohort whose updates are not in a sum, in the cohort's order."""
    return tuple(
        Dropped(client=client, reason=readable(outcome.dropped[client]))
        for client in cohort
        if client in outcome.dropped
    )


def aggregation_of(outcome: Outcome) -> SecureAggregation:
    """Return how a sum came about."""
    parameters = outcome.parameters
    return SecureAggregation(
        threshold=parameters.threshold,
        neighbours=parameters.neighbours,
        bits=parameters.bits,
        lost_masking=len(outcome.dropped),
        lost_unmasking=len(outcome.silent),
    )


def readable(reason: str) -> str:
    """Return what a client says went wrong, in a form that can do no harm in a report or on a terminal."""
    clean = "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}"
        for letter in reason.expandtabs()
    )
    return clean.strip()[-_REASON_LENGTH:] or "no reason given"
