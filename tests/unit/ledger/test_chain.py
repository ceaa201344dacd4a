import json

import pytest

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError
from fedtrain.ledger import Head, LedgerEntry, read_chain
from fedtrain.ledger.chain import Chain
from fedtrain.ledger.entry import PAYLOAD_TYPE
from fedtrain.ledger.statement import PAYLOAD_TYPE as STATEMENT_TYPE

IDENTITY = Identity.generate()
EVENT = {"kind": "poisson-sampled-gaussian", "sampling_rate": 0.01, "noise_multiplier": 1.5, "steps": 10}


def read_own(envelopes):
    """Read a ledger of one's own, from its beginning."""
    chain = Chain()
    chain.add_own(envelopes, IDENTITY)
    return tuple(chain.entries)


def data(**changes):
    return {
        "sequence": 0,
        "previous": "0" * 64,
        "dataset": "d" * 64,
        "run": "run",
        "round": 1,
        "plan": "a" * 64,
        "model": "b" * 64,
        "update": None,
        "event": EVENT,
        "unit": "record",
        "noise": "seeded",
        "status": "reserved",
        "time": "2026-01-02T03:04:05Z",
    } | changes


def sign(payload, identity=IDENTITY, kind=PAYLOAD_TYPE):
    return SignedEnvelope.sign(kind, payload if isinstance(payload, bytes) else canonical(payload), identity)


def chain(*changes):
    """Sign entries, each linked to the one before unless its changes say otherwise."""
    envelopes, previous = [], "0" * 64
    for number, change in enumerate(changes):
        envelopes.append(sign(data(sequence=number, previous=previous, round=number) | change))
        previous = envelopes[-1].digest
    return envelopes


SETTLED = {"status": "settled", "update": "e" * 64}


def refused(envelopes, why):
    """Both readers refuse a chain for the same reason."""
    with pytest.raises(ForgeryError, match=why):
        read_chain(envelopes, IDENTITY.public)
    with pytest.raises(ForgeryError, match=why):
        read_own(envelopes)


def test_a_chain_is_read():
    envelopes = chain({}, {"round": 0} | SETTLED, {}, {})
    entries = read_chain(envelopes, IDENTITY.public)
    assert entries == read_own(envelopes)
    assert [entry.sequence for entry in entries] == [0, 1, 2, 3]
    assert [entry.encode() for entry in entries] == [envelope.payload for envelope in envelopes]
    assert entries[0].event.as_data() == EVENT
    assert read_chain([], IDENTITY.public) == ()


def test_a_part_of_a_chain_is_read_after_a_head():
    envelopes = chain({}, {}, {"round": 0} | SETTLED, {"round": 1} | SETTLED)
    entries = read_chain(envelopes, IDENTITY.public)
    for cut in range(5):
        head = Head(sequence=cut, digest=envelopes[cut - 1].digest if cut else "0" * 64)
        assert read_chain(envelopes[cut:], IDENTITY.public, after=head) == entries[cut:]
    with pytest.raises(ForgeryError, match="entry 2: it does not follow"):
        read_chain(envelopes[2:], IDENTITY.public, after=Head(sequence=2, digest=envelopes[0].digest))
    with pytest.raises(ForgeryError, match="entry 1: it is in the place of entry 1, and says that it is entry 2"):
        read_chain(envelopes[2:], IDENTITY.public, after=Head(sequence=1, digest=envelopes[1].digest))


def test_lines_left_out_doubled_or_reordered_are_refused():
    a, b, c, d = chain({}, {}, {}, {})
    for wrong, place in (([b, c], 0), ([a, c, d], 1), ([a, b, b, c], 2), ([a, c, b, d], 1), ([a, b, d], 2)):
        refused(wrong, f"entry {place}: it is in the place of entry {place}")


def test_a_fork_is_refused():
    first, second = chain({}, {}), chain({"model": "c" * 64}, {}, {})
    refused([first[0], second[1]], "entry 1: it does not follow the line before it")
    refused([*second[:2], sign(data(sequence=2, previous=first[1].digest))], "entry 2: it does not follow")
    refused([sign(data(previous="1" * 64))], "entry 0: it does not follow")


def test_another_key_type_or_data_set_is_refused():
    refused([sign(data(), Identity.generate())], "entry 0: it is signed with key")
    refused([sign(data(), kind=STATEMENT_TYPE)], "entry 0: the envelope is of type")
    refused(chain({}, {"dataset": "f" * 64}), "entry 1: it is about data set ffffffffffffffff, and not dddddddd")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ([SETTLED], 0),
        ([{}, SETTLED], 1),
        ([{}, {"round": 0} | SETTLED, {"round": 0} | SETTLED], 2),
        ([{}, {"round": 0, "model": "c" * 64} | SETTLED], 1),
        ([{}, {"round": 0, "run": "other"} | SETTLED], 1),
        ([{}, {"round": 0, "plan": "c" * 64} | SETTLED], 1),
        ([{}, {"round": 0, "event": EVENT | {"steps": 1}} | SETTLED], 1),
        ([{}, {"round": 0, "unit": "client"} | SETTLED], 1),
        ([{}, {"round": 0, "noise": "secure"} | SETTLED], 1),
        ([{}, {"round": 0} | SETTLED, {"round": 0} | SETTLED, {"round": 0}], 2),
    ],
)
def test_a_settlement_without_its_reservation_is_refused(changes, place):
    refused(chain(*changes), f"entry {place}: it settles what was not reserved, or was settled before")


def test_two_equal_reservations_are_settled_twice():
    again = {"round": 0}
    assert len(read_chain(chain({}, again, again | SETTLED, again | SETTLED), IDENTITY.public)) == 4


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        json.dumps(data()).encode(),
        canonical(data()) + b"\n",
        b'{"dataset":"x",' + canonical(data())[1:],
        canonical(data()).replace(b"0.01", b"1e-2"),
        canonical(data()).replace(b'"round":1', b'"round":1.0'),
        *({name: value for name, value in data().items() if name != missing} for missing in data()),
        data(more=1),
        data(sequence="0"),
        data(sequence=-1),
        data(sequence=True),
        data(round=0.5),
        data(run=""),
        data(run="x" * 201),
        data(previous="0" * 63),
        data(dataset="D" * 64),
        data(plan="a" * 64 + "\n"),
        data(model=None),
        data(update="e" * 64),
        data(status="settled"),
        data(status="refunded"),
        data(time="2026-01-02 03:04:05"),
        data(time="2026-01-02T03:04:05+01:00"),
        *(
            data(event=EVENT | change)
            for change in (
                {"kind": "gaussian"},
                {"more": 1},
                {"steps": -5},
                {"steps": 0},
                {"steps": 1.5},
                {"steps": "1"},
                {"sampling_rate": 0},
                {"sampling_rate": 1.01},
                {"sampling_rate": -0.1},
                {"noise_multiplier": 0},
                {"noise_multiplier": -1},
                {"noise_multiplier": None},
            )
        ),
        data(unit="user"),
        data(unit=None),
        data(noise="none"),
        data(noise=""),
        data(event=None),
        data(event={}),
    ],
)
def test_what_is_no_entry_is_refused(payload):
    refused([sign(payload)], r"entry 0: the payload is (malformed|not canonical)")


def test_events_that_cannot_be_charged_are_not_made():
    from fedtrain.errors import PrivacySpecError
    from fedtrain.privacy import SampledGaussian

    for rate, noise, steps in ((0.0, 1.0, 1), (1.5, 1.0, 1), (0.1, 0.0, 1), (0.1, float("inf"), 1), (0.1, 1.0, -1)):
        event = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)
        with pytest.raises(PrivacySpecError, match="cannot be charged"):
            LedgerEntry(**data() | {"event": event})
