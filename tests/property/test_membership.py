"""Whoever belongs to a federation is read as it was signed, and no other bytes are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.crypto import Identity, PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError
from fedtrain.trust import Membership, Roster

OPERATOR = Identity.generate()
SERVER = Identity.generate().public
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
keys = st.binary(min_size=32, max_size=32).filter(lambda key: key != SERVER.key)


@st.composite
def memberships(draw):
    numbers = draw(st.lists(st.integers(0, 2**53 - 1), unique=True, max_size=6))

    def one_each(values):
        return draw(st.lists(values, unique=True, min_size=len(numbers), max_size=len(numbers)))

    return Membership(
        federation=draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
        version=draw(st.integers(1, 2**53 - 1)),
        names=dict(zip(numbers, one_each(names), strict=True)),
        supernodes=dict(zip(numbers, one_each(st.text(st.characters(codec="utf-8"))), strict=True)),
        roster=Roster(
            server=SERVER,
            clients={number: PublicIdentity(key=key) for number, key in zip(numbers, one_each(keys), strict=True)},
        ),
    )


@given(memberships())
def test_a_membership_is_read_as_it_was_signed(membership):
    line = membership.sign(OPERATOR).line()
    read = Membership.verify(SignedEnvelope.from_line(line), OPERATOR.public)
    assert read == membership
    assert read.sign(OPERATOR).line() == line


@given(memberships(), st.data())
def test_no_byte_of_a_line_can_be_another(membership, data):
    line = bytearray(membership.sign(OPERATOR).line())
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ForgeryError):
        Membership.verify(SignedEnvelope.from_line(bytes(line)), OPERATOR.public)


@given(memberships(), memberships())
def test_two_memberships_are_not_signed_alike(one, other):
    assert (one == other) == (one.sign(OPERATOR) == other.sign(OPERATOR))
