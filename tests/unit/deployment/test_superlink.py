import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fedtrain.crypto import Identity
from fedtrain.deployment.processes import Processes, Stopped
from fedtrain.deployment.superlink import Service, awaited, check, new_database, running
from fedtrain.errors import KeyFileError, RunError, SiteError
from fedtrain.machines import ServerFolder, write_membership
from fedtrain.trust import Authority, Directions, Former
from tests.unit.health import folders, pki
from tests.unit.health.pki import DAY

NAMES = ("127.0.0.1", "localhost")


@pytest.fixture
def server(tmp_path, members, ca):
    return folders.server_folder(tmp_path / "server", members, ca)


def refused(server, error, message):
    with pytest.raises(error, match=message):
        check(server)


def test_a_server_in_order(server):
    check(server)


def test_files_that_are_missing(server):
    for path, error in (
        (server.certificate, KeyFileError),
        (server.ca, KeyFileError),
        (server.certificate_key, KeyFileError),
        (server.identity, KeyFileError),
        (server.membership, SiteError),
    ):
        content = path.read_bytes()
        path.unlink()
        refused(server, error, path.name)
        folders.secret(path, content)
    check(server)


def test_keys_that_others_can_read(server):
    for path in (server.certificate_key, server.identity):
        path.chmod(0o640)
        refused(server, KeyFileError, path.name)
        path.chmod(0o600)


@pytest.mark.parametrize(
    ("message", "begins", "ends", "names"),
    [
        ("certificate: expired on", -3 * DAY, -DAY, NAMES),
        ("certificate: valid from", DAY, 3 * DAY, NAMES),
        (r"names: server.crt does not name 127\.0\.0\.1", -DAY, DAY, ("fl.example.org",)),
        # The gateway knows the SuperLink by the name localhost.
        ("names: server.crt does not name localhost", -DAY, DAY, ("127.0.0.1",)),
    ],
)
def test_certificates_that_do_not_hold(server, ca, message, begins, ends, names):
    pki.certificate_of(ca, *names, begins=begins, ends=ends).write(server.certificate, server.certificate_key)
    refused(server, KeyFileError, message)


def test_certificates_that_do_not_belong_together(server, ca):
    pki.certificate_of(ca, *NAMES).write(server.certificate)
    refused(server, KeyFileError, "server.key is the key of another certificate")
    pki.certificate_of(pki.authority("another"), *NAMES).write(server.certificate, server.certificate_key)
    refused(server, KeyFileError, "was not issued by the CA")


def test_an_expired_ca(tmp_path, members):
    old = pki.authority("old", begins=-3 * DAY, ends=-DAY)
    refused(folders.server_folder(tmp_path / "server", members, old), KeyFileError, "CA: expired on")


def test_directions_that_nodes_would_follow_away_from_this_server(server, members, ca):
    following, until = pki.authority("CA of the federation"), datetime.now(UTC).replace(microsecond=0) + DAY

    def directed(*authorities, former="localhost:9443"):
        directions = Directions(
            federation=folders.ID,
            version=1,
            address=server.federation.address,
            former=(Former(address=former, until=until),),
            authorities=tuple(
                Authority(certificate=one.certificate.public_bytes(Encoding.PEM).decode()) for one in authorities
            ),
        )
        server.directions.write_bytes(directions.sign(members.operator).line())
        return ServerFolder.open(server.path)

    check(directed(ca))
    # Carried without ca.pem, and without the certificate by the authority that it names.
    refused(directed(following), KeyFileError, r"directions: ca\.pem is not what directions\.json names; copy both")
    refused(directed(following, ca), KeyFileError, r"directions: ca\.pem is not what directions\.json names")
    # Nodes that have not followed yet know no other host.
    refused(directed(ca, former="fl.example.org:9443"), KeyFileError, r"does not name fl\.example\.org")


def test_an_identity_that_the_membership_does_not_name(server):
    folders.secret(server.identity, folders.pem_key(Identity.generate()))
    refused(server, KeyFileError, "is not the key of the server that")


def test_a_membership_that_is_not_the_operators(server, members):
    write_membership(server.membership, members.membership().sign(Identity.generate()))
    refused(server, SiteError, "cannot be used")
    write_membership(server.membership, members.membership(federation="cd" * 16).sign(members.operator))
    refused(server, SiteError, "is the membership of another federation")


def test_flower_has_its_own_folder_and_our_programs_and_tells_nobody(server):
    environment = Service(server=server, port=1).environment()
    assert environment["FLWR_HOME"] == str(server.path / "run" / "flwr")
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"


def test_whether_a_server_is_up_is_asked_past_a_proxy_and_of_its_own_superlink_alone(
    server, tmp_path, ca, members, monkeypatch
):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(SiteError, match=r"the server is not up: run fedtrain server up .*/server"):
        running(server)
    (server.path / "run").mkdir()
    with pki.serving(tmp_path, pki.certificate_of(ca, *NAMES)) as port:
        (server.path / "run" / "port").write_text(str(port))
        assert running(server) == Service(server=server, port=port)
    with pytest.raises(SiteError, match=f"the server does not answer at 127.0.0.1:{port}"):
        running(server)
    with pki.serving(tmp_path, pki.certificate_of(pki.authority("another"), *NAMES)) as port:
        assert not Service(server=server, port=port).healthy()
    with pki.serving(tmp_path, pki.certificate_of(ca, *NAMES), status=503) as port:
        assert not Service(server=server, port=port).healthy()
    (server.path / "run" / "port").write_text("none")
    with pytest.raises(SiteError, match="the server is not up"):
        running(server)


def test_a_database_whose_making_was_stopped_is_made_anew_and_no_other(server):
    (server.path / "run").mkdir()
    parts = [server.database.with_name(f"superlink.db{suffix}") for suffix in ("", "-journal", "-wal", "-shm")]
    kept = server.database.with_name("superlink.db.kept")
    kept.write_bytes(b"a copy of the operator's")

    def start(error, *written):
        with new_database(server):
            found = [part.name for part in parts if part.exists()]
            for part in written:
                part.write_bytes(b"half")
            if error is not None:
                before.append(found)
                raise error
        return found

    # Whatever ends the first start, a kill too, which runs no code: all is left as it is here.
    before = []
    for error in (Stopped(), RunError("superlink does not start")):
        with pytest.raises(type(error)):
            start(error, *parts)
    assert before == [[], []]
    assert start(None, server.database) == []
    with pytest.raises(Stopped):
        start(Stopped())
    assert start(None) == ["superlink.db"]
    assert kept.exists()


def test_a_program_that_does_not_start_says_why_in_a_line_and_the_trace_is_in_its_log(tmp_path):
    failing = "def broken():\n    raise ValueError('planted')\nprint('begun')\nbroken()"
    with Processes(tmp_path) as processes:
        for name, command, why in (
            ("superlink", [sys.executable, "-c", failing], "ValueError: planted"),
            ("gateway", [sys.executable, "-c", "print('nginx: [emerg] no'), exit(1)"], r"nginx: \[emerg\] no"),
            ("superexec", [sys.executable, "-c", "exit(1)"], "it said nothing"),
        ):
            processes.start(name, command)
            message = f"^{name} does not start: {why}; all that it printed is in {tmp_path / name}.log$"
            with pytest.raises(RunError, match=message):
                awaited(lambda: False, processes, {name: 0})
    assert "Traceback" in (tmp_path / "superlink.log").read_text()
