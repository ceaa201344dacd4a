import resource
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fedtrain.crypto import Identity
from fedtrain.deployment.supernode import Guide
from fedtrain.errors import ForgeryError, KeyFileError, RunError
from fedtrain.health import directions as module
from fedtrain.health import ok
from fedtrain.health.directions import ask_directions
from fedtrain.health.node import node_checks
from fedtrain.machines import NodeFolder
from fedtrain.machines.following import follow, settle
from fedtrain.trust import Authority, Directions, Former
from tests.ports import free_port
from tests.unit.health import folders, pki

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@pytest.fixture
def node(tmp_path, members, ca):
    return folders.node_folder(tmp_path / "node", members, ca, address=f"127.0.0.1:{free_port()}")


def directed(members, ca, version, address, *former, until=NOW + DAY, signer=None, authorities=()):
    return Directions(
        federation=folders.ID,
        version=version,
        address=address,
        former=tuple(Former(address=one, until=until) for one in former),
        authorities=tuple(
            Authority(certificate=one.certificate.public_bytes(Encoding.PEM).decode()) for one in (ca, *authorities)
        ),
    ).sign(signer or members.operator)


@contextmanager
def full_disk():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def serving(tmp_path, ca, signed=None, **more):
    bodies = {} if signed is None else {"/directions": signed if isinstance(signed, bytes) else signed.line()}
    folder = tmp_path / f"served-{time.monotonic_ns()}"
    folder.mkdir()
    with pki.serving(folder, pki.certificate_of(ca, "127.0.0.1"), bodies=bodies, **more) as port:
        yield f"127.0.0.1:{port}"


def located(node, said=None):
    found = Guide(node, (said if said is not None else []).append).located()
    return found.federation.address


def test_without_directions_a_node_goes_where_its_kit_says(node, tmp_path, ca):
    assert located(node) == node.federation.address
    with serving(tmp_path, ca) as address:
        moved = NodeFolder(path=node.path, name=node.name, client=0, federation=node.federation)
        assert located(moved) == node.federation.address != address


def test_a_node_goes_to_the_newest_address_that_answers(node, members, ca, tmp_path):
    nowhere = f"127.0.0.1:{free_port()}"
    with serving(tmp_path, ca) as old:
        follow(node, directed(members, ca, 1, nowhere, old))
        assert located(node) == old  # the move is signed, and not made yet
        with serving(tmp_path, ca) as new:
            follow(node, directed(members, ca, 2, new, old))
            assert located(node) == new
        assert located(node) == old
        follow(node, directed(members, ca, 3, nowhere, old, until=NOW))
        assert located(node) == nowhere


def test_a_node_follows_what_its_server_shows_and_says_so_once(members, ca, tmp_path):
    with serving(tmp_path, ca) as new:
        with serving(tmp_path, ca, directed(members, ca, 5, new)) as old:
            node = folders.node_folder(tmp_path / "node", members, ca, address=old)
            said = []
            guide = Guide(node, said.append)
            assert guide.located().federation.address == guide.located().federation.address == new
        assert said == [f"the operator has directed this node to {new} (directions version 5)"]
        assert NodeFolder.open(node.path).federation.directions == 5


def test_a_node_follows_to_another_authority(members, ca, tmp_path):
    following = pki.authority("CA of the federation")  # with the name of the former one
    with serving(tmp_path, following) as new:
        both = directed(members, following, 1, new, authorities=(ca,))
        with serving(tmp_path, ca, both) as old:
            node = folders.node_folder(tmp_path / "node", members, ca, address=old)
            assert located(node) == new
            # A crash before the certificates were written.
            ca.write(node.ca)
            assert located(node) == new


@pytest.mark.parametrize(
    "shown",
    [
        lambda members, ca: directed(members, ca, 9, "evil.example:1", signer=members.server),
        lambda members, ca: directed(members, ca, 9, "evil.example:1", signer=Identity.generate()),
        lambda members, ca: directed(members, ca, 1, "evil.example:1"),  # older
        lambda members, ca: directed(members, ca, 2, "evil.example:1"),  # another of this version
        lambda members, _: members.membership().sign(members.operator),  # signed as something else
        lambda *_: b"no envelope",
        lambda *_: b"{" * (module.MOST_BYTES + 1),
    ],
)
def test_what_the_operator_did_not_sign_last_moves_nobody(node, members, ca, tmp_path, shown):
    with serving(tmp_path, ca, shown(members, ca)) as address:
        follow(node, directed(members, ca, 2, address))
        said = []
        guide = Guide(node, said.append)
        assert guide.located().federation.address == guide.located().federation.address == address
        assert len(said) == 1
        assert said[0].startswith(f"{address} shows directions that count for nothing: ")


def test_a_full_disk_keeps_no_node_from_its_server(members, ca, tmp_path):
    with serving(tmp_path, ca) as new:
        signed = directed(members, ca, 1, new, authorities=(pki.authority("next"),))
        with serving(tmp_path, ca, signed) as old:
            node = folders.node_folder(tmp_path / "node", members, ca, address=old)
            said = []
            guide = Guide(node, said.append)
            with full_disk():
                assert guide.located().federation.address == guide.located().federation.address == old
            assert len(said) == 1
            assert said[0].startswith("the directions of the operator are not taken over: cannot write ")
            # Full after the directions, and before the certificates.
            node.directions.write_bytes(signed.line())
            with full_disk():
                assert guide.located().federation.address == new
            assert node.ca.read_bytes().count(b"BEGIN") == 1
            assert guide.located().federation.address == new
        assert node.ca.read_bytes().count(b"BEGIN") == 2


def test_others_of_the_same_version_are_refused_as_those_of_an_older_copy_of_the_operators_folder(node, members, ca):
    follow(node, directed(members, ca, 2, "a:1"))
    with pytest.raises(ForgeryError, match=r"others of the same version: the operator has signed two.*older copy"):
        follow(node, directed(members, ca, 2, "b:1"))
    with pytest.raises(ForgeryError, match=r"are of version 1, and .* has others of version 2"):
        follow(node, directed(members, ca, 1, "b:1"))
    assert NodeFolder.open(node.path).federation.address == "a:1"


def test_two_that_follow_at_once_leave_the_newest_and_its_certificates(node, members, ca):
    signed = [
        directed(members, ca, version, "a:1", authorities=(pki.authority(f"{version}"),)) for version in (1, 2, 3)
    ]

    def take(envelope):
        with suppress(ForgeryError):
            follow(node, envelope)

    threads = [threading.Thread(target=take, args=(one,)) for one in signed]
    threads += [threading.Thread(target=settle, args=(node,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert NodeFolder.open(node.path).federation.directions == 3
    assert node.ca.read_bytes() == Directions.verify(signed[2], members.operator.public).certificates


def test_only_a_trusted_authority_is_asked(node, members, ca, tmp_path):
    with serving(tmp_path, pki.authority("another"), directed(members, ca, 9, "evil.example:1")) as address:
        follow(node, directed(members, ca, 2, address))
        with pytest.raises(RunError, match="is not reached"):
            ask_directions(NodeFolder.open(node.path).federation, node.ca)
        assert located(node) == address
    node.ca.unlink()
    with pytest.raises(KeyFileError):
        ask_directions(node.federation, node.ca)


def test_a_redirection_leads_nowhere(node, members, ca, tmp_path):
    elsewhere = {"/elsewhere": directed(members, ca, 9, "evil.example:1").line()}
    issued = pki.certificate_of(ca, "127.0.0.1")
    with pki.serving(tmp_path, issued, statuses={"/directions": 302}, bodies=elsewhere) as port:
        follow(node, directed(members, ca, 2, f"127.0.0.1:{port}"))
        assert ask_directions(NodeFolder.open(node.path).federation, node.ca) is None


def test_an_answer_that_does_not_end_is_not_waited_for(monkeypatch, members, ca, tmp_path):
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        held = []
        threading.Thread(target=lambda: held.append(silent.accept()), daemon=True).start()
        federation = members.federation(f"127.0.0.1:{silent.getsockname()[1]}")
        ca.write(tmp_path / "ca.pem")
        with pytest.raises(RunError, match=r"no whole answer within 0\.3 s"):
            ask_directions(federation, tmp_path / "ca.pem")
        reading = threading.active_count()
        with pytest.raises(RunError, match="still gives the answer before, and does not end it"):
            ask_directions(federation, tmp_path / "ca.pem")
        assert threading.active_count() <= reading  # and no connection more, ask as often as it likes
        for connection, _ in held:
            connection.close()


def test_a_name_that_cannot_be_one_is_not_reached(members, ca, tmp_path):
    ca.write(tmp_path / "ca.pem")
    for address in (f"{'a' * 70}.example:1", "-.-:1", "..:1"):
        with pytest.raises(RunError, match="is not reached"):
            ask_directions(members.federation(address), tmp_path / "ca.pem")


def checks_of(node):
    found = {}
    for check in node_checks(NodeFolder.open(node.path), asked_ok):
        if check.name in {"directions", "address", "registered", "CA", "site file"}:
            found.setdefault(check.name, []).append((check.status, check.detail))
        if check.name == "site file":
            return found
    return found


def asked_ok(node):
    return ok("registered", node.federation.address)


def test_the_doctor_tells_of_both_addresses(node, members, ca, tmp_path):
    nowhere = f"127.0.0.1:{free_port()}"
    with serving(tmp_path, ca) as old, serving(tmp_path, ca) as new:
        follow(node, directed(members, ca, 1, new, old, authorities=(pki.authority("next"),)))
        found, end = checks_of(node), f"{NOW + DAY:%Y-%m-%d}"
        assert found["directions"] == [
            ("ok", f"version 1, signed by the operator: the server is at {new}; {old} is also tried until {end}")
        ]
        assert found["address"] == [
            ("ok", f"a former address, {old}, is reached, too; this node connects to {new}"),
        ]
        assert found["registered"] == [("ok", new)]
        assert [status for status, _ in found["CA"]] == ["ok"]
        follow(node, directed(members, ca, 2, nowhere, old))
        found = checks_of(node)
        assert found["address"][0][0] == "warns"
        assert f"the newest address, {nowhere}, is not reached (TCP: " in found["address"][0][1]
        assert found["registered"] == [("ok", old)]
    found = checks_of(node)
    assert found["directions"][1][0] == "warns"
    assert f"run: fedtrain client follow {node.path} directions.json" in found["directions"][1][1]
    ca.write(node.ca.with_name("other.pem"))
    node.ca.write_bytes(b"")
    assert checks_of(node)["directions"][0][0] == "fails"
