from datetime import UTC, datetime, timedelta

import pytest

from fedtrain.errors import KeyFileError
from fedtrain.health.certificates import NOTICE, covers, issued, opened_by, read_certificate, validity
from tests.unit.health import pki
from tests.unit.health.pki import DAY


def judged(now):
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
    check = judged(now)
    assert (check.name, check.status) == ("CA", status)
    assert said in check.detail


def test_who_issued_a_certificate(ca):
    certificate = pki.certificate_of(ca, "a.example").certificate
    assert issued(certificate, ca.certificate).status == "ok"
    other = issued(certificate, pki.authority("another").certificate)
    assert (other.status, "CN=another" in other.detail, "CN=CA of the federation" in other.detail) == (
        "fails",
        True,
        True,
    )
    same_name = pki.authority("CA of the federation").certificate
    assert issued(certificate, same_name).status == "fails"


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
