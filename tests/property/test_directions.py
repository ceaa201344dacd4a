"""Signed directions: no byte of them can be changed, and a node never goes back."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.errors import ForgeryError
from fedtrain.machines import Federation, NodeFolder
from fedtrain.machines.following import follow
from fedtrain.provision.certificates import make_ca
from fedtrain.trust import Authority, Directions, Former

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OPERATOR = Identity.generate()
AUTHORITY = Authority(certificate=make_ca("ab" * 16, now=NOW).certificate.decode())
SIGNED = Directions(
    federation="ab" * 16,
    version=3,
    address="fl.example.net:9443",
    former=(Former(address="fl.example.org:9443", until=NOW),),
    authorities=(AUTHORITY,),
).sign(OPERATOR)
LINE = SIGNED.line()


def directions(version, port, federation="ab" * 16):
    return Directions(federation=federation, version=version, address=f"fl:{port}", authorities=(AUTHORITY,))


@settings(max_examples=80)
@given(place=st.integers(0, len(LINE) - 1), byte=st.integers(0, 255))
def test_with_any_byte_changed_they_are_refused(place, byte):
    changed = LINE[:place] + bytes([byte]) + LINE[place + 1 :]
    if changed == LINE:
        return
    with pytest.raises(ForgeryError):
        Directions.verify(SignedEnvelope.from_line(changed), OPERATOR.public)


@settings(max_examples=40)
@given(
    port=st.integers(1, 65535),
    days=st.lists(st.integers(0, 10_000), max_size=3, unique=True),
    version=st.integers(1, 2**53 - 1),
)
def test_what_is_signed_is_read(port, days, version):
    made = Directions(
        federation="cd" * 16,
        version=version,
        address=f"new:{port}",
        former=tuple(Former(address=f"old{day}:{port}", until=NOW + timedelta(days=day)) for day in days),
        authorities=(AUTHORITY,),
    )
    assert Directions.verify(SignedEnvelope.from_line(made.sign(OPERATOR).line()), OPERATOR.public) == made


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 2]), st.booleans()), max_size=8))
def test_in_any_order_a_node_has_the_highest_version_that_it_was_shown_first(tmp_path_factory, shown):
    folder = tmp_path_factory.mktemp("node")
    federation = Federation(id="ab" * 16, address="fl:9", operator=OPERATOR.public)
    node = NodeFolder(path=folder, name="north", client=0, federation=federation)
    node.write()
    version, port = 0, 9
    for other, its_port, ours in shown:
        envelope = directions(other, its_port, "ab" * 16 if ours else "cd" * 16).sign(OPERATOR)
        if not ours or other < version or (other == version and its_port != port):
            with pytest.raises(ForgeryError):
                follow(node, envelope)
        else:
            assert (follow(node, envelope) is not None) == (other > version)
            version, port = other, its_port
        found = NodeFolder.open(folder).federation
        assert (found.directions, found.address) == (version, f"fl:{port}")
        assert not version or node.ca.read_text() == AUTHORITY.certificate
