import json
from dataclasses import fields, replace

import pytest

from fedtrain.crypto import canonical
from fedtrain.errors import TransportError
from fedtrain.messaging import Header
from tests.messages import HEADER

TEXTS = ("run", "session", "config", "phase", "sender", "recipient")


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        replace(HEADER, direction="to server", round=0, sequence=2**53 - 1),
        replace(HEADER, **dict.fromkeys(TEXTS, "🔑" * 200)),
        replace(HEADER, run='"\\' * 100),
    ],
)
def test_a_header_is_read_back(header):
    assert Header.decode(header.encode()) == header


def test_every_field_is_part_of_the_bytes():
    others = {"round": 4, "sequence": 13, "direction": "to server"}
    encoded = {replace(HEADER, **{field.name: others.get(field.name, "other")}).encode() for field in fields(Header)}
    assert len(encoded | {HEADER.encode()}) == len(fields(Header)) + 1


def test_it_is_canonical_json():
    assert canonical(json.loads(HEADER.encode())) == HEADER.encode()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["", "x" * 201, "two\nlines", "\x1b[31m", "\ud800", b"bytes", 5, None, ["x"]])
def test_a_text_that_is_no_name_is_refused(name, text):
    with pytest.raises(TransportError, match=f"{name} in a header is no printable text"):
        replace(HEADER, **{name: text})


@pytest.mark.parametrize("name", ["round", "sequence"])
@pytest.mark.parametrize("number", [-1, 2**53, 1.0, True, "1", None])
def test_a_number_that_counts_nothing_is_refused(name, number):
    with pytest.raises(TransportError, match=f"{name} in a header is no whole number"):
        replace(HEADER, **{name: number})


@pytest.mark.parametrize("direction", ["", "to nobody", None, 1, ["to client"]])
def test_another_direction_is_refused(direction):
    with pytest.raises(TransportError, match="direction in a header is none of to client, to server"):
        replace(HEADER, direction=direction)


def damaged():
    data = HEADER.encode()
    good = json.loads(data)
    yield from (b"", b"\xff", b"{", b"null", b"[]", b"{}", b"[" * 8000, data[:-1], data + b"\n", b" " + data)
    yield from (canonical({name: value for name, value in good.items() if name != left_out}) for left_out in good)
    yield canonical(good | {"more": 1})
    yield from (canonical(good | {"schema": schema}) for schema in ("fedtrain.sealed/2", "x" * 1000, None, 1))
    yield json.dumps(good).encode()
    yield json.dumps(good, separators=(",", ":"))[::1].replace("train", "tr\\u0061in").encode()
    yield data.replace(b'"round":3', b'"round":3,"round":3')
    yield data.replace(b'"round":3', b'"round":3.0')
    yield data.replace(b'"round":3', b'"round":' + b"3" * 5000)
    yield data.replace(b'"round":3', b'"round":NaN')
    yield data.replace(b'"train"', b'"\\ud800"')
    yield canonical(good | {"run": "x" * 201})
    yield canonical(good | {"run": "x" * 9000})


@pytest.mark.parametrize("data", list(damaged()), ids=range(len(list(damaged()))))
def test_what_is_no_header_is_refused(data):
    with pytest.raises(TransportError, match="header"):
        Header.decode(data)
