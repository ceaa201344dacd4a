import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedtrain.errors import ConfigError, KeyFileError
from fedtrain.provision.certificates import Pair, expiry_problem, hosts_of, issue, make_ca

NOW = datetime.now(UTC)
ID = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def ca():
    return make_ca(ID, now=NOW)


def handshake(folder, served, trusted, name):
    """Connect once over loopback as a node does; raise what the node's side raises."""
    for path, data in (("server.pem", served.certificate + served.key), ("ca.pem", trusted)):
        (folder / path).write_bytes(data)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(folder / "server.pem")
    theirs = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            try:
                own.wrap_socket(connection, server_side=True).close()
            except (ssl.SSLError, OSError):
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=30) as connection,
                theirs.wrap_socket(connection, server_hostname=name) as secured,
            ):
                return secured.getpeercert()
        finally:
            thread.join()


@pytest.mark.parametrize(
    "name", ["fl.example.org", "10.1.2.3", "fd00::1", "localhost", "127.0.0.1", "other.example.org"]
)
def test_a_node_accepts_the_server_under_each_of_its_names(ca, tmp_path, name):
    pair = issue(ca, ["fl.example.org", "10.1.2.3", "fd00::1", "other.example.org"], now=NOW, days=90)
    assert handshake(tmp_path, pair, ca.certificate, name)


def test_a_node_refuses_the_server_under_another_name(ca, tmp_path):
    pair = issue(ca, ["fl.example.org"], now=NOW, days=90)
    for name in ("example.org", "www.fl.example.org", "10.1.2.3"):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
            handshake(tmp_path, pair, ca.certificate, name)


def test_a_node_refuses_a_server_of_another_authority(ca, tmp_path):
    # Of the same name, too: the key counts.
    other = make_ca(ID, now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, issue(other, ["localhost"], now=NOW, days=90), ca.certificate, "localhost")


def test_a_node_refuses_a_certificate_that_expired(ca, tmp_path):
    pair = issue(ca, ["localhost"], now=NOW - timedelta(days=91), days=90)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(tmp_path, pair, ca.certificate, "localhost")


def test_a_node_refuses_a_certificate_that_is_not_valid_yet(ca, tmp_path):
    pair = issue(ca, ["localhost"], now=NOW + timedelta(days=1), days=90)
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        handshake(tmp_path, pair, ca.certificate, "localhost")


def test_a_clock_that_is_half_an_hour_behind_accepts_a_new_certificate(tmp_path):
    late = NOW + timedelta(minutes=30)
    ca = make_ca(ID, now=late)
    assert handshake(tmp_path, issue(ca, ["localhost"], now=late, days=90), ca.certificate, "localhost")


def test_a_server_cannot_sign_for_another(ca, tmp_path):
    server = issue(ca, ["localhost"], now=NOW, days=90)
    forged = issue(server, ["localhost"], now=NOW, days=90)
    chain = Pair(certificate=forged.certificate + server.certificate, key=forged.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, chain, ca.certificate, "localhost")


def test_a_certificate_has_a_key_of_its_own_and_its_first_name(ca):
    first, second = (issue(ca, ["fl.example.org"], now=NOW, days=90) for _ in range(2))
    assert len({first.key, second.key, ca.key}) == 3
    certificate = x509.load_pem_x509_certificate(first.certificate)
    assert certificate.subject.rfc4514_string() == "CN=fl.example.org"
    assert certificate.serial_number != x509.load_pem_x509_certificate(second.certificate).serial_number


def test_a_long_name_does_not_fit_into_a_subject_and_is_valid_all_the_same(ca):
    host = ".".join(["a" * 40] * 3)
    assert hosts_of(issue(ca, [host], now=NOW, days=90).certificate) == (host, "localhost", "127.0.0.1")


def test_names_are_not_repeated(ca):
    hosts = ["localhost", "fl.example.org", "127.0.0.1", "fl.example.org", "fd00::1"]
    assert hosts_of(issue(ca, hosts, now=NOW, days=90).certificate) == (
        "localhost",
        "fl.example.org",
        "127.0.0.1",
        "fd00::1",
    )
    names = x509.load_pem_x509_certificate(issue(ca, hosts, now=NOW, days=90).certificate).extensions
    alternative = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternative.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("fd00::1")]


@pytest.mark.parametrize("days", [1, 3651, 10**12])
def test_a_certificate_ends_when_it_was_said_and_not_after_its_authority(ca, days):
    end = x509.load_pem_x509_certificate(issue(ca, ["localhost"], now=NOW, days=days).certificate).not_valid_after_utc
    authority = x509.load_pem_x509_certificate(ca.certificate).not_valid_after_utc
    assert end == (min(authority, NOW + timedelta(days=1)).replace(microsecond=0) if days == 1 else authority)


@pytest.mark.parametrize("host", ["", "größe.example.org", "a b", "a..b", "-a", "*", "a/b", "a" * 64, "a\n"])
def test_what_is_no_name_of_a_server_is_refused(ca, host):
    with pytest.raises(ConfigError, match="is no name and no address"):
        issue(ca, ["localhost", host], now=NOW, days=90)


def test_the_authoritys_files_must_belong_together(ca):
    other = make_ca(ID, now=NOW)
    with pytest.raises(KeyFileError, match=r"not that of its certificate"):
        issue(Pair(certificate=ca.certificate, key=other.key), ["localhost"], now=NOW, days=90)
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(KeyFileError, match=r"not that of its certificate"):
        issue(Pair(certificate=ca.certificate, key=key), ["localhost"], now=NOW, days=90)


@pytest.mark.parametrize("part", ["certificate", "key"])
def test_an_authority_that_cannot_be_read_is_refused(ca, part):
    pair = Pair(**{**vars(ca), part: b"-----BEGIN NOTHING-----\n"})
    with pytest.raises(KeyFileError, match="cannot be read"):
        issue(pair, ["localhost"], now=NOW, days=90)


def test_hosts_of_something_else_are_refused(ca):
    for data in (b"", ca.certificate):
        with pytest.raises(KeyFileError, match="cannot be read"):
            hosts_of(data)


def test_the_end_of_a_certificate_is_said_thirty_days_before(ca):
    certificate = issue(ca, ["localhost"], now=NOW, days=90).certificate
    end = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    assert expiry_problem(certificate, "it", now=end - timedelta(days=30)) is None
    assert expiry_problem(certificate, "it", now=end - timedelta(days=9, hours=1)) == (
        f"it expires on {end:%Y-%m-%d}, in 9 days"
    )
    assert "expired on" in expiry_problem(certificate, "it", now=end)
    assert "cannot be read" in expiry_problem(b"", "it", now=end)


def test_an_authority_is_one_for_servers_and_for_ten_years(ca):
    certificate = x509.load_pem_x509_certificate(ca.certificate)
    assert certificate.not_valid_after_utc - NOW > timedelta(days=3649)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert certificate.subject.rfc4514_string() == "CN=fedtrain federation 01234567"
