from dataclasses import replace

import numpy as np
import pytest

from fedtrain.errors import TransportError
from fedtrain.secagg import MaskedVector, MaskRequest, Parameters, UnmaskedShares, UnmaskRequest
from fedtrain.secagg.messages import binding_of, bundle_bytes, commitment, order_seed

ROUND = {
    "run": "run",
    "session": "session",
    "number": 1,
    "parameters": Parameters.plan(members=3, length=4, bits=16, bound=1.0),
    "work": "00" * 32,
    "announcements": ["a", "b", "c"],
}
OTHERS = [
    {"run": "sessio"},
    {"session": "other"},
    {"number": 2},
    {"work": "00" * 31 + "01"},
    {"announcements": ["a", "b"]},
    {"announcements": ["a", "c", "b"]},
    {"announcements": ["ab", "c"]},
]
OTHER_PARAMETERS = [
    {"length": 5},
    {"bits": 15},
    {"bound": 2.0},
    {"threshold": 3},
    {"members": 4, "neighbours": 3, "threshold": 3},
]


def test_every_part_of_a_round_is_bound():
    rounds = [ROUND, *(ROUND | other for other in OTHERS)]
    rounds += [ROUND | {"parameters": replace(ROUND["parameters"], **changes)} for changes in OTHER_PARAMETERS]
    assert len({binding_of(**one) for one in rounds}) == len(rounds)


def test_parameters_and_work_do_not_decide_the_order():
    rounds = [{**one} for one in (ROUND, *(ROUND | other for other in OTHERS if "work" not in other))]
    for one in rounds:
        del one["parameters"], one["work"]
    seeds = {order_seed(**one) for one in rounds}
    assert len(seeds) == len(rounds)
    assert {len(seed) for seed in seeds} == {32}


def test_a_commitment_is_for_one_secret_of_one_pair_in_one_round():
    subjects = [
        ("00" * 32, 1, 2, b"secret"),
        ("01" * 32, 1, 2, b"secret"),
        ("00" * 32, 2, 1, b"secret"),
        ("00" * 32, 1, 1, b"secret"),
        ("00" * 32, 11, 2, b"secret"),
        ("00" * 32, 1, 12, b"secret"),
        ("00" * 32, 1, 2, b"secreT"),
        ("00" * 32, 1, 2, b"\nsecret"),
    ]
    assert len({commitment(*subject) for subject in subjects}) == len(subjects)


PARAMETERS = Parameters.plan(members=3, length=2, bits=16, bound=0.5)
WORDS = np.arange(6, dtype=np.uint8)
MESSAGES = {
    "request": MaskRequest(round=3, parameters=PARAMETERS, work="0b" * 32, announcements=(b"one", b"two", b"three")),
    "masked": MaskedVector(words=WORDS, bundles=(b"1", b"2"), commitments=bytes(64)),
    "unmask": UnmaskRequest(round=3, binding="0a" * 32, survivors=(0, 4), dropped=(2,), bundles=(b"1", b"2")),
    "shares": UnmaskedShares(own=bytes(64), pairs=bytes(32), unreadable=(4,)),
}


def read(message, fields):
    return type(message).from_fields(fields, *([WORDS] if isinstance(message, MaskedVector) else []))


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_is_read_back(message):
    again = read(message, message.to_fields())
    assert again.to_fields() == message.to_fields()
    if isinstance(message, MaskedVector):
        assert again.words is WORDS
    else:
        assert again == message


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_fields_are_flat_and_plain(message):
    for value in message.to_fields().values():
        kinds = {type(item) for item in value} if isinstance(value, list) else {type(value)}
        assert len(kinds) == 1
        assert kinds <= {int, float, str, bytes}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_every_field_is_there_and_no_other(message):
    with pytest.raises(TransportError, match="unknown field 'more'"):
        read(message, message.to_fields() | {"more": 1})
    for name in message.to_fields():
        fields = message.to_fields()
        del fields[name]
        with pytest.raises(TransportError, match=f"cannot be used: there is no field '{name}'"):
            read(message, fields)


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("value", [None, True, -1, 2**70, "text", [None], [-1], [[]], {}, object(), [b"x" * 9000]])
def test_a_field_of_another_type_is_refused(message, value):
    for name in message.to_fields():
        with pytest.raises(TransportError, match=f"cannot be used: {name} is not|parameters are refused"):
            read(message, message.to_fields() | {name: value})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("request", {"announcements": [b""] * 100_001}),
        ("request", {"announcements": [bytes(8193)]}),
        ("request", {"work": "0B" * 32}),
        ("request", {"work": "0b" * 31}),
        ("masked", {"bundles": [b""] * 256}),
        ("masked", {"bundles": [bytes(bundle_bytes(254) + 1)]}),
        ("masked", {"commitments": bytes(32 * 255 + 1)}),
        ("unmask", {"survivors": list(range(100_001))}),
        ("unmask", {"dropped": [3, 2]}),
        ("unmask", {"dropped": [2, 2]}),
        ("unmask", {"binding": "0A" * 32}),
        ("unmask", {"binding": "0a" * 31}),
        ("unmask", {"bundles": [b""] * 256}),
        ("shares", {"own": bytes(32 * 255 + 1)}),
        ("shares", {"pairs": bytes(16 * 255 * 254 + 1)}),
        ("shares", {"unreadable": list(range(256))}),
        ("shares", {"unreadable": [4, 4]}),
    ],
)
def test_what_is_larger_than_any_round_is_refused(kind, changes):
    message = MESSAGES[kind]
    with pytest.raises(TransportError, match=r"cannot be used: .* is not"):
        read(message, message.to_fields() | changes)


@pytest.mark.parametrize("words", [None, b"123", [1], np.zeros(2, dtype=np.int8), np.zeros((2, 1), dtype=np.uint8)])
def test_words_are_bytes_in_one_dimension(words):
    with pytest.raises(TransportError, match="its words are not uint8 of one dimension"):
        MaskedVector.from_fields(MESSAGES["masked"].to_fields(), words)


def test_shares_are_not_printed():
    assert repr(replace(MESSAGES["shares"], own=b"secret")) == "UnmaskedShares(unreadable=(4,))"
