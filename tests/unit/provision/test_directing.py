import shutil
import ssl
from datetime import timedelta

import pytest
from cryptography import x509

from fedtrain.errors import ConfigError, SiteError
from fedtrain.machines import Federation, NodeFolder, read_directions
from fedtrain.machines.following import follow
from fedtrain.provision.certificates import hosts_of
from fedtrain.provision.directing import begin_renewal, finish_renewal, readdress
from fedtrain.provision.operator import OperatorFolder
from tests.killing import killed_after
from tests.unit.provision.conftest import NOW

DAY = timedelta(days=1)


def again(operator):
    return OperatorFolder.open(operator.path)


def moved(operator, address, *, grace=30, now=NOW):
    return readdress(again(operator), address, grace=grace * DAY, days=90, now=now)


def issuer_works(operator, trusted):
    """Say whether the server's certificate is by one of the authorities in a file."""
    certificate = x509.load_pem_x509_certificate(operator.server.certificate.read_bytes())
    for authority in x509.load_pem_x509_certificates(trusted):
        try:
            certificate.verify_directly_issued_by(authority)
        except Exception:  # noqa: BLE001 - of whatever kind
            continue
        return True
    return False


def test_a_move_reaches_every_folder_and_the_certificate_names_both_hosts(operator):
    operator.add("north")
    directions = moved(operator, "fl.example.net:9444")
    assert (directions.version, directions.address) == (1, "fl.example.net:9444")
    assert [(one.address, one.until - NOW.replace(microsecond=0)) for one in directions.former] == [
        ("fl.example.org:9443", 30 * DAY)
    ]
    found = again(operator)
    assert {"fl.example.org", "fl.example.net"} <= set(hosts_of(found.server.certificate.read_bytes()))
    for folder in (operator.path, operator.path / "server", operator.kit("north")):
        federation = Federation.read(folder)
        assert (federation.address, federation.directions) == ("fl.example.net:9444", 1)
        assert [route.address for route in federation.routes(NOW)] == ["fl.example.net:9444", "fl.example.org:9443"]
        assert [route.address for route in federation.routes(NOW + 31 * DAY)] == ["fl.example.net:9444"]
    assert (operator.kit("north") / "ca.pem").read_bytes() == (operator.path / "ca.pem").read_bytes()
    later = found.add("south")
    assert Federation.read(later).address == "fl.example.net:9444"
    assert read_directions(later / "directions.json", found.federation)[0] == directions


def test_moves_in_a_row_keep_the_addresses_within_their_grace(operator):
    moved(operator, "a:1", grace=30)
    moved(operator, "b:2", grace=10, now=NOW + DAY)
    assert [one.address for one in moved(operator, "c:3", grace=0, now=NOW + 12 * DAY).former] == [
        "fl.example.org:9443"
    ]
    back = moved(operator, "fl.example.org:9443", now=NOW + 13 * DAY)
    assert (back.version, [one.address for one in back.former]) == (4, ["c:3"])
    assert moved(operator, "d:4", now=NOW + 60 * DAY).former[0].address == "fl.example.org:9443"


@pytest.mark.parametrize(
    "address", ["fl.example.org:9443", "fl.example.net", "fl:0", "fl:65536", "a b:1", "-:1", "[cafe]:1", "[10.0.0.5]:1"]
)
def test_what_is_no_other_address_is_refused_and_nothing_is_signed(operator, address):
    before = operator.server.certificate.read_bytes()
    with pytest.raises(ConfigError):
        moved(operator, address)
    assert not (operator.path / "directions.json").exists()
    assert operator.server.certificate.read_bytes() == before


def test_a_move_needs_the_servers_certificate(operator):
    operator.server.certificate.unlink()
    with pytest.raises(SiteError, match=r"bring server\.crt back first"):
        moved(operator, "fl.example.net:9444")
    assert not (operator.path / "directions.json").exists()


def test_another_server_in_the_place_of_a_lost_one_is_known_where_the_former_was(operator):
    moved(operator, "fl.example.net:9444", grace=30)
    shutil.rmtree(operator.server.path)
    again(operator).rotate_server(names=(), days=30, identity=True, now=NOW + DAY)
    assert {"fl.example.org", "fl.example.net"} <= set(hosts_of(operator.server.certificate.read_bytes()))
    shutil.rmtree(operator.server.path)
    again(operator).rotate_server(names=(), days=30, identity=True, now=NOW + 31 * DAY)
    assert "fl.example.org" not in hosts_of(operator.server.certificate.read_bytes())


def test_a_renewal_needs_the_folder_that_its_files_are_carried_from(operator):
    shutil.rmtree(operator.server.path)
    with pytest.raises(SiteError, match=r"there is no .*/server, .*bring server\.crt back"):
        begin_renewal(again(operator), grace=DAY, now=NOW)
    assert not (operator.path / "ca.new.pem").exists()
    assert not (operator.path / "directions.json").exists()


def test_an_authority_is_renewed_in_two_steps_that_a_node_follows(operator, tmp_path):
    former = (operator.path / "ca.pem").read_bytes()
    node = shutil.copytree(operator.add("north"), tmp_path / "north")
    with pytest.raises(ConfigError, match="is not being renewed"):
        finish_renewal(again(operator), days=90, now=NOW)

    begun = begin_renewal(again(operator), grace=90 * DAY, now=NOW)
    assert begun.authorities[1].certificate.encode() == former
    assert begun.authorities[1].retires == (NOW + 90 * DAY).replace(microsecond=0)
    assert (operator.path / "ca.pem").read_bytes() == former
    follow(NodeFolder.open(node), begun.sign(operator.operator))
    assert (node / "ca.pem").read_bytes() == begun.certificates == (operator.server.path / "ca.pem").read_bytes()
    assert len(ssl.create_default_context(cafile=node / "ca.pem").get_ca_certs()) == 2
    again(operator).rotate_server(names=(), days=30, identity=False, now=NOW)
    assert issuer_works(operator, former)
    with pytest.raises(ConfigError, match="is being renewed already"):
        begin_renewal(again(operator), grace=90 * DAY, now=NOW)
    moved(operator, "fl.example.net:9444")
    assert len(again(operator).directions.authorities) == 2

    finished = finish_renewal(again(operator), days=90, now=NOW + DAY)
    assert [one.certificate for one in finished.authorities] == [begun.authorities[0].certificate]
    assert issuer_works(operator, begun.certificates)
    assert not issuer_works(operator, former)
    assert (operator.path / "ca.pem").read_bytes() == finished.certificates != former
    assert not (operator.path / "ca.new.key").exists()
    assert (operator.path / "ca.key").stat().st_mode & 0o777 == 0o600
    assert again(operator).trusted == (again(operator).add("south") / "ca.pem").read_bytes() == finished.certificates


def test_a_renewal_does_not_outlast_the_former_authority(operator):
    end = x509.load_pem_x509_certificate((operator.path / "ca.pem").read_bytes()).not_valid_after_utc
    begun = begin_renewal(again(operator), grace=10_000 * DAY, now=NOW)
    assert begun.authorities[1].retires == end


def test_an_operator_is_warned_half_a_year_before_and_when_the_overlap_ends(operator):
    end = x509.load_pem_x509_certificate((operator.path / "ca.pem").read_bytes()).not_valid_after_utc
    (operator.server.certificate).unlink()
    (warning,) = operator.warnings(now=end - 179 * DAY)
    assert warning.endswith(f"run: fedtrain provision renew-ca {operator.path}")
    begin_renewal(again(operator), grace=90 * DAY, now=NOW)
    assert again(operator).warnings(now=NOW + 89 * DAY) == []
    (warning,) = again(operator).warnings(now=NOW + 91 * DAY)
    assert warning.endswith("--finish")


def test_between_two_authorities_the_operator_is_told_to_finish(operator):
    begin_renewal(again(operator), grace=DAY, now=NOW)
    (operator.path / "ca.new.key").replace(operator.path / "ca.key")  # killed there
    with pytest.raises(SiteError, match=r"was interrupted: go on with fedtrain provision renew-ca .* --finish"):
        moved(operator, "fl.example.net:9444")
    with pytest.raises(SiteError, match="was interrupted"):
        again(operator).rotate_server(names=(), days=30, identity=False, now=NOW)
    finished = finish_renewal(again(operator), days=90, now=NOW)
    assert issuer_works(operator, finished.certificates)
    moved(operator, "fl.example.net:9444")


@pytest.mark.parametrize("step", [3, 5, 8, 13])
def test_killed_while_it_moves_or_renews_the_operator_goes_on(operator, tmp_path, step):
    with killed_after(step, tmp_path):
        moved(operator, "fl.example.net:9444")
    if again(operator).federation.directions == 0:
        moved(operator, "fl.example.net:9444")
    with killed_after(step, tmp_path):
        begin_renewal(again(operator), grace=90 * DAY, now=NOW)
    if len(again(operator).directions.authorities) == 1:
        begin_renewal(again(operator), grace=90 * DAY, now=NOW)
    with killed_after(step, tmp_path):
        finish_renewal(again(operator), days=90, now=NOW)
    if len(again(operator).directions.authorities) == 2:
        finish_renewal(again(operator), days=90, now=NOW)
    found = again(operator)
    assert issuer_works(found, found.trusted)
    assert (found.server.path / "ca.pem").read_bytes() == found.trusted == (found.path / "ca.pem").read_bytes()
    assert Federation.read(found.server.path).address == "fl.example.net:9444"
