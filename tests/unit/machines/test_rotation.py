import itertools
import shutil

import pytest

from fedtrain.crypto import Identity
from fedtrain.deployment.supernode import check_node
from fedtrain.errors import FedtrainError, KeyFileError, LedgerError, SiteError, StorageError
from fedtrain.machines import Federation, NodeFolder
from fedtrain.machines.request import make_keys, read_request, supernode_public
from fedtrain.machines.rotation import rotate
from tests.killing import killed_after
from tests.unit.ledger.conftest import DATASET, Place

OTHER = "e" * 64


@pytest.fixture
def node(tmp_path):
    """Return a node with keys, a ledger on which was spent, a statement on another, and the files of a session."""
    federation = Federation(id="0" * 32, address="fl.example.org:9443", operator=Identity.generate().public)
    folder = tmp_path / "node"
    folder.mkdir()
    node = NodeFolder(path=folder, name="north", client=3, federation=federation)
    node.write()
    make_keys(node)
    place = Place(folder=folder / "ledgers", identity=Identity.load(node.identity))
    with place.open() as ledger:
        for number in (1, 2, 3):
            place.reserve(ledger, number)
    with place.open(dataset=OTHER) as ledger:
        place.state(ledger, 5)
    (folder / "sessions" / "run").mkdir(parents=True)
    (folder / "sessions" / "run" / "secret").write_bytes(b"of the old identity")
    (folder / "dataset.key").write_bytes(b"k" * 32)
    return node


def held(node):
    """Return all that is in a node's folder, but for locks and what a killed write left."""
    return {
        str(path.relative_to(node.path)): path.read_bytes()
        for path in node.path.rglob("*")
        if path.is_file() and path.suffix not in {".lock", ".tmp"}
    }


def private_keys(node):
    return {name: data for name, data in held(node).items() if b"PRIVATE KEY" in data}


def check_changed(node, before):
    """Check that a change of keys is done, and that nothing was lost in it."""
    identity = Identity.load(node.identity)
    old = before["identity"]
    assert identity.public != old.public
    assert supernode_public(node) != before["supernode"]
    request = read_request(node.request)
    assert (request.identity, request.supernode) == (identity.public, supernode_public(node))
    assert (request.name, request.client) == ("north", 3)
    assert set(private_keys(node)) == {"identity.pem", "supernode.pem"}
    assert not set(private_keys(node).values()) & set(before["keys"].values())
    assert not (node.path / "sessions").exists()
    assert not node.rotation.exists()
    place = Place(folder=node.path / "ledgers", identity=identity)
    with place.open() as ledger:
        assert [entry.round for entry in ledger.entries] == [1, 2, 3]
    with place.open(dataset=OTHER) as ledger, pytest.raises(LedgerError, match="did not train in round 5"):
        place.reserve(ledger, 5)
    retired = node.path / "retired" / old.public.key_id
    with Place(folder=retired, identity=old).open() as ledger:
        assert [entry.round for entry in ledger.entries] == [1, 2, 3]
    assert (node.path / "dataset.key").read_bytes() == b"k" * 32
    assert {path.stat().st_mode & 0o777 for path in (node.identity, node.supernode_key)} == {0o600}


def known(node):
    return {
        "identity": Identity.load(node.identity),
        "supernode": supernode_public(node),
        "keys": private_keys(node),
    }


def test_a_node_gets_new_keys_and_its_ledgers_go_on(node):
    before = known(node)
    request = rotate(node)
    check_changed(node, before)
    assert request == read_request(node.request)


def test_a_second_name_of_an_old_key_goes_with_it(node):
    """Making a key links it into its place; killed in between, its first name stays."""
    for key in (node.identity, node.supernode_key):
        key.with_name(f".{key.name}.0123456789ab.tmp").hardlink_to(key)
    rotate(node)
    assert list(node.path.glob(".*.tmp")) == []


def test_a_second_change_follows_the_first(node):
    first = known(node)["identity"]
    rotate(node)
    before = known(node)
    rotate(node)
    check_changed(node, before)
    assert {path.name for path in (node.path / "retired").iterdir()} == {
        first.public.key_id,
        before["identity"].public.key_id,
    }


def copies(node, tmp_path):
    for step in itertools.count():
        folder = tmp_path / f"copy-{step}"
        shutil.copytree(node.path, folder)
        copy = NodeFolder.open(folder)
        yield step, copy, known(copy)


def test_killed_at_any_step_it_is_finished_by_beginning_it_again(node, tmp_path):
    for step, copy, before in copies(node, tmp_path):
        with killed_after(step, tmp_path) as killed:
            rotate(copy)
        if not killed:
            break
        if copy.rotation.exists() or copy.rotated.exists():
            for refused in (check_node, make_keys):
                with pytest.raises(SiteError, match="fedtrain client rotate"):
                    refused(copy)
        rotate(copy)
        check_changed(copy, before)
        assert len(list((copy.path / "retired").iterdir())) == 1
    assert step > 40


def test_a_node_whose_old_keys_are_not_deleted_waits_for_that(node, tmp_path):
    waited = 0
    for step, copy, before in copies(node, tmp_path):
        with killed_after(step, tmp_path) as killed:
            rotate(copy)
        if not killed:
            break
        if not copy.rotated.exists():
            continue
        waited += 1
        done = Identity.load(copy.identity).public
        with pytest.raises(SiteError, match="fedtrain client rotate"):
            make_keys(copy)
        assert rotate(copy).identity == done
        check_changed(copy, before)
        # Only now is there a next change of keys.
        assert rotate(copy).identity == make_keys(copy).identity != done
    assert waited > 1


def test_killed_twice_it_is_finished_all_the_same(node, tmp_path):
    for step, copy, before in copies(node, tmp_path):
        with killed_after(step, tmp_path) as killed:
            rotate(copy)
        if not killed:
            break
        with killed_after(step % 7, tmp_path) as killed:
            rotate(copy)
        if killed:
            rotate(copy)
        check_changed(copy, before)
        assert len(list((copy.path / "retired").iterdir())) == 1


def test_private_keys_are_in_one_place_whenever_it_is_killed(node, tmp_path):
    for step, copy, before in copies(node, tmp_path):
        with killed_after(step, tmp_path) as killed:
            rotate(copy)
        if not killed:
            break
        old = set(before["keys"].values())
        assert not (copy.rotation.exists() and not old <= set(private_keys(copy).values()))
        rotate(copy)
        everything = b"".join(path.read_bytes() for path in copy.path.rglob("*") if path.is_file())
        assert everything.count(b"PRIVATE KEY-----") == 4  # where two keys begin and end


@pytest.mark.parametrize("file", ["identity.pem", "supernode.pem"])
def test_a_node_whose_key_is_missing_is_left_as_it_is(node, file):
    (node.path / file).unlink()
    before = held(node)
    with pytest.raises(KeyFileError, match=file):
        rotate(node)
    assert held(node) == before
    assert not node.rotation.exists()


def test_a_damaged_ledger_keeps_the_old_keys_until_it_is_restored(node):
    before = known(node)
    file = node.path / "ledgers" / f"{DATASET}.jsonl"
    good = file.read_bytes()
    file.write_bytes(good.replace(b'"sig":"', b'"sig":"A', 1))
    with pytest.raises(LedgerError, match="damaged"):
        rotate(node)
    assert set(before["keys"].values()) <= set(private_keys(node).values())
    file.write_bytes(good)
    rotate(node)
    check_changed(node, before)


def test_a_key_that_something_else_put_in_between_is_refused(node):
    file = node.path / "ledgers" / f"{DATASET}.jsonl"
    good = file.read_bytes()
    file.write_bytes(b"damaged\n")
    with pytest.raises(FedtrainError):
        rotate(node)
    file.write_bytes(good)
    Identity.load_or_create(node.identity)
    with pytest.raises(KeyFileError, match="something wrote it in between"):
        rotate(node)
    node.identity.unlink()
    rotate(node)
    assert Identity.load(node.identity).public == read_request(node.request).identity


def test_what_the_disk_refuses_is_said(node):
    (node.path / "retired").write_bytes(b"not a folder")
    with pytest.raises(StorageError, match="goes on from here"):
        rotate(node)
    (node.path / "retired").unlink()
    rotate(node)
