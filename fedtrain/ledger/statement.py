"""A client's signed statement of its ledger: its length, its budget, and the reason of a refusal if there is one."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from fedtrain.crypto import PublicIdentity, SignedEnvelope
from fedtrain.ledger.payload import Digest, Name, Number, Payload, Time, decode

PAYLOAD_TYPE = "application/vnd.fedtrain.ledger-statement.v1+json"


class Statement(Payload):
    """What a client says of its ledger at a round of a run.

    Attributes:
        run: id of the run.
        round: the round in which it was asked.
        dataset: keyed digest of the data set's content.
        sequence: number of entries of the ledger.
        head: digest of the last line; 64 zeros if there is none.
        epsilon: the budget that the client enforces for this data set, over all runs.
        delta: the delta of that budget.
        refusal: why the client does not train; ``None`` if it does not refuse.
        time: when it was signed, in UTC, by the client's clock.
    """

    run: Name
    round: Number
    dataset: Digest
    sequence: Number
    head: Digest
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    refusal: str | None
    time: Time


_STATEMENT = TypeAdapter(Statement)


def read_statement(envelope: SignedEnvelope, public: PublicIdentity) -> Statement:
    """Return the statement that a client signed.

    Raises:
        ForgeryError: another key, another type, a signature that does not hold, or a malformed statement.
    """
    return decode(_STATEMENT, envelope.verify(public, PAYLOAD_TYPE))
