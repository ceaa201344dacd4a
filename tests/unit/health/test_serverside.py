import pytest

from fedtrain.crypto import Identity
from fedtrain.health.serverside import server_checks
from fedtrain.machines import write_membership
from tests.ports import free_port
from tests.unit.health import folders, pki
from tests.unit.health.pki import DAY


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def server(tmp_path, members, ca, address):
    return folders.server_folder(tmp_path / "server", members, ca, address=address)


def statuses(server):
    # nginx and the space on the disk are this machine's, and tested on their own.
    return {check.name: check.status for check in server_checks(server) if check.name not in {"nginx", "disk"}}


def test_a_server_in_order_that_is_down(server):
    expected = ["versions", "permissions", "folder", "database", "identity", "membership", "admitted", "CA"]
    expected += ["certificate", "chain", "names", "TLS key", "DNS", "port", "SuperLink"]
    assert statuses(server) == dict.fromkeys(expected, "ok")


def faults(server):
    return {name for name, status in statuses(server).items() if status != "ok"}


def test_no_certificate(server):
    server.certificate.unlink()
    assert faults(server) == {"certificate"}


def test_an_expired_certificate_of_another_ca_for_another_name(server, address):
    other = pki.authority("another", ends=10 * DAY)
    issued = pki.certificate_of(other, "fl.example.org", begins=-3 * DAY, ends=-DAY)
    issued.write(server.certificate)
    assert faults(server) == {"certificate", "chain", "names", "TLS key"}
    other.write(server.ca)
    assert faults(server) == {"CA", "certificate", "names", "TLS key"}


def test_an_identity_that_nobody_knows(server, members):
    folders.secret(server.identity, folders.pem_key(Identity.generate()))
    assert faults(server) == {"admitted"}
    server.identity.chmod(0o644)
    assert faults(server) == {"identity"}


def test_a_membership_by_somebody_else(server, members):
    write_membership(server.membership, members.membership().sign(Identity.generate()))
    assert faults(server) == {"membership"}


def test_a_name_that_this_machine_does_not_know_is_no_failure(tmp_path, members, ca):
    server = folders.server_folder(tmp_path / "server", members, ca, address="fl.invalid:39443")
    assert statuses(server)["DNS"] == "warns"
