import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtrain.deployment.gateway import (
    find_nginx,
    free_places,
    own_addresses,
    places,
    refuse_taken_port,
    write_configuration,
)
from fedtrain.errors import RunError, SiteError
from fedtrain.trust import Former
from tests.ports import free_port
from tests.unit.health import folders, pki, superlinks

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None,
    reason="needs Debian's package nginx-light",
)
ALLOWED = re.compile(r"POST /v1/fleet/[a-z-]+|(GET|HEAD) /health(\?.*)?")


class Recorder:
    """Stands behind the gateway, and notes all that it lets through."""

    def __init__(self, context):
        recorder = self
        self.seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                recorder.seen.append((f"{self.command} {self.path}", dict(self.headers), body))
                self.send_response_only(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815 - the names are http.server's

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})


@contextmanager
def recording(issued, folder):
    issued.write(folder / "behind.crt", folder / "behind.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "behind.crt", folder / "behind.key")
    recorder = Recorder(context)
    recorder.thread.start()
    try:
        yield recorder
    finally:
        recorder.server.shutdown()
        recorder.thread.join()
        recorder.server.server_close()


@contextmanager
def before(server, upstream, **listens):
    """Run nginx before a port; yields where it logs."""
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o711)
        configuration = server.path / "nginx.conf"
        write_configuration(configuration, server, superlink=upstream, temporary=Path(temporary), root=True, **listens)
        log = Path(temporary) / "log"
        command = [find_nginx(), "-e", "stderr", "-p", temporary, "-c", configuration]
        with log.open("wb") as file:
            process = subprocess.Popen([*map(str, command)], stderr=file)
        try:
            superlinks.wait_for(server.federation.port)
            yield log
        finally:
            process.terminate()
            process.wait(timeout=superlinks.PATIENCE)


class Gateway:
    def __init__(self, server, recorder, log):
        self.server, self.recorder, self.log = server, recorder, log

    @property
    def address(self):
        return "127.0.0.1", self.server.federation.port

    def send(self, data, *, alpn=None):
        context = ssl.create_default_context(cafile=self.server.ca)
        if alpn:
            context.set_alpn_protocols(alpn)
        with (
            socket.create_connection(self.address, timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            self.protocol = connection.selected_alpn_protocol()
            connection.sendall(data)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        return received

    def ask(self, line, *headers, body=b""):
        lines = [f"{line} HTTP/1.1", "Host: fl.example.org", "Connection: close", *headers]
        answer = self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return int(answer.split()[1])

    def reached(self):
        return [line for line, _, _ in self.recorder.seen]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    # A folder with what nginx would read as something else, if it were not quoted.
    folder = tmp_path_factory.mktemp("gateway")
    ca = pki.authority("CA of the federation")
    address = f"127.0.0.1:{free_port()}"
    place = folder / 'a "folder"; of {mine} \\ #1'
    server = folders.server_folder(place, folders.Members.make(), ca, address=address)
    issued = pki.certificate_of(ca, "localhost")
    with recording(issued, folder) as recorder, before(server, recorder.server.server_port) as log:
        yield Gateway(server, recorder, log)


@pytest.fixture(autouse=True)
def nothing_else_passes(request):
    if "gateway" in request.fixturenames:
        gateway = request.getfixturevalue("gateway")
        gateway.recorder.seen.clear()
        yield
        assert all(ALLOWED.fullmatch(line) for line in gateway.reached())
    else:
        yield


@needs_nginx
def test_what_nodes_ask_for_passes_unchanged(gateway):
    body = bytes(range(256)) * 100_000  # 25.6 MB, as much as Flower puts into one message
    headers = ("Content-Type: application/protobuf", "Flwr-Signature: abc", f"Content-Length: {len(body)}")
    assert gateway.ask("POST /v1/fleet/push-object", *headers, body=body) == 200
    (line, found, received), *others = gateway.recorder.seen
    assert (line, found["Flwr-Signature"], others) == ("POST /v1/fleet/push-object", "abc", [])
    assert received == body


@needs_nginx
def test_more_than_any_message_is_refused(gateway):
    assert gateway.ask("POST /v1/fleet/push-object", f"Content-Length: {65 << 20}") == 413
    assert gateway.reached() == []


@needs_nginx
def test_health_is_answered_by_what_is_behind(gateway):
    assert gateway.ask("GET /health") == 200
    assert gateway.reached() == ["GET /health"]


TRICKS = [
    "POST /v1/control/list-nodes",
    "POST /v1/runtime/pull-message",
    "POST /v1/Control/list-nodes",
    "POST /V1/FLEET/activate-node",
    "POST //v1/control/list-nodes",
    "POST //v1//fleet//activate-node",
    "POST /v1/fleet//activate-node",
    "POST /v1/fleet/../control/list-nodes",
    "POST /v1/fleet/..%2fcontrol/list-nodes",
    "POST /v1/fleet/%2e%2e/control/list-nodes",
    "POST /v1/fleet/%2e%2e%2fcontrol%2flist-nodes",
    "POST /v1/fleet/.%2e/control/list-nodes",
    "POST /v1/fleet/..;/control/list-nodes",
    "POST /v1/fleet/..\\control\\list-nodes",
    "POST /v1/fleet/%252e%252e/control/list-nodes",
    "POST /v1/fleet/x/../../control/list-nodes",
    "POST /v1/control/../fleet/activate-node",
    "POST /v1/%66leet/activate-node",
    "POST /v1/%63ontrol/list-nodes",
    "POST /v1/fleet/activate-node?/../../control/list-nodes",
    "POST /v1/fleet/activate-node?x=1",
    "POST /v1/fleet/activate-node#/v1/control/list-nodes",
    "POST /v1/fleet/activate-node/",
    "POST /v1/fleet/",
    "POST /v1/fleet",
    "POST /v1/fleet/a%00b",
    "POST /v1/fleet/a%0d%0aX:%20y",
    "POST /v1/fleet/activate-node%20HTTP/1.1",
    "POST https://localhost/v1/control/list-nodes",
    "POST https://localhost/v1/fleet/../control/list-nodes",
    "POST /health",
    "POST /health/../v1/control/list-nodes",
    "GET /",
    "GET /docs",
    "GET /openapi.json",
    "GET /v1/fleet/activate-node",
    "PUT /v1/fleet/activate-node",
    "DELETE /health",
    "CONNECT 127.0.0.1:9091",
    "TRACE /health",
    "PRI *",
    "OPTIONS *",
]


@needs_nginx
@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_are_refused_and_not_passed_on(gateway, trick):
    assert gateway.ask(trick, "Content-Length: 0") in {400, 404, 405}
    assert gateway.reached() == []


@needs_nginx
def test_headers_that_name_another_path_or_protocol_do_not_count(gateway):
    forged = ("X-Original-URL: /v1/control/list-nodes", "X-Rewrite-URL: /v1/control/list-nodes")
    upgrade = ("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", "Content-Length: 0")
    assert gateway.ask("POST /v1/fleet/activate-node", *forged, *upgrade) == 200
    ((line, found, _),) = gateway.recorder.seen
    assert line == "POST /v1/fleet/activate-node"
    assert "Upgrade" not in found
    assert "upgrade" not in found.get("Connection", "").lower()


SECOND = b"POST /v1/control/list-nodes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
FIRST = b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
SMUGGLED = {
    "two lengths": FIRST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SECOND) + SECOND,
    "a length and chunks": FIRST
    + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (len(SECOND) + 5)
    + SECOND,
    "odd chunks": FIRST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND,
    "chunks by tab": FIRST + b"Transfer-Encoding:\tchunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + SECOND,
    "a chunk that is longer": FIRST + b"Transfer-Encoding: chunked\r\n\r\n0;%s\r\n\r\n" % SECOND[:20] + SECOND,
    "a header of two lines": FIRST + b"X: y\r\n " + SECOND,
    "a bare line feed": FIRST + b"X: y\n\n" + SECOND,
    "a space before the colon": FIRST + b"Content-Length : %d\r\n\r\n" % len(SECOND) + SECOND,
    "a pipeline": FIRST.replace(b"close", b"keep-alive")
    + b"Content-Length: 0\r\n\r\n"
    + SECOND.replace(b"localhost", b"x\r\nConnection: close"),
    "HTTP/0.9": b"POST /v1/control/list-nodes\r\n",
    "HTTP/2 from the start": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@needs_nginx
@pytest.mark.parametrize("trick", SMUGGLED)
def test_no_second_request_is_smuggled_in(gateway, trick):
    gateway.send(SMUGGLED[trick])
    assert not any("control" in line for line in gateway.reached())
    assert not any(b"control" in body and len(body) < len(SECOND) for _, _, body in gateway.recorder.seen)


@needs_nginx
def test_no_second_protocol_is_offered(gateway):
    gateway.send(FIRST + b"Content-Length: 0\r\n\r\n", alpn=["h2", "http/1.1"])
    assert gateway.protocol in {None, "http/1.1"}


PIECES = [
    "/",
    "//",
    "v1",
    "fleet",
    "control",
    "list-nodes",
    ".",
    "..",
    "%2e",
    "%2f",
    "%5c",
    "\\",
    ";",
    "?",
    "#",
    "%00",
    "A",
]


@needs_nginx
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=9), st.sampled_from(["/v1/fleet/", "/v1/", "/health", "/"]))
def test_only_what_nodes_ask_for_passes(gateway, pieces, start):
    gateway.recorder.seen.clear()
    gateway.ask(f"POST {start}{''.join(pieces)}", "Content-Length: 0")
    assert all(ALLOWED.fullmatch(line) for line in gateway.reached())


@needs_nginx
def test_the_recorder_sees_what_is_not_allowed(gateway):
    context = ssl.create_default_context(cafile=gateway.server.ca)
    with (
        socket.create_connection(("127.0.0.1", gateway.recorder.server.server_port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(SECOND)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert not all(ALLOWED.fullmatch(line) for line in gateway.reached())
    gateway.recorder.seen.clear()


@needs_nginx
def test_a_stranger_who_tries_paths_writes_nothing_into_the_log(gateway):
    before = gateway.log.read_text()
    for line in ("GET /v1/fleet/x", "POST /v1/control/x", "POST /v1/fleet/%2e%2e/x", "PRI *"):
        gateway.ask(line)
    with socket.create_connection(gateway.address, timeout=30) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        plain.recv(1000)
    assert gateway.log.read_text() == before


def shake(gateway, *, name="127.0.0.1", ca=None, highest=ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile=ca or gateway.server.ca)
    context.maximum_version = highest
    with (
        socket.create_connection(gateway.address, timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return connection.version()


@needs_nginx
def test_tls_1_3_for_its_own_name_by_its_own_ca(gateway, tmp_path):
    assert shake(gateway) == "TLSv1.3"
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        shake(gateway, highest=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(gateway, name="other.example.org")
    pki.authority("another").write(tmp_path / "ca.pem")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake(gateway, ca=tmp_path / "ca.pem")


@needs_nginx
def test_what_is_behind_is_known_by_its_certificate(tmp_path, ca, members):
    server = folders.server_folder(tmp_path / "server", members, ca, address=f"127.0.0.1:{free_port()}")
    other = pki.certificate_of(pki.authority("another"), "localhost")
    with recording(other, tmp_path) as recorder, before(server, recorder.server.server_port) as log:
        gateway = Gateway(server, recorder, log)
        assert gateway.ask("POST /v1/fleet/activate-node", "Content-Length: 0") == 502
        assert recorder.seen == []
        assert "upstream SSL certificate verify error" in log.read_text()


def test_a_folder_that_nginx_cannot_be_told(tmp_path, ca, members):
    for name in ("$host", "a\nb"):
        server = folders.server_folder(tmp_path / name, members, ca)
        with pytest.raises(SiteError, match="nginx cannot read files in"):
            write_configuration(tmp_path / "conf", server, superlink=9091, temporary=tmp_path, root=False)


def test_only_root_has_workers_of_another_name(tmp_path, ca, members):
    server = folders.server_folder(tmp_path / "server", members, ca)
    for root in (True, False):
        write_configuration(tmp_path / "conf", server, superlink=9091, temporary=tmp_path, root=root)
        assert ("user nobody nogroup;" in (tmp_path / "conf").read_text()) is root


def test_no_nginx(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(RunError, match="apt-get install nginx-light"):
        find_nginx()


def resolving(monkeypatch, **names):
    real = socket.getaddrinfo

    def found(host, *arguments, **named):
        if host in names:
            return [entry for address in names[host] for entry in real(address, *arguments, **named)]
        return real(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", found)


def pinned(members, tmp_path, ca, address):
    return folders.server_folder(tmp_path / "server", members, ca, address=address).federation


@pytest.mark.parametrize(
    ("address", "addresses", "listens"),
    [
        ("127.0.0.1:9443", [], ("127.0.0.1",)),
        ("localhost:9443", ["127.0.0.1"], ("127.0.0.1",)),
        # A name that another machine has, as behind a router; and Debian's own name of a machine.
        ("away:9443", ["192.0.2.1"], ()),
        ("own:9443", ["127.0.1.1"], ()),
        ("both:9443", ["192.0.2.1", "127.0.0.2"], ()),
    ],
)
def test_it_listens_at_the_addresses_that_nodes_reach(monkeypatch, members, tmp_path, ca, address, addresses, listens):
    resolving(monkeypatch, **{address.partition(":")[0]: addresses} if addresses else {})
    assert own_addresses(pinned(members, tmp_path, ca, address)) == listens


def test_a_name_without_an_address_is_listened_for_at_all(members, tmp_path, ca):
    assert own_addresses(pinned(members, tmp_path, ca, "no-such-name.invalid:9443")) == ()


def test_the_addresses_are_in_the_configuration(members, tmp_path, ca):
    server = folders.server_folder(tmp_path / "server", members, ca, address="127.0.0.1:9443")
    write_configuration(
        tmp_path / "conf", server, superlink=9091, temporary=tmp_path, root=False, listens={9443: ("10.0.0.5", "::1")}
    )
    assert "listen 10.0.0.5:9443 ssl; listen [::1]:9443 ssl;" in (tmp_path / "conf").read_text()
    write_configuration(tmp_path / "conf", server, superlink=9091, temporary=tmp_path, root=False)
    assert re.search(r"listen 9443 ssl;( listen \[::\]:9443 ssl;)?\n", (tmp_path / "conf").read_text())


@needs_nginx
def test_directions_are_handed_to_anybody_at_both_addresses(members, tmp_path, ca):
    former, newest = free_port(), free_port()
    server = folders.server_folder(tmp_path / "server", members, ca, address=f"127.0.0.1:{newest}")
    server.directions.write_bytes(b"signed\n")
    listens = {newest: ("127.0.0.1",), former: ("127.0.0.1",)}
    with before(server, free_port(), listens=listens):
        for port in (former, newest):
            superlinks.wait_for(port)
            context = ssl.create_default_context(cafile=server.ca)
            with closing(HTTPSConnection("127.0.0.1", port, context=context, timeout=30)) as connection:
                found = []
                for method, path in (("GET", "/directions"), ("POST", "/directions"), ("GET", "/directions/../ca.pem")):
                    connection.request(method, path)
                    with connection.getresponse() as answer:
                        found.append((answer.status, answer.read()))
            assert found[0] == (200, b"signed\n")
            assert [status for status, _ in found[1:]] == [405, 404]


def test_a_former_address_is_served_while_nodes_try_it_if_it_is_this_machines(monkeypatch, members):
    resolving(monkeypatch, new=["127.0.0.2"], old=["127.0.0.3"], away=["192.0.2.1"])
    now = datetime.now(UTC)

    def served(address, *former):
        soon = tuple(Former(address=one, until=now + timedelta(days=1)) for one in former)
        return places(replace(members.federation(address), former=soon), now)

    own = ("127.0.0.1",)
    assert served("127.0.0.1:1", "127.0.0.1:2") == {1: own, 2: own}
    assert served("127.0.0.1:1", "away:2") == {1: own}
    # Behind a router no address is known to be another machine's.
    assert served("away:1", "away:2", "127.0.0.1:1") == {1: (), 2: ()}
    assert served("127.0.0.1:1", "localhost:1") == {1: own}
    ended = replace(members.federation("127.0.0.1:1"), former=(Former(address="127.0.0.1:2", until=now),))
    assert places(ended, now) == {1: own}


def test_a_former_port_that_another_program_has_by_now_keeps_no_server_from_its_newest(members):
    now, own = datetime.now(UTC).replace(microsecond=0), ("127.0.0.1",)
    with socket.create_server((*own, 0)) as taken:
        port, free, said = taken.getsockname()[1], free_port(), []
        until = (Former(address=f"127.0.0.1:{port}", until=now + timedelta(days=1)),)
        moved = replace(members.federation(f"127.0.0.1:{free}"), former=until)
        assert free_places(moved, now, said.append) == {free: own}
        (line,) = said
        assert "the former address is not served" in line
        assert f"port {port} is in use by another program" in line
        with pytest.raises(RunError, match=f"port {port} is in use by another program"):
            free_places(members.federation(f"127.0.0.1:{port}"), now, said.append)
    assert free_places(moved, now, said.append) == {free: own, port: own}
    assert len(said) == 1


@pytest.mark.parametrize("addresses", [(), ("127.0.0.1",)])
def test_a_port_that_another_program_has_is_told(addresses):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=rf"port {port} is in use by another program, and it is where nodes reach"):
            refuse_taken_port(addresses, port, what="where nodes reach this server")
    refuse_taken_port(addresses, port, what="where nodes reach this server")
