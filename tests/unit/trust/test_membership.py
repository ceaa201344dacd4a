import json

import pytest

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError
from fedtrain.trust import Membership, Roster
from fedtrain.trust.membership import PAYLOAD_TYPE

OPERATOR, SERVER, NORTH, SOUTH = (Identity.generate() for _ in range(4))


def made(**changes):
    return Membership(
        **{
            "federation": "ab" * 16,
            "version": 2,
            "names": {0: "north", 3: "south"},
            "supernodes": {0: "key of north", 3: "key of south"},
            "roster": Roster(server=SERVER.public, clients={0: NORTH.public, 3: SOUTH.public}),
            **changes,
        }
    )


def written(change):
    """Return the membership as the operator signed it, with what somebody made of its payload."""
    value = json.loads(made().sign(OPERATOR).payload)
    changed = change(value)
    return SignedEnvelope.sign(PAYLOAD_TYPE, canonical(value if changed is None else changed), OPERATOR)


def test_what_the_operator_signed_is_read():
    assert Membership.verify(made().sign(OPERATOR), OPERATOR.public) == made()
    assert Membership.verify(written(lambda value: value), OPERATOR.public) == made()


def test_a_federation_without_clients_is_one():
    empty = made(names={}, supernodes={}, roster=Roster(server=SERVER.public, clients={}))
    assert Membership.verify(empty.sign(OPERATOR), OPERATOR.public) == empty


def test_nobody_else_signs():
    for signer in (SERVER, NORTH):
        with pytest.raises(ForgeryError, match="signed with key"):
            Membership.verify(made().sign(signer), OPERATOR.public)


def test_what_was_signed_as_something_else_is_refused():
    other = SignedEnvelope.sign("application/json", made().sign(OPERATOR).payload, OPERATOR)
    with pytest.raises(ForgeryError, match="of type"):
        Membership.verify(other, OPERATOR.public)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(version=0),
        lambda value: value.update(version=True),
        lambda value: value.update(version=2.5),
        lambda value: value.update(version="2"),
        lambda value: value.update(more=1),
        lambda value: value.pop("federation"),
        lambda value: value.update(federation=1),
        lambda value: value["clients"].pop("3"),
        lambda value: value["clients"].update({"4": {"name": "west", "supernode": "key of west"}}),
        lambda value: value["clients"].update({"3": {"name": "north", "supernode": "key of south"}}),
        lambda value: value["clients"].update({"3": {"name": "south", "supernode": "key of north"}}),
        lambda value: value["clients"].update({"3": {"name": "../up", "supernode": "key of south"}}),
        lambda value: value["clients"].update({"3": {"name": "south"}}),
        lambda value: value["clients"].update({"3": {"name": "south", "supernode": "key of south", "more": 1}}),
        lambda value: value["clients"].update({"03": value["clients"].pop("3")}),
        lambda value: value["clients"].update({"x": value["clients"].pop("3")}),
        lambda value: value["roster"]["clients"].update({"3": NORTH.public.encode()}),
        lambda value: value["roster"].update(schema="fedtrain.roster/2"),
        lambda value: value.update(roster=[]),
        lambda value: [value],
    ],
)
def test_a_payload_that_is_no_membership_is_refused(change):
    with pytest.raises(ForgeryError):
        Membership.verify(written(change), OPERATOR.public)


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[" * 100_000, b'{"version": NaN}'])
def test_bytes_that_are_no_json_are_refused(payload):
    with pytest.raises(ForgeryError, match=r"cannot be read|is an object"):
        Membership.verify(SignedEnvelope.sign(PAYLOAD_TYPE, payload, OPERATOR), OPERATOR.public)


def test_another_form_of_the_same_is_refused():
    spaced = json.dumps(json.loads(made().sign(OPERATOR).payload)).encode()
    with pytest.raises(ForgeryError, match="canonical form"):
        Membership.verify(SignedEnvelope.sign(PAYLOAD_TYPE, spaced, OPERATOR), OPERATOR.public)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 0}, "count from 1"),
        ({"names": {0: "north"}}, "for each client"),
        ({"supernodes": {0: "a", 4: "b"}}, "for each client"),
        ({"names": {0: "north", 3: "north"}}, "the same name"),
        ({"supernodes": {0: "a", 3: "a"}}, "the same SuperNode key"),
        ({"names": {0: "north", 3: "South"}}, "'South' is not a name"),
    ],
)
def test_what_does_not_belong_together_is_no_membership(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)
