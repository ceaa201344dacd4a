from dataclasses import replace

import pytest

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError
from fedtrain.ledger import Statement, read_statement
from fedtrain.ledger.entry import PAYLOAD_TYPE as ENTRY_TYPE
from fedtrain.ledger.statement import PAYLOAD_TYPE

IDENTITY = Identity.generate()
STATEMENT = Statement(
    run="run",
    round=3,
    dataset="d" * 64,
    sequence=7,
    head="e" * 64,
    epsilon=8.0,
    delta=1e-5,
    refusal="beyond the budget",
    time="2026-01-02T03:04:05Z",
)


def sign(payload, kind=PAYLOAD_TYPE):
    return SignedEnvelope.sign(kind, payload, IDENTITY)


def test_a_statement_is_read_back():
    assert read_statement(sign(STATEMENT.encode()), IDENTITY.public) == STATEMENT


def test_what_the_client_did_not_sign_is_refused():
    signed = sign(STATEMENT.encode())
    for wrong in (
        replace(signed, payload=signed.payload.replace(b"beyond", b"within")),
        sign(STATEMENT.encode(), ENTRY_TYPE),
        sign(STATEMENT.encode() + b" "),
        sign(canonical(STATEMENT.model_dump() | {"sequence": -1})),
        sign(canonical(STATEMENT.model_dump() | {"more": 1})),
        *(sign(canonical(STATEMENT.model_dump(exclude={name}))) for name in ("refusal", "epsilon", "delta")),
        *(
            sign(canonical(STATEMENT.model_dump() | change))
            for change in ({"epsilon": 0}, {"epsilon": "8"}, {"epsilon": None}, {"delta": 0}, {"delta": 1})
        ),
    ):
        with pytest.raises(ForgeryError):
            read_statement(wrong, IDENTITY.public)
    with pytest.raises(ForgeryError, match="it is signed with key"):
        read_statement(signed, Identity.generate().public)
