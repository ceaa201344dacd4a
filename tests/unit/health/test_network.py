import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from fedtrain.crypto import Identity
from fedtrain.health import network
from fedtrain.health.network import MOST_AHEAD, MOST_BEHIND, compare_clocks, connect, health, reach, resolve
from fedtrain.machines import Federation
from tests.ports import free_port
from tests.unit.health import pki
from tests.unit.health.pki import DAY

OPERATOR = Identity.generate().public


def federation(port, host="127.0.0.1"):
    return Federation(id="ab" * 16, address=f"{host}:{port}", operator=OPERATOR)


def checks(ca_file, port, host="127.0.0.1"):
    return {check.name: check for check in reach(federation(port, host), ca_file)}


def test_all_is_well(ca, ca_file, tmp_path):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        found = checks(ca_file, port)
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(
        ("DNS", "TCP", "TLS", "health", "clock"), "ok"
    )
    assert "TLSv1.3" in found["TLS"].detail


def test_a_host_name_is_checked_as_one(ca, ca_file, tmp_path):
    with pki.serving(tmp_path, pki.certificate_of(ca, "localhost")) as port:
        found = checks(ca_file, port, "localhost")
    assert found["TLS"].status == "ok"
    assert "127.0.0.1" in found["DNS"].detail


def test_a_name_that_nobody_knows(ca_file):
    found = checks(ca_file, 9443, "fl.invalid")
    assert [(check.name, check.status) for check in found.values()] == [("DNS", "fails"), ("connection", "warns")]
    assert "fl.invalid has no address" in found["DNS"].detail


def test_a_port_where_nobody_listens(ca_file):
    found = checks(ca_file, free_port())
    assert [(check.name, check.status) for check in found.values()] == [
        ("DNS", "ok"),
        ("TCP", "fails"),
        ("TLS", "warns"),
    ]
    assert "refuses port" in found["TCP"].detail


def test_a_firewall_that_drops(ca_file, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT", 0.2)
    # A queue of one that is full: the kernel drops what comes, as a firewall does.
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        found = checks(ca_file, server.getsockname()[1])
    assert found["TCP"].status == "fails"
    assert "does not answer within 0.2 s" in found["TCP"].detail


def test_an_address_that_is_not_routed():
    check, address = connect(federation(9), ["255.255.255.255"])
    assert (check.status, address) == ("fails", None)
    assert "255.255.255.255 is not reached" in check.detail


def test_one_address_of_two_is_dead(ca, tmp_path):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        check, address = connect(federation(port), ["127.0.0.9", "127.0.0.1"])
    assert (check.status, address) == ("warns", ("127.0.0.1", port))
    assert "127.0.0.9 refuses" in check.detail


@pytest.mark.parametrize(
    ("begins", "ends", "said"), [(-30 * DAY, -DAY, "expired"), (DAY, 30 * DAY, "not yet valid"), (-DAY, 90 * DAY, None)]
)
def test_the_time_of_the_certificate(ca, ca_file, tmp_path, begins, ends, said):
    issued = pki.certificate_of(ca, "127.0.0.1", begins=begins, ends=ends)
    with pki.serving(tmp_path, issued) as port:
        check = checks(ca_file, port)["TLS"]
    assert (check.status == "ok") == (said is None)
    if said:
        assert said in check.detail
        shown = issued.certificate.not_valid_after_utc if said == "expired" else issued.certificate.not_valid_before_utc
        assert f"{shown:%Y-%m-%d %H:%M}" in check.detail


def test_a_certificate_that_ends_soon(ca, ca_file, tmp_path):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1", ends=10 * DAY)) as port:
        found = checks(ca_file, port)
    assert found["TLS"].status == "warns"
    assert "in 9 days; the operator makes a new one" in found["TLS"].detail
    assert found["clock"].status == "ok"


def test_a_ca_that_expired(tmp_path):
    old = pki.authority(begins=-30 * DAY, ends=-DAY)
    old.write(tmp_path / "ca.pem")
    with pki.serving(tmp_path, pki.certificate_of(old, "127.0.0.1")) as port:
        check = checks(tmp_path / "ca.pem", port)["TLS"]
    assert check.status == "fails"
    assert "expired: the certificate of the server or of the CA" in check.detail


@pytest.mark.parametrize("names", [("fl.example.org",), ("127.0.0.2",), ()])
def test_another_name(ca, ca_file, tmp_path, names):
    with pki.serving(tmp_path, pki.certificate_of(ca, *names)) as port:
        check = checks(ca_file, port)["TLS"]
    assert check.status == "fails"
    assert check.detail.startswith("wrong name: the certificate of the server is not for 127.0.0.1")


@pytest.mark.parametrize("name", ["CA of a proxy", "CA of the federation"])
def test_another_ca_also_of_the_same_name(ca_file, tmp_path, name):
    with pki.serving(tmp_path, pki.certificate_of(pki.authority(name), "127.0.0.1")) as port:
        check = checks(ca_file, port)["TLS"]
    assert check.status == "fails"
    assert check.detail.startswith("wrong CA: ")
    assert f"CN={name}" in check.detail


def test_another_ca_writes_no_line_of_its_own(ca_file, tmp_path):
    name = "a CA\n2030-01-01 00:00:00  run: curl evil.example\x1b[2J"
    with pki.serving(tmp_path, pki.certificate_of(pki.authority(name), "127.0.0.1")) as port:
        check = checks(ca_file, port)["TLS"]
    assert "curl evil.example" in check.detail
    assert check.detail.isprintable()


def test_a_certificate_for_another_purpose(ca, ca_file, tmp_path):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)) as port:
        check = checks(ca_file, port)["TLS"]
    assert check.status == "fails"
    assert "cannot be trusted: unsuitable certificate purpose" in check.detail


def test_a_certificate_by_nobody(ca_file, tmp_path):
    with pki.serving(tmp_path, pki.authority("itself")) as port:
        check = checks(ca_file, port)["TLS"]
    assert check.detail.startswith("wrong CA: ")


def test_a_server_without_tls_1_3(ca, ca_file, tmp_path):
    issued = pki.certificate_of(ca, "127.0.0.1")
    with pki.serving(tmp_path, issued, version=ssl.TLSVersion.TLSv1_2) as port:
        check = checks(ca_file, port)["TLS"]
    assert check.status == "fails"
    assert "does not speak TLS 1.3" in check.detail


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "does not speak TLS"), (b"", "broke the handshake off")],
)
def test_something_else_answers(ca_file, answer, said):
    with pki.answering(answer) as port:
        check = checks(ca_file, port)["TLS"]
    assert check.status == "fails"
    assert said in check.detail


def test_a_proxy_that_holds_the_handshake_back(ca_file, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT", 0.2)
    with pki.answering(None) as port:
        check = checks(ca_file, port)["TLS"]
    assert check.status == "fails"
    assert "the handshake took more than" in check.detail


def test_the_server_goes_away_between_two_steps(ca_file):
    (check,) = network.secure(federation(free_port()), ca_file, ("127.0.0.1", free_port()))
    assert check.status == "fails"
    assert "does not answer any more" in check.detail


@pytest.mark.parametrize(("content", "said"), [(None, "cannot read"), ("no certificate", "holds no certificate")])
def test_a_ca_file_that_is_none(ca, tmp_path, content, said):
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        check = checks(path, port)["TLS"]
    assert check.status == "fails"
    assert said in check.detail


@pytest.mark.parametrize(
    ("status", "judged", "said"),
    [(200, "ok", "well"), (502, "fails", "SuperLink behind it is not up"), (404, "fails", "is it fedtrain's?")],
)
def test_what_the_server_says_of_its_health(status, judged, said):
    check = health(status)
    assert check.status == judged
    assert said in check.detail


def test_a_server_that_says_nothing(ca, ca_file, tmp_path):
    certificate, key = tmp_path / "a.crt", tmp_path / "a.key"
    pki.certificate_of(ca, "127.0.0.1").write(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for _ in range(2):  # the check of the port, and the handshake
                connection, _ = server.accept()
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        found = checks(ca_file, server.getsockname()[1])
        thread.join()
    assert found["TLS"].status == "ok"
    assert found["health"].status == "fails"
    assert "clock" not in found


@pytest.mark.parametrize(
    ("ahead", "status", "said"),
    [
        (timedelta(hours=1), "fails", "behind the server's"),
        (timedelta(hours=-1), "fails", "ahead of the server's"),
        (timedelta(minutes=2), "warns", "behind the server's"),
        (timedelta(0), "ok", "the server takes less than"),
    ],
)
def test_a_clock_that_is_off(ca, ca_file, tmp_path, ahead, status, said):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1"), ahead=ahead) as port:
        check = checks(ca_file, port)["clock"]
    assert check.status == status
    assert said in check.detail


def test_an_answer_without_a_time(ca, ca_file, tmp_path):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1"), dated=False) as port:
        check = checks(ca_file, port)["clock"]
    assert check.status == "warns"


def test_an_address_is_its_own_name():
    assert resolve(federation(9443))[0].detail == "127.0.0.1"


def test_a_proxy_of_the_environment_is_named_without_its_password(ca_file, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2@proxy.example:3128")
    (check,) = checks(ca_file, 9443, "fl.invalid").values()
    assert (check.name, check.status) == ("proxy", "warns")
    assert "through proxy.example:3128" in check.detail
    assert "hunter2" not in check.detail
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert "through http://proxy.example:3128" in checks(ca_file, 9443, "fl.invalid")["proxy"].detail


def test_a_proxy_that_is_not_for_this_host(ca_file, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "fl.invalid")
    assert "DNS" in checks(ca_file, 9443, "fl.invalid")


NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def compared(ahead, *, travel=0.0):
    """Judge a clock that is so many seconds ahead of the server's."""
    # The header is cut to the second: half of one is lost on average.
    sent = NOON + timedelta(seconds=0.5 + ahead - travel / 2)
    date = format_datetime(NOON, usegmt=True)
    return compare_clocks(date, sent, sent + timedelta(seconds=travel))


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        (0, "ok"),
        (1.5, "ok"),
        (2.5, "warns"),
        (5.5, "fails"),
        (-20, "ok"),
        (-31, "warns"),
        (-304, "warns"),
        (-306, "fails"),
    ],
)
def test_how_far_a_clock_may_be_off(ahead, status):
    assert compared(ahead).status == status


def test_a_slow_network_is_no_wrong_clock():
    assert compared(0, travel=8.0).status == "ok"


@pytest.mark.parametrize("date", [None, "", "yesterday", "Wed, 32 Jul 2026 12:00:00 GMT"])
def test_a_time_that_is_none(date):
    check = compare_clocks(date, NOON, NOON)
    assert check.status == "warns"
    assert "was not compared" in check.detail


def test_a_time_without_a_zone_is_taken_as_utc():
    assert compare_clocks("Wed, 01 Jul 2026 12:00:00 -0000", NOON, NOON).status == "ok"


def test_the_limits_are_those_of_flower():
    assert MOST_AHEAD.total_seconds() == SYSTEM_TIME_TOLERANCE
    assert MOST_BEHIND.total_seconds() == TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
