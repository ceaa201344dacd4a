import math
import struct

import pytest

from fedtrain.errors import TransportError
from fedtrain.messaging.content import Row, from_text, to_text


def round_trip(value, kind="config"):
    row = []
    text = to_text(value, kind, row)
    rest = Row(memoryview(b"".join(row)))
    again = from_text(text, kind, rest)
    assert rest.taken == len(b"".join(row))
    return again


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        0,
        1,
        -1,
        2**53 + 1,
        -(2**63),
        2**64 - 1,
        0.1,
        -0.0,
        5e-324,
        math.inf,
        -math.inf,
        "",
        "b1",
        'größe "1"\n\0',
        b"",
        b"\0\xff",
        [],
        [True, False],
        [1, -(2**63)],
        [1.0, math.inf],
        ["", "x"],
        [b"", b"1", b"23"],
    ],
)
def test_a_value_is_read_back_exactly(value):
    again = round_trip(value)
    assert repr(again) == repr(value)
    assert type(again) is type(value)


@pytest.mark.parametrize("bits", ["7ff8000000000000", "fff8000000000000", "7ff8000000000123"])
def test_not_a_number_keeps_its_bits(bits):
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert struct.pack(">d", round_trip(value)).hex() == bits
    assert struct.pack(">d", round_trip([value])[0]).hex() == bits


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (2**64, "more than 64 bits"),
        (-(2**63) - 1, "more than 64 bits"),
        ([2**64], "more than 64 bits"),
        (None, "type NoneType"),
        ((1, 2), "type tuple"),
        ({}, "type dict"),
        (1j, "type complex"),
        (bytearray(b"1"), "type bytearray"),
        ([[1]], "type list"),
        ([1, 1.0], "several types"),
        ([True, 1], "several types"),
        (["1", b"1"], "several types"),
    ],
)
def test_other_values_are_refused(value, why):
    with pytest.raises(TransportError, match=why):
        to_text(value, "config", [])


@pytest.mark.parametrize("value", ["text", b"bytes", True, ["text"], [b"bytes"], [True]])
def test_metrics_are_numbers(value):
    text = to_text(value, "config", row := [])
    with pytest.raises(TransportError, match="a metric is neither a number nor a list of numbers"):
        to_text(value, "metrics", [])
    with pytest.raises(TransportError, match="a metric is neither a number nor a list of numbers"):
        from_text(text, "metrics", Row(memoryview(b"".join(row))))
    for number in (1, 1.5, [], [1], [1.5]):
        assert round_trip(number, "metrics") == number


BIG, NINES = "i18446744073709551616", "x99999999999999999999"
FORMS = ["i01", "i+1", "i-0", "i 1", "i1_0", "i\u0661", "f3FF0000000000000", "f" + "0 " * 8, "x00", "x-0"]
WRONG = [
    "",
    "q",
    "1",
    "b",
    "b2",
    "btrue",
    "i",
    "ix",
    "i1.0",
    "i" + "1" * 21,
    BIG,
    "f1.0",
    "f" + "x" * 16,
    "f" + "0" * 17,
]


@pytest.mark.parametrize("text", [*FORMS, *WRONG, "x", "x-1", "x1", NINES, "xx"])
def test_other_texts_are_refused(text):
    for value in (text, [text]):
        with pytest.raises(TransportError):
            from_text(value, "config", Row(memoryview(b"")))


@pytest.mark.parametrize("text", [None, 5, True, {}, {"s": 1}, ["sx", 5], [["sx"]], ["sx", None]])
def test_what_is_neither_a_text_nor_a_list_of_texts_is_refused(text):
    with pytest.raises(TransportError, match="neither a text nor a list of texts"):
        from_text(text, "config", Row(memoryview(b"")))


def test_a_list_of_several_types_is_refused():
    with pytest.raises(TransportError, match="several types"):
        from_text(["i1", "b1"], "config", Row(memoryview(b"")))


def test_a_row_is_taken_from_its_front():
    row = Row(memoryview(b"12345"))
    assert (row.take(2), row.take(0), row.take(3)) == (b"12", b"", b"345")
    with pytest.raises(TransportError, match="more bytes than are there"):
        row.take(1)
    with pytest.raises(TransportError, match="more bytes than are there"):
        row.take(-1)
