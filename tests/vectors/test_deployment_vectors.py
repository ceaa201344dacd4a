"""What machines of a federation hand to one another as files, byte for byte as it was written once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import ForgeryError
from fedtrain.machines import Federation
from fedtrain.machines.federation import verified_directions
from fedtrain.machines.request import Request
from fedtrain.trust import Authority, Directions, Former, Membership
from tests.vectors.test_vectors import IDENTITY, roster

HERE = Path(__file__).parent / "deployment"
DIRECTIONS = Path(__file__).parent / "directions"
FEDERATION = Federation(id="0123456789abcdef" * 2, address="fl.example.org:9443", operator=IDENTITY.public)


def supernode(secret):
    public = ec.derive_private_key(secret, ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def membership():
    return Membership(
        federation=FEDERATION.id,
        version=3,
        names={0: "north", 1: "south-2"},
        supernodes={0: supernode(1), 1: supernode(2)},
        roster=roster(),
    )


def request():
    return Request(federation=FEDERATION.id, name="north", client=0, identity=IDENTITY.public, supernode=supernode(1))


def test_a_federation_is_written_and_read(tmp_path):
    FEDERATION.write(tmp_path)
    assert (tmp_path / "federation.json").read_bytes() == (HERE / "federation.json").read_bytes()
    assert Federation.read(HERE) == FEDERATION


def test_a_membership_is_written_and_read():
    data = (HERE / "membership.json").read_bytes()
    assert membership().sign(IDENTITY).line() == data
    assert Membership.verify(SignedEnvelope.from_line(data), IDENTITY.public) == membership()


def directions():
    return Directions(
        federation=FEDERATION.id,
        version=2,
        address="[2001:db8::1]:9444",
        former=(Former(address="fl.example.org:9443", until=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),),
        authorities=(
            Authority(certificate=(DIRECTIONS / "ca.pem").read_text()),
            Authority(
                certificate=(DIRECTIONS / "ca-former.pem").read_text(),
                retires=datetime(2026, 4, 1, 0, 0, 0, tzinfo=UTC),
            ),
        ),
    )


def test_directions_are_written_and_read():
    data = (DIRECTIONS / "directions.json").read_bytes()
    assert directions().sign(IDENTITY).line() == data
    assert verified_directions(SignedEnvelope.from_line(data), FEDERATION) == directions()
    assert (
        directions().certificates == (DIRECTIONS / "ca.pem").read_bytes() + (DIRECTIONS / "ca-former.pem").read_bytes()
    )


def test_a_request_is_read():
    # Its inner signature (ECDSA) is another each time, so that writing is not compared.
    data = (HERE / "request.json").read_bytes()
    assert Request.read(data) == request()
    assert request().fingerprint == (HERE / "fingerprint.txt").read_text().strip()


def test_a_request_with_one_letter_more_is_refused():
    data = (HERE / "request.json").read_bytes()
    with pytest.raises(ForgeryError):
        Request.read(data.replace(b"\n", b" \n"))
