import itertools
import shutil
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from fedtrain.crypto import Identity
from fedtrain.errors import ConfigError, FedtrainError, KeyFileError, SiteError, StorageError
from fedtrain.ledger import read_policy
from fedtrain.machines import Federation, NodeFolder, ServerFolder, read_membership
from fedtrain.provision.certificates import hosts_of
from fedtrain.provision.operator import OperatorFolder
from fedtrain.trust import Roster
from tests.killing import killed_after
from tests.unit.provision.conftest import NOW, create

SECRET = {"operator.pem", "ca.key", "server/identity.pem", "server/server.key"}


def files(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def open_again(operator):
    return OperatorFolder.open(operator.path)


def check_copies(operator):
    """Check that all that says who belongs to the federation says the same."""
    operator = open_again(operator)
    version = operator.membership.version
    assert read_membership(operator.server.membership, operator.federation)[0] == operator.membership
    rosters = [Roster.read(file) for file in sorted((operator.path / "rosters").glob("[0-9]*.json"))]
    assert len(rosters) == version
    assert rosters[-1] == operator.membership.roster
    assert Identity.load(operator.server.identity).public == operator.membership.roster.server
    certificate = load_pem_x509_certificate(operator.server.certificate.read_bytes())
    key = load_pem_private_key(operator.server.certificate_key.read_bytes(), None)
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(load_pem_x509_certificate((operator.path / "ca.pem").read_bytes()))


def test_a_federation_has_its_secrets_where_only_its_operator_reads_them(operator):
    content = files(operator.path)
    assert {name for name, data in content.items() if b"PRIVATE KEY" in data} == SECRET
    assert {(operator.path / name).stat().st_mode & 0o777 for name in SECRET} == {0o600}
    assert operator.path.stat().st_mode & 0o777 == operator.server.path.stat().st_mode & 0o777 == 0o700
    assert set(content) == SECRET | {
        "federation.json",
        "membership.json",
        "nodes.json",
        "ca.pem",
        "rosters/000001.json",
        "server/federation.json",
        "server/membership.json",
        "server/ca.pem",
        "server/server.crt",
    }
    check_copies(operator)
    assert operator.membership.version == 1
    assert dict(operator.membership.names) == {}


def test_the_servers_folder_is_one(operator):
    server = ServerFolder.open(operator.server.path)
    assert server.federation == operator.federation == Federation.read(operator.path)
    assert hosts_of(server.certificate.read_bytes()) == ("fl.example.org", "localhost", "127.0.0.1")


def test_further_names_are_on_the_certificate(tmp_path):
    operator = create(tmp_path / "federation", address="[fd00::1]:9443", names=("10.1.2.3", "other"))
    assert hosts_of(operator.server.certificate.read_bytes()) == (
        "fd00::1",
        "10.1.2.3",
        "other",
        "localhost",
        "127.0.0.1",
    )


def test_two_federations_have_nothing_in_common(operator, tmp_path):
    other = create(tmp_path / "other")
    assert operator.federation.id != other.federation.id
    secrets = [(one.path / name).read_bytes() for one in (operator, other) for name in SECRET]
    assert len(set(secrets)) == 2 * len(SECRET)


def test_a_folder_that_is_there_is_not_written_over(operator):
    before = files(operator.path)
    with pytest.raises(ConfigError, match="is there already"):
        create(operator.path)
    assert files(operator.path) == before


@pytest.mark.parametrize(
    "changes",
    [{"address": "fl.example.org"}, {"address": "a..b:80"}, {"names": ("a b",)}, {"address": "h:0"}],
)
def test_a_federation_that_cannot_be_leaves_nothing(tmp_path, changes):
    with pytest.raises(ConfigError):
        create(tmp_path / "federation", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((StorageError, ConfigError), match="cannot make"):
        create(tmp_path / "file" / "federation")


def test_a_kit_has_no_secret_and_all_that_a_node_needs(operator):
    kit = operator.add("north")
    assert sorted(files(kit)) == ["ca.pem", "federation.json", "membership.json", "node.json", "site.toml"]
    secrets = b"".join((operator.path / name).read_bytes() for name in SECRET).splitlines()
    for data in files(kit).values():
        assert b"PRIVATE" not in data
        assert not set(data.splitlines()) & {line for line in secrets if not line.startswith(b"-")}
    node = NodeFolder.open(kit)
    assert (node.name, node.client, node.federation) == ("north", 0, operator.federation)
    assert read_membership(node.membership, node.federation)[0] == operator.membership
    policy = read_policy(node.site)
    assert (policy.modes, policy.noise, policy.sealed, policy.secagg) == (("record",), ("secure",), True, True)


def test_names_and_numbers_are_given_once(operator, request_of):
    for number, name in enumerate(["north", "south", "east"]):
        operator = open_again(operator)
        assert NodeFolder.open(operator.add(name)).client == number
    request = request_of("east")
    open_again(operator).admit(request, rotate=False)
    open_again(operator).revoke("east")
    with pytest.raises(ConfigError, match="names are not given twice"):
        open_again(operator).add("east")
    assert NodeFolder.open(open_again(operator).add("west")).client == 3


@pytest.mark.parametrize("name", ["", "North", "a_b", "../a", "a" * 64, "a\n", "-a"])
def test_a_malformed_name_is_refused(operator, name):
    with pytest.raises(ConfigError, match="is not a name of a node"):
        operator.add(name)
    assert not (operator.path / "kits").exists()


def test_a_kit_that_became_a_node_is_not_deleted(operator):
    kit = operator.add("north")
    Identity.load_or_create(kit / "identity.pem")
    (operator.path / "nodes.json").write_bytes(b"{}\n")
    with pytest.raises(ConfigError, match="holds the keys of a node"):
        open_again(operator).add("north")
    assert (kit / "identity.pem").exists()


def test_a_node_is_admitted_once(operator, request_of):
    request = request_of("north")
    membership = open_again(operator).admit(request, rotate=False)
    assert membership.version == 2
    assert (membership.names, membership.supernodes) == ({0: "north"}, {0: request.supernode})
    assert membership.roster.clients == {0: request.identity}
    assert open_again(operator).admit(request, rotate=False) == membership == open_again(operator).membership
    check_copies(operator)


def test_other_keys_of_a_member_are_not_taken_unasked(operator, request_of):
    first, second = request_of("north"), request_of("north")
    open_again(operator).admit(first, rotate=False)
    with pytest.raises(ConfigError, match="--rotate"):
        open_again(operator).admit(second, rotate=False)
    assert open_again(operator).membership.version == 2
    membership = open_again(operator).admit(second, rotate=True)
    assert membership.roster.clients == {0: second.identity}
    check_copies(operator)


def test_a_revoked_node_is_gone_and_can_come_back_with_its_number_and_other_keys(operator, request_of):
    north, south = request_of("north"), request_of("south")
    for request in (north, south):
        open_again(operator).admit(request, rotate=False)
    membership = open_again(operator).revoke("north")
    assert (membership.version, membership.names, set(membership.supernodes)) == (4, {1: "south"}, {1})
    assert set(membership.roster.clients) == {1}
    for name in ("north", "nobody"):
        with pytest.raises(ConfigError, match=f"{name} is not a member; members: south"):
            open_again(operator).revoke(name)
    # Keys may have been revoked because somebody stole them.
    for rotate in (False, True):
        with pytest.raises(ConfigError, match="keys that were revoked or replaced before"):
            open_again(operator).admit(north, rotate=rotate)
    assert open_again(operator).admit(request_of("north"), rotate=False).names == {0: "north", 1: "south"}
    check_copies(operator)


def test_an_old_request_does_not_bring_replaced_keys_back(operator, request_of):
    old, new = request_of("north"), request_of("north")
    open_again(operator).admit(old, rotate=False)
    open_again(operator).admit(new, rotate=True)
    with pytest.raises(ConfigError, match="keys that were revoked or replaced before"):
        open_again(operator).admit(old, rotate=True)


def test_a_request_to_another_federation_or_of_an_unknown_node_is_refused(operator, request_of):
    request = request_of("north")
    with pytest.raises(ConfigError, match="to another federation"):
        open_again(operator).admit(replace(request, federation="ab" * 16), rotate=False)
    for changes in ({"name": "south"}, {"client": 1}):
        with pytest.raises(ConfigError, match=r"was not added; added: north \(0\)"):
            open_again(operator).admit(replace(request, **changes), rotate=False)


def test_a_key_that_another_has_is_refused(operator, request_of):
    north, south = request_of("north"), request_of("south")
    open_again(operator).admit(north, rotate=False)
    server = operator.membership.roster.server
    for changes in ({"identity": north.identity}, {"supernode": north.supernode}, {"identity": server}):
        with pytest.raises(ConfigError, match="would not hold"):
            open_again(operator).admit(replace(south, **changes), rotate=False)
    assert open_again(operator).membership.version == 2


def test_numbers_older_than_the_membership_are_refused(operator, request_of):
    before = (operator.path / "nodes.json").read_bytes()
    request = request_of("north")
    open_again(operator).admit(request, rotate=False)
    for older in (before, b'{"north": 1}'):
        (operator.path / "nodes.json").write_bytes(older)
        with pytest.raises(SiteError, match=r"does not have the members north \(0\) under their numbers"):
            open_again(operator)


def test_a_folder_from_an_older_copy_goes_on_from_what_the_server_has(operator, request_of, tmp_path):
    shutil.copytree(operator.path, copy := tmp_path / "copy")
    north, south = request_of("north"), request_of("south")
    open_again(operator).admit(north, rotate=False)
    older = OperatorFolder.open(copy)
    older.add("south")
    assert OperatorFolder.open(copy).nodes == {"south": 0}  # the number of north, which the copy does not know
    shutil.copy(operator.server.membership, copy / "membership.json")
    with pytest.raises(SiteError, match=r"does not have the members north \(0\) under their numbers"):
        OperatorFolder.open(copy)
    (copy / "nodes.json").write_bytes((operator.path / "nodes.json").read_bytes())
    restored = OperatorFolder.open(copy).admit(south, rotate=False)
    assert (restored.version, restored.names) == (3, {0: "north", 1: "south"})


def test_the_server_gets_another_certificate_for_the_names_of_the_one_before(operator):
    certificate, key = operator.server.certificate.read_bytes(), operator.server.certificate_key.read_bytes()
    assert operator.rotate_server(names=("other",), days=9, identity=False, now=NOW) == operator.membership
    assert operator.server.certificate.read_bytes() != certificate
    assert operator.server.certificate_key.read_bytes() != key
    check_copies(operator)
    operator.rotate_server(names=("10.1.2.3",), days=9, identity=False, now=NOW)
    hosts = hosts_of(operator.server.certificate.read_bytes())
    assert set(hosts) == {"fl.example.org", "other", "10.1.2.3", "localhost", "127.0.0.1"}


def test_the_server_gets_another_identity_if_asked(operator, request_of):
    before = operator.membership.roster.server
    request = request_of("north")
    open_again(operator).admit(request, rotate=False)
    membership = open_again(operator).rotate_server(names=(), days=9, identity=True, now=NOW)
    assert membership.version == 3
    assert membership.roster.server != before
    assert membership.names == {0: "north"}
    check_copies(operator)


def test_without_the_servers_folder_members_change_and_certificates_do_not(operator, request_of, tmp_path):
    request = request_of("north")
    operator.server.path.rename(tmp_path / "elsewhere")
    assert open_again(operator).admit(request, rotate=False).version == 2
    assert not operator.server.path.exists()
    with pytest.raises(SiteError, match="moved to the server's machine"):
        open_again(operator).rotate_server(names=(), days=9, identity=False, now=NOW)
    assert open_again(operator).warnings(now=NOW) == []


def test_a_lost_server_is_replaced_by_another(operator, request_of):
    request = request_of("north")
    former = open_again(operator).admit(request, rotate=False).roster.server
    shutil.rmtree(operator.server.path)
    membership = open_again(operator).rotate_server(names=("other",), days=9, identity=True, now=NOW)
    server = ServerFolder.open(operator.server.path)
    assert server.path.stat().st_mode & 0o777 == 0o700
    assert Identity.load(server.identity).public == membership.roster.server != former
    assert hosts_of(server.certificate.read_bytes()) == (operator.federation.host, "other", "localhost", "127.0.0.1")
    assert server.ca.read_bytes() == (operator.path / "ca.pem").read_bytes()
    assert read_membership(server.membership, server.federation)[0] == membership
    assert list(membership.names.values()) == ["north"]
    check_copies(open_again(operator))


def test_an_interrupted_replacement_of_a_lost_server_is_repeated(operator, tmp_path):
    def replace(path):
        OperatorFolder.open(path).rotate_server(names=(), days=9, identity=True, now=NOW)

    shutil.rmtree(operator.server.path)
    for copy in interrupted(operator.path, tmp_path, replace):
        replace(copy)
        opened = OperatorFolder.open(copy)
        check_copies(opened)
        assert Identity.load(opened.server.identity).public == opened.membership.roster.server


def test_a_servers_folder_that_cannot_be_made_is_refused(operator):
    shutil.rmtree(operator.server.path)
    operator.server.path.write_bytes(b"not a folder")
    with pytest.raises(SiteError, match=r"cannot read .*server\.crt"):
        operator.rotate_server(names=(), days=9, identity=True, now=NOW)
    operator.server.path.unlink()
    operator.server.path.symlink_to(operator.path / "nowhere")
    with pytest.raises(StorageError, match="cannot make"):
        operator.rotate_server(names=(), days=9, identity=True, now=NOW)


def test_certificates_that_end_soon_are_warned_of(operator):
    assert operator.warnings(now=NOW) == []
    operator.rotate_server(names=(), days=29, identity=False, now=NOW)
    (warning,) = operator.warnings(now=NOW)
    assert warning.startswith("the server's certificate expires on ")
    assert warning.endswith(f"; run: fedtrain provision rotate-server {operator.path}")
    (operator.path / "ca.pem").write_bytes(b"damaged")
    damaged, _ = operator.warnings(now=NOW)
    assert damaged.startswith("the certificate of the CA cannot be read")
    assert damaged.endswith(f"; run: fedtrain provision renew-ca {operator.path}")


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("federation.json", b"{}", "cannot be used"),
        ("operator.pem", b"", "operator.pem"),
        ("membership.json", b"{}\n", "cannot be used"),
        ("nodes.json", b"[]", "nodes.json"),
        ("nodes.json", b"{", "nodes.json"),
        ("nodes.json", b'{"north": null}', "nodes.json"),
    ],
)
def test_a_damaged_folder_is_refused(operator, file, data, message):
    (operator.path / file).write_bytes(data)
    with pytest.raises((SiteError, KeyFileError), match=message):
        OperatorFolder.open(operator.path)


@pytest.mark.parametrize("file", ["federation.json", "operator.pem", "membership.json", "nodes.json"])
def test_a_folder_with_a_file_missing_is_refused(operator, file):
    (operator.path / file).unlink()
    with pytest.raises((SiteError, KeyFileError), match=file):
        OperatorFolder.open(operator.path)


def test_the_operators_key_must_be_the_one_that_nodes_pin(operator):
    (operator.path / "operator.pem").unlink()
    Identity.load_or_create(operator.path / "operator.pem")
    with pytest.raises(SiteError, match="is not the key that"):
        OperatorFolder.open(operator.path)


@pytest.mark.parametrize(
    ("file", "damage"),
    [("ca.pem", b"damaged"), ("ca.pem", None), ("ca.key", b"damaged"), ("ca.key", None), ("server/server.crt", b"bad")],
)
def test_a_certificate_is_not_issued_with_damaged_files(operator, file, damage):
    if damage is None:
        (operator.path / file).unlink()
    else:
        (operator.path / file).write_bytes(damage)
    before = operator.server.certificate_key.read_bytes()
    with pytest.raises((SiteError, KeyFileError)):
        open_again(operator).rotate_server(names=(), days=9, identity=True, now=NOW)
    assert operator.server.certificate_key.read_bytes() == before


def test_a_kit_that_cannot_be_written_numbers_nobody(operator):
    (operator.path / "kits").write_bytes(b"not a folder")
    with pytest.raises(StorageError, match="cannot write the kit"):
        operator.add("north")
    assert open_again(operator).nodes == {}


def interrupted(path, tmp_path, command):
    """Kill a command at each of its steps, on a copy each time; yield each copy."""
    for step in itertools.count():
        copy = tmp_path / f"copy-{step}"
        if path is not None:
            shutil.copytree(path, copy)
        with killed_after(step, tmp_path) as killed:
            command(copy)
        yield copy
        if not killed:
            assert step > 3
            return


def test_a_federation_is_made_whole_or_not_at_all(tmp_path):
    for copy in interrupted(None, tmp_path, create):
        if not copy.exists():
            create(copy)
        check_copies(OperatorFolder.open(copy))


def test_an_interrupted_kit_is_made_again(operator, tmp_path):
    for copy in interrupted(operator.path, tmp_path, lambda path: OperatorFolder.open(path).add("north")):
        if "north" not in OperatorFolder.open(copy).nodes:
            OperatorFolder.open(copy).add("north")
        assert NodeFolder.open(copy / "kits" / "north").client == 0
        assert OperatorFolder.open(copy).nodes == {"north": 0}
        read_policy(copy / "kits" / "north" / "site.toml")


def test_an_interrupted_admission_is_repeated(operator, tmp_path, request_of):
    request = request_of("north")
    for copy in interrupted(
        operator.path, tmp_path, lambda path: OperatorFolder.open(path).admit(request, rotate=False)
    ):
        assert OperatorFolder.open(copy).admit(request, rotate=False).version == 2
        check_copies(OperatorFolder.open(copy))


def test_an_interrupted_revocation_is_repeated(operator, tmp_path, request_of):
    request = request_of("north")
    open_again(operator).admit(request, rotate=False)
    for copy in interrupted(operator.path, tmp_path, lambda path: OperatorFolder.open(path).revoke("north")):
        if OperatorFolder.open(copy).membership.names:
            OperatorFolder.open(copy).revoke("north")
        assert OperatorFolder.open(copy).membership.version == 3
        check_copies(OperatorFolder.open(copy))


def test_an_interrupted_change_of_the_servers_keys_is_repeated(operator, tmp_path):
    def rotate(path):
        OperatorFolder.open(path).rotate_server(names=("other",), days=9, identity=True, now=NOW)

    for copy in interrupted(operator.path, tmp_path, rotate):
        # Whatever was reached, the membership names the key that the server has.
        opened = OperatorFolder.open(copy)
        assert Identity.load(opened.server.identity).public == opened.membership.roster.server
        rotate(copy)
        check_copies(OperatorFolder.open(copy))
        assert "other" in hosts_of(opened.server.certificate.read_bytes())


def test_errors_show_no_key(operator):
    secret = (operator.path / "ca.key").read_bytes().splitlines()[1]
    (operator.path / "ca.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\n" + secret)
    with pytest.raises(FedtrainError) as caught:
        operator.rotate_server(names=(), days=9, identity=False, now=NOW)
    assert secret.decode() not in str(caught.value)
    assert secret.decode() not in repr(operator)
