"""Formats that outlive a version of the program, byte for byte: published vectors, and ours.

Our files were written once, with a published key. A change that breaks a test here makes ledgers, records and reports
unreadable that are in use.
"""

import json
import struct
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedtrain.crypto import Identity, PublicIdentity, SignedEnvelope, canonical, is_canonical
from fedtrain.crypto.envelope import pre_authentication
from fedtrain.ledger import (
    Asked,
    Closed,
    Completed,
    Drop,
    FirstRecord,
    LedgerEntry,
    SecureSum,
    Statement,
    Update,
    dataset_digest,
    read_chain,
    read_records,
    read_statement,
)
from fedtrain.ledger.chain import Chain
from fedtrain.ledger.entry import PAYLOAD_TYPE as ENTRY
from fedtrain.ledger.record import PAYLOAD_TYPE as RECORD
from fedtrain.ledger.record import read_own_records
from fedtrain.ledger.statement import PAYLOAD_TYPE as STATEMENT
from fedtrain.privacy import SampledGaussian
from fedtrain.trust import Roster

HERE = Path(__file__).parent
RFC8785 = json.loads((HERE / "rfc8785.json").read_bytes())
RFC8032 = json.loads((HERE / "rfc8032.json").read_bytes())
IDENTITY = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(RFC8032[0]["secret"])))
TIME = "2026-01-02T03:04:05Z"


def digest(text):
    return sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(("bits", "text"), RFC8785["numbers"].items())
def test_numbers_are_written_as_in_rfc_8785_appendix_b(bits, text):
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(number).decode() == text
    assert is_canonical(text.encode())


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_numbers_that_rfc_8785_appendix_b_excludes_are_refused(bits):
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    with pytest.raises(ValueError, match="not representable"):
        canonical(number)


def test_an_object_is_written_as_in_rfc_8785_section_3_2_4():
    vector = RFC8785["objects"][0]
    data = canonical(json.loads(vector["input"]))
    assert data.hex() == vector["utf8"]
    assert is_canonical(data)


def test_members_are_sorted_as_in_rfc_8785_section_3_2_3():
    vector = RFC8785["objects"][1]
    data = canonical(json.loads(vector["input"]))
    assert list(json.loads(data).values()) == vector["values"]
    assert is_canonical(data)


@pytest.mark.parametrize("vector", RFC8032)
def test_signatures_are_those_of_rfc_8032_section_7_1(vector):
    identity = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["secret"])))
    message, signature = bytes.fromhex(vector["message"]), bytes.fromhex(vector["signature"])
    assert identity.public == PublicIdentity(key=bytes.fromhex(vector["public"]))
    assert identity.sign(message) == signature
    assert identity.public.signed(message, signature)


def test_what_is_signed_is_that_of_the_dsse_specification():
    signed = pre_authentication("http://example.com/HelloWorld", b"hello world")
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def envelopes(payload_type, payloads):
    return [SignedEnvelope.sign(payload_type, payload.encode(), IDENTITY) for payload in payloads]


def linked(payload_type, *payloads):
    """Sign payloads as one chain."""
    signed, previous = [], "0" * 64
    for sequence, payload in enumerate(payloads):
        link = {"sequence": sequence, "previous": previous, "time": TIME}
        signed += envelopes(payload_type, [payload.model_copy(update=link)])
        previous = signed[-1].digest
    return signed


def ledger():
    first = LedgerEntry(
        sequence=0,
        previous="0" * 64,
        dataset=digest("dataset"),
        run="0123456789abcdef",
        round=1,
        plan=digest("plan"),
        model=digest("model"),
        update=None,
        event=SampledGaussian(sampling_rate=1e-05, noise_multiplier=1.25, steps=100),
        unit="record",
        noise="seeded",
        status="reserved",
        time=TIME,
    )
    settled = first.model_copy(update={"status": "settled", "update": digest("update")})
    whole = first.model_copy(
        update={
            "round": 0,
            "event": SampledGaussian(sampling_rate=1.0, noise_multiplier=1000.0, steps=1),
            "unit": "client",
            "noise": "secure",
        }
    )
    return linked(ENTRY, first, settled, whole)


def statement():
    entries = ledger()
    return envelopes(
        STATEMENT,
        [
            Statement(
                run="0123456789abcdef",
                round=2,
                dataset=digest("dataset"),
                sequence=len(entries),
                head=entries[-1].digest,
                epsilon=8.0,
                delta=1e-05,
                refusal='beyond the budget of "größe" 8',
                time=TIME,
            )
        ],
    )


def record():
    head = ledger()[1].digest
    return linked(
        RECORD,
        FirstRecord(
            run="0123456789abcdef",
            mode="record",
            config=digest("config"),
            plan={"kind": "poisson-sampled-gaussian", "noise_multiplier": 1.25, "spec": {"delta": 1e-05}},
            noise="secure",
            roster=roster().digest,
            clients=2,
            rounds=1,
            fedtrain="0.1.0",
        ),
        Asked(round=1, cohort=(0, 1), model=digest("model"), sealed=True, secagg=True),
        Completed(
            round=1,
            model=digest("model"),
            updates=(Update(client=0, update=digest("update"), sequence=2, head=head),),
            dropped=(Drop(client=1, reason="no reply in 600 s"),),
            sealed=True,
            secagg=SecureSum(threshold=2, neighbours=2, bits=16, silent=(0,)),
            aggregate=digest("aggregate"),
            clip_norm=1.0,
        ),
        Closed(status="completed", rounds=1, report=digest("report")),
    )


def roster():
    keys = [PublicIdentity(key=bytes.fromhex(vector["public"])) for vector in RFC8032]
    return Roster(server=keys[0], clients={0: keys[1], 1: keys[2]})


FILES = {"ledger.jsonl": ledger, "statement.jsonl": statement, "record.jsonl": record}


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_is_what_was_written(name):
    made = FILES[name]()
    data = (HERE / name).read_bytes()
    assert b"".join(envelope.line() for envelope in made) == data
    assert [SignedEnvelope.from_line(line) for line in data.splitlines(keepends=True)] == made


def read(name):
    return [SignedEnvelope.from_line(line) for line in (HERE / name).read_bytes().splitlines(keepends=True)]


def test_a_ledger_is_read():
    entries = read_chain(read("ledger.jsonl"), IDENTITY.public)
    own = Chain()
    own.add_own(read("ledger.jsonl"), IDENTITY)
    assert entries == tuple(own.entries)
    assert [(entry.status, entry.round, entry.event.steps, entry.unit, entry.noise) for entry in entries] == [
        ("reserved", 1, 100, "record", "seeded"),
        ("settled", 1, 100, "record", "seeded"),
        ("reserved", 0, 1, "client", "secure"),
    ]
    assert entries[0].event.sampling_rate == 1e-05


def test_a_statement_is_read():
    (envelope,) = read("statement.jsonl")
    statement = read_statement(envelope, IDENTITY.public)
    assert statement.head == read("ledger.jsonl")[-1].digest
    assert (statement.epsilon, statement.delta) == (8.0, 1e-05)


def test_a_record_is_read():
    records = read_records(read("record.jsonl"), IDENTITY.public)
    assert records == read_own_records(read("record.jsonl"), IDENTITY)
    assert [record.kind for record in records] == ["opened", "asked", "completed", "closed"]
    assert [(record.sealed, bool(record.secagg)) for record in records[1:3]] == [(True, True)] * 2


def test_a_roster_is_read():
    assert Roster.read(HERE / "roster.json") == roster()
    assert roster().digest == "f5bc9d6f321192616e2fd8ae0c310030c9b135d89617b9edf1a33d2300aefdd1"


def test_a_data_set_keeps_its_id():
    import numpy as np

    features = np.array([[0.5, -1.0], [2.0, 0.25]], dtype=np.float32)
    assert (
        dataset_digest(features, np.array([1, 0]), bytes(range(32)))
        == "2c737a072e0a64835640fcac44d4eafcbbef902e8554c90a201b7bd703819145"
    )
    assert (
        dataset_digest(features[::-1], np.array([0, 1]), bytes(range(32)))
        == "2c737a072e0a64835640fcac44d4eafcbbef902e8554c90a201b7bd703819145"
    )
