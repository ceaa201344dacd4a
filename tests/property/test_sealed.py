"""A sealed message is opened by its recipient, on its occasion, unchanged, or not at all."""

from dataclasses import fields, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedtrain.crypto import Identity, SealingKey
from fedtrain.errors import TransportError
from fedtrain.messaging import Body, Header, open_sealed, seal
from tests.messages import HEADER

IDENTITIES = [Identity.generate() for _ in range(2)]
KEYS = [SealingKey(bytes([number]) * 32) for number in range(2)]
names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
headers = st.builds(
    Header,
    run=names,
    session=names,
    config=names,
    phase=names,
    round=st.integers(0, 2**53 - 1),
    direction=st.sampled_from(["to client", "to server"]),
    sender=names,
    recipient=names,
    sequence=st.integers(0, 2**53 - 1),
)
parts = st.binary(max_size=100)


def sealed(header, own, content):
    body = Body.encrypt(content)
    return seal(header, body=body, own=own, identity=IDENTITIES[0], recipient=KEYS[0].public), body.ciphertext


def opened(data, ciphertext, header, key=KEYS[0], identity=IDENTITIES[0]):
    return open_sealed(data, ciphertext, header=header, key=key, sender=identity.public)


def changed(data, where, bit):
    place = int(where * len(data))
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


places = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7))


@given(headers, parts, parts)
@settings(deadline=None)
def test_it_is_opened_on_its_occasion(header, own, content):
    assert Header.decode(header.encode()) == header
    assert opened(*sealed(header, own, content), header) == (own, content)


@given(headers, parts, parts, places, st.sampled_from(["header", "sealed", "ciphertext"]))
@settings(max_examples=150, deadline=None)
def test_any_changed_bit_is_refused(header, own, content, place, part):
    parts = {
        "header": header.encode(),
        **dict(zip(("sealed", "ciphertext"), sealed(header, own, content), strict=True)),
    }
    parts[part] = changed(parts[part], *place)
    with pytest.raises(TransportError):
        opened(parts["sealed"], parts["ciphertext"], Header.decode(parts["header"]))


@given(headers, headers, st.sampled_from([field.name for field in fields(Header)]))
@settings(deadline=None)
def test_another_occasion_is_refused(header, other, name):
    expected = replace(header, **{name: getattr(other, name)})
    assume(expected != header)
    message = sealed(header, b"own", b"content")
    with pytest.raises(TransportError, match="sealed for another occasion"):
        opened(*message, expected)


@given(headers, st.sampled_from([(1, 0), (0, 1), (1, 1)]))
@settings(deadline=None)
def test_another_recipient_or_sender_is_refused(header, who):
    message = sealed(header, b"own", b"content")
    with pytest.raises(TransportError, match="is refused"):
        opened(*message, header, KEYS[who[0]], IDENTITIES[who[1]])


@given(headers, st.binary(min_size=1, max_size=50), st.binary(min_size=1, max_size=50))
@settings(deadline=None)
def test_parts_of_two_messages_do_not_go_together(header, one, other):
    first, second = sealed(header, one, other), sealed(header, other, one)
    with pytest.raises(TransportError, match="not the one that was signed"):
        opened(first[0], second[1], header)


@given(st.binary(max_size=3000), parts)
@settings(deadline=None)
def test_arbitrary_bytes_are_refused(data, ciphertext):
    with pytest.raises(TransportError, match="is refused"):
        opened(data, ciphertext, HEADER)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_arbitrary_bytes_are_no_header(data):
    with pytest.raises(TransportError, match="header"):
        Header.decode(data)


@given(headers, places, st.sampled_from(["flip", "cut", "double"]))
@settings(deadline=None)
def test_a_changed_header_is_refused_or_another_header(header, place, how):
    data = header.encode()
    cut = int(place[0] * len(data))
    data = {"flip": changed(data, *place), "cut": data[:cut], "double": data[:cut] + data[cut - 1 :]}[how]
    try:
        again = Header.decode(data)
    except TransportError:
        return
    assert again.encode() == data
