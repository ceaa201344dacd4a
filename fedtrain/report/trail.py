"""The part of the report that proves the rest: what the clients and the server signed.

Its envelopes are kept as they were signed, so that an audit can verify their bytes.
"""

from pydantic import Field, JsonValue

from fedtrain.report.base import Count, Part

EnvelopeJson = dict[str, JsonValue]


class LedgerTrail(Part):
    """The ledger of one client's data set, all runs on it included."""

    client: Count = Field(description="the client")
    entries: tuple[EnvelopeJson, ...] = Field(
        description="its entries, each a DSSE envelope signed by the client, in the order of its hash chain"
    )
    statement: EnvelopeJson | None = Field(
        description="its signed statement that this is all there is; null if it gave none"
    )


class SignedTrail(Part):
    """Signed records of what was asked, done and charged."""

    roster: dict[str, JsonValue] = Field(description="public keys of the server and of each client")
    record: tuple[EnvelopeJson, ...] = Field(
        description="the server's record of the run, each a DSSE envelope, in the order of its hash chain"
    )
    ledgers: tuple[LedgerTrail, ...] = Field(description="the ledger of each client of the roster")
