"""Which rounds are charged to a client although its ledger does not show them."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from fedtrain.ledger.entry import LedgerEntry
from fedtrain.ledger.record import Asked, Opened, Record
from fedtrain.ledger.statement import Statement


def unanswered(
    client: int,
    records: Sequence[Record],
    entries: Sequence[LedgerEntry],
    statement: Statement | None,
    *,
    noise: Literal["seeded", "secure"],
) -> tuple[int, ...]:
    """Return the rounds in which a client was asked and may have trained, without a reservation that is known.

    A client that does not answer may have released all the same, to a reader of its messages. So a round is charged
    as soon as the client is asked, unless it signed, in this round or later, that its ledger ends where the known one
    ends: then it reserved nothing, and did not train.

    With seeded noise the same request again gives the same update, and counts once. With secure noise each request
    needs a reservation of its own.

    Args:
        client: the number of the client.
        records: the run's record from its beginning; several runs are not allowed.
        entries: the client's ledger as far as it is known.
        statement: the client's newest statement, if there is one. The caller has verified it, and that its ``head`` is
            the digest of the last line of the ledger where ``sequence`` is the number of entries.
        noise: where the clients' noise comes from.

    Returns:
        Rounds in ascending order; one that counts twice is there twice.
    """
    runs = [record.run for record in records if isinstance(record, Opened)]
    if len(runs) != 1:
        raise ValueError(f"a record is of one run, and this has {len(runs)} openings")
    run = runs[0]
    stated = -1
    if statement is not None and statement.run == run and statement.sequence == len(entries):
        stated = statement.round
    reserved = Counter(
        (entry.round, entry.model) for entry in entries if entry.run == run and entry.status == "reserved"
    )
    asked = [
        (record.round, record.model) for record in records if isinstance(record, Asked) and client in record.cohort
    ]
    if noise == "seeded":
        asked = list(dict.fromkeys(asked))
    charged = []
    for request in asked:
        if reserved[request]:
            # With secure noise it is used up.
            reserved[request] -= 1
        elif request[0] > stated:
            charged.append(request[0])
    return tuple(sorted(charged))
