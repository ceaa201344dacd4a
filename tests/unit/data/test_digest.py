"""A digest that is kept is that of the records, or it is not used."""

import os

import numpy as np
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data import open_simulated
from fedtrain.data.cache import kept_digest
from fedtrain.ledger import dataset_digest

KEY = bytes(range(32))


@pytest.fixture
def records():
    return np.arange(6000, dtype=np.float32).reshape(2000, 3), np.arange(2000) % 5


@pytest.fixture
def source(tmp_path):
    """Write an archive of 2,200 records, and return what opens client 0's part of it."""

    def write(value=0.0, **fields):
        x = np.arange(4400, dtype=np.float32).reshape(2200, 2)
        x[5, 1] += value
        np.savez(tmp_path / "train.npz", x=x, y=np.arange(2200) % 4)
        np.savez(tmp_path / "test.npz", x=x[:4], y=np.arange(4))

    def part(clients=2, **partition):
        paths = {"path": str(tmp_path / "train.npz"), "test_path": str(tmp_path / "test.npz")}
        data = Data(source="npz", cache=str(tmp_path / "decoded"), partition=Partition(**partition), **paths)
        store, parts = open_simulated(data, clients=clients, seed=0)
        rows = parts.indices(0)
        return store.train.features[rows], store.train.targets[rows]

    write()
    return write, part


def files(tmp_path):
    """Which files there are; one that is written anew is another."""
    return {path.name: path.stat().st_ino for path in (tmp_path / "digests").iterdir()}


def kept(tmp_path, records, key=KEY):
    return kept_digest(tmp_path / "digests", *records, key)


def test_it_is_computed_once_and_is_the_digest_of_the_ledger(tmp_path, records):
    first, before = kept(tmp_path, records), files(tmp_path)
    assert first == kept(tmp_path, records) == dataset_digest(*records, KEY)
    assert files(tmp_path) == before
    assert len(before) == 1


def test_a_few_records_leave_no_file(tmp_path):
    records = np.zeros((999, 2)), np.zeros(999)
    assert kept(tmp_path, records) == dataset_digest(*records, KEY)
    assert not (tmp_path / "digests").exists()


def test_it_takes_whatever_records_a_ledger_takes(tmp_path):
    labels = np.arange(1000)
    for features in (np.zeros((1000, 0)), np.asfortranarray(np.ones((1000, 2))), np.ones((1000, 2), dtype=">f4")):
        assert kept(tmp_path, (features, labels)) == dataset_digest(features, labels, KEY)


def changed(features, targets):
    yield features[1:], targets[1:]
    yield features[::-1], targets[::-1]
    other = features.copy()
    other[1234, 1] += 1
    yield other, targets
    yield features, (targets + 1) % 5
    yield features.reshape(2000, 3, 1), targets
    yield features.view(np.int32), targets
    yield features, targets.astype(np.int32)


def test_other_records_are_never_given_it(tmp_path, records):
    kept(tmp_path, records)
    for other in changed(*records):
        assert kept(tmp_path, other) == dataset_digest(*other, KEY)


def test_another_client_is_never_given_it(tmp_path, records):
    assert kept(tmp_path, records) != kept(tmp_path, records, KEY[::-1]) == dataset_digest(*records, KEY[::-1])


def cut(content, _other):
    return content[:-1]


def emptied(_content, _other):
    return b""


def edited(content, _other):
    return bytes([content[0] ^ 1]) + content[1:]


def exchanged(_content, other):
    return other


def no_text(_content, _other):
    return b"\xff\xfe" * 70


@pytest.mark.parametrize("damage", [cut, emptied, edited, exchanged, no_text])
def test_a_file_that_was_tampered_with_is_not_believed(tmp_path, records, damage):
    kept(tmp_path, records)
    (path,) = (tmp_path / "digests").iterdir()
    other = records[0] + 1, records[1]
    kept(tmp_path, other)
    (second,) = {*(tmp_path / "digests").iterdir()} - {path}
    path.write_bytes(damage(path.read_bytes(), second.read_bytes()))
    damaged = path.stat().st_ino
    assert kept(tmp_path, records) == dataset_digest(*records, KEY)
    assert path.stat().st_ino != damaged
    assert path.read_bytes().startswith(dataset_digest(*records, KEY).encode())


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path, records):
    (tmp_path / "digests").write_text("in the way")
    assert kept(tmp_path, records) == dataset_digest(*records, KEY)


def test_an_edited_source_file_has_a_digest_of_its_own(tmp_path, source):
    write, part = source
    before = kept(tmp_path, part(clients=1))
    write(value=0.25)
    after = part(clients=1)
    assert kept(tmp_path, after) == dataset_digest(*after, KEY) != before


def test_an_edited_cache_file_has_a_digest_of_its_own_even_with_its_old_time(tmp_path, source):
    _, part = source
    before = kept(tmp_path, part(clients=1))
    (file,) = (tmp_path / "decoded").glob("npz-*/train_features.npy")
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = part(clients=1)
    assert kept(tmp_path, after) == dataset_digest(*after, KEY) != before


def test_a_truncated_cache_file_is_decoded_again_and_has_the_digest_as_before(tmp_path, source):
    _, part = source
    before, found = kept(tmp_path, part(clients=1)), files(tmp_path)
    (file,) = (tmp_path / "decoded").glob("npz-*/train_features.npy")
    file.write_bytes(file.read_bytes()[:-7])
    assert kept(tmp_path, part(clients=1)) == before
    assert files(tmp_path) == found


def test_another_split_has_a_digest_of_its_own(tmp_path, source):
    _, part = source
    settings = ({}, {"clients": 1}, {"kind": "pathological", "classes_per_client": 2}, {"kind": "dirichlet"})
    splits = [part(**setting) for setting in settings]
    digests = [kept(tmp_path, split) for split in splits]
    assert digests == [dataset_digest(*split, KEY) for split in splits]
    assert len(set(digests)) == len(settings)
