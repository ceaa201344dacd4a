from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedtrain.crypto import Identity
from fedtrain.errors import KeyFileError
from fedtrain.health.keys import (
    NOTICE,
    admitted,
    authorities_hold,
    closed,
    covers,
    identity,
    issued,
    membership,
    opened_by,
    read_certificate,
    requested,
    server_admitted,
    supernode_key,
    validity,
)
from fedtrain.machines import write_membership
from fedtrain.machines.request import read_request
from tests.unit.health import pki
from tests.unit.health.folders import line, secret, ssh_key
from tests.unit.health.pki import DAY


@pytest.mark.parametrize(
    ("mode", "status"), [(0o700, "ok"), (0o750, "warns"), (0o711, "warns"), (0o770, "fails"), (0o702, "fails")]
)
def test_who_can_use_the_folder(node, mode, status):
    node.path.chmod(mode)
    check = closed(node.path)
    assert check.status == status
    assert status == "ok" or f"chmod 700 {node.path}" in check.detail


def test_the_identity(node, members):
    check, public = identity(node.identity, made_by="fedtrain client init")
    assert (check.status, public) == ("ok", members.identities[0].public)
    node.identity.chmod(0o640)
    check, public = identity(node.identity, made_by="fedtrain client init")
    assert (check.status, public) == ("fails", None)
    assert "can be used by others" in check.detail
    node.identity.unlink()
    assert "(fedtrain client init makes it)" in identity(node.identity, made_by="fedtrain client init")[0].detail


def test_the_key_of_the_supernode(node, members):
    check, public = supernode_key(node)
    assert (check.status, public) == ("ok", line(members.supernodes[0]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no key", "holds no private key"),
        (ssh_key(ed25519.Ed25519PrivateKey.generate()), "another kind of key"),
        (ssh_key(ec.generate_private_key(ec.SECP256R1())), "another kind of key"),
        (None, "there is no key file"),
    ],
)
def test_a_key_that_no_supernode_takes(node, content, said):
    node.supernode_key.unlink()
    if content is not None:
        secret(node.supernode_key, content)
    check, public = supernode_key(node)
    assert (check.status, public) == ("fails", None)
    assert said in check.detail


def test_the_request_is_of_these_keys(node, members):
    own, supernode = members.identities[0].public, line(members.supernodes[0])
    check = requested(node, own, supernode)
    assert check.status == "ok"
    assert read_request(node.request).fingerprint in check.detail
    assert requested(node, Identity.generate().public, supernode).status == "fails"
    assert requested(node, own, line(members.supernodes[1])).status == "fails"
    assert "do not send it" in requested(replace(node, name="site-z"), own, supernode).detail


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_request_that_cannot_be_read(node, members, content):
    node.request.unlink()
    if content:
        node.request.write_text(content)
    check = requested(node, members.identities[0].public, line(members.supernodes[0]))
    assert check.status == "fails"
    assert "writes it anew" in check.detail


def test_the_membership(node, members):
    check, found = membership(node.membership, node.federation)
    assert (check.status, found) == ("ok", members.membership())
    assert "version 2, 2 clients" in check.detail


def test_a_membership_that_somebody_else_signed(node, members):
    write_membership(node.membership, members.membership().sign(Identity.generate()))
    check, found = membership(node.membership, node.federation)
    assert (check.status, found) == ("fails", None)
    assert "ask the operator" in check.detail


def test_a_membership_of_another_federation(node, members):
    write_membership(node.membership, members.membership(federation="cd" * 16).sign(members.operator))
    assert "another federation" in membership(node.membership, node.federation)[0].detail


def judged(node, members, found=None, **keys):
    own = keys.get("own", members.identities[0].public)
    return admitted(node, found or members.membership(), own, keys.get("supernode", line(members.supernodes[0])))


def test_a_node_that_is_admitted(node, members):
    check = judged(node, members)
    assert check.status == "ok"
    assert "holds site-a, client 0" in check.detail


def test_a_node_that_is_not_in_the_newest_membership_here(node, members):
    check = judged(node, members, members.membership(version=7, clients=(1,)))
    assert check.status == "warns"
    assert "version 7" in check.detail
    assert "send request.json" in check.detail


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"own": Identity.generate().public}, "another identity for site-a"),
        ({"supernode": line(ec.generate_private_key(ec.SECP384R1()))}, "another SuperNode key for site-a"),
    ],
)
def test_keys_that_were_not_admitted(node, members, keys, said):
    check = judged(node, members, **keys)
    assert check.status == "fails"
    assert said in check.detail


def test_files_of_two_kits(node, members):
    check = judged(replace(node, name="site-z"), members)
    assert check.status == "fails"
    assert "client 0 is site-a in the membership, and site-z in node.json" in check.detail


def test_the_identity_of_the_server(members):
    assert server_admitted(members.membership(), members.server.public).status == "ok"
    assert server_admitted(members.membership(), Identity.generate().public).status == "fails"


def judged_at(now):
    certificate = pki.authority(begins=-DAY, ends=100 * DAY).certificate
    return validity("CA", certificate, certificate.not_valid_after_utc + now, advice="make a new one")


@pytest.mark.parametrize(
    ("now", "status", "said"),
    [
        (-NOTICE - DAY, "ok", "valid until"),
        (-NOTICE + timedelta(hours=1), "warns", "in 29 days; make a new one"),
        (timedelta(hours=1), "fails", "expired on"),
        (-102 * DAY, "fails", "valid from"),
    ],
)
def test_how_long_a_certificate_holds(now, status, said):
    check = judged_at(now)
    assert (check.name, check.status) == ("CA", status)
    assert said in check.detail


def test_a_former_authority_may_end_while_it_is_replaced(ca):
    ended = pki.authority("CA of the federation", begins=-3 * DAY, ends=-DAY).certificate
    now = datetime.now(UTC)
    found = authorities_hold([ca.certificate, ended], now, advice="renew it")
    assert [(check.name, check.status) for check in found] == [("CA", "ok"), ("former CA", "warns")]
    assert [check.status for check in authorities_hold([ended, ca.certificate], now, advice="renew it")] == ["fails"]


def test_who_issued_a_certificate(ca):
    certificate = pki.certificate_of(ca, "a.example").certificate
    assert issued(certificate, [ca.certificate]).status == "ok"
    other = issued(certificate, [pki.authority("another").certificate])
    assert (other.status, "CN=another" in other.detail, "CN=CA of the federation" in other.detail) == (
        "fails",
        True,
        True,
    )
    same_name = pki.authority("CA of the federation").certificate
    assert issued(certificate, [same_name]).status == "fails"
    assert issued(certificate, [same_name, ca.certificate]).status == "ok"


@pytest.mark.parametrize(
    ("names", "host", "status"),
    [
        (("fl.example.org",), "fl.example.org", "ok"),
        (("FL.example.org",), "fl.Example.org", "ok"),
        (("10.0.0.1", "fl.example.org"), "10.0.0.1", "ok"),
        (("2001:db8::1",), "2001:DB8:0::1", "ok"),
        (("fl.example.org",), "example.org", "fails"),
        (("*.example.org",), "fl.example.org", "fails"),
        (("10.0.0.1",), "10.0.0.2", "fails"),
        ((), "10.0.0.2", "fails"),
    ],
)
def test_which_names_a_certificate_covers(ca, names, host, status):
    check = covers(pki.certificate_of(ca, *names).certificate, host)
    assert check.status == status
    if status == "fails":
        assert host in check.detail
        assert (names[0] if names else "nothing") in check.detail


def test_the_key_of_a_certificate(ca, tmp_path):
    mine, other = pki.certificate_of(ca, "a.example"), pki.certificate_of(ca, "a.example")
    key = tmp_path / "server.key"
    mine.write(tmp_path / "server.crt", key)
    assert opened_by(mine.certificate, key).status == "ok"
    assert "another certificate" in opened_by(other.certificate, key).detail
    key.chmod(0o644)
    assert "can be used by others" in opened_by(mine.certificate, key).detail
    key.write_text("no key")
    key.chmod(0o600)
    assert "holds no private key" in opened_by(mine.certificate, key).detail
    key.unlink()
    check = opened_by(mine.certificate, key)
    assert (check.status, "there is no key file" in check.detail) == ("fails", True)


def test_reading_a_certificate(ca, tmp_path):
    path = tmp_path / "ca.pem"
    with pytest.raises(KeyFileError, match="cannot read"):
        read_certificate(path)
    path.write_text("none")
    with pytest.raises(KeyFileError, match="holds no certificate"):
        read_certificate(path)
    ca.write(path)
    assert read_certificate(path) == ca.certificate


def test_now_is_a_moment_with_a_zone(ca):
    assert validity("CA", ca.certificate, datetime.now(UTC), advice="").status == "ok"
