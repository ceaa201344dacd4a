import numpy as np
import pytest

from fedtrain.errors import KeyFileError
from fedtrain.ledger import dataset_digest, dataset_key

KEY = bytes(range(32))
RNG = np.random.default_rng(5)
FEATURES = RNG.normal(size=(20, 3, 2)).astype(np.float32)
LABELS = RNG.integers(0, 10, size=20)


def test_the_order_of_the_records_does_not_matter():
    order = RNG.permutation(20)
    assert dataset_digest(FEATURES[order], LABELS[order], KEY) == dataset_digest(FEATURES, LABELS, KEY)


def test_how_the_numbers_lie_in_memory_does_not_matter():
    expected = dataset_digest(FEATURES, LABELS, KEY)
    for features in (np.asfortranarray(FEATURES), FEATURES.astype(">f4"), np.repeat(FEATURES, 2, axis=0)[::2]):
        assert dataset_digest(features, LABELS.astype(">i8"), KEY) == expected
    FEATURES.flags.writeable = False
    assert dataset_digest(FEATURES, LABELS, KEY) == expected


def test_any_other_content_is_another_data_set():
    changed = FEATURES.copy()
    changed[7, 1, 1] = np.nextafter(changed[7, 1, 1], 9)
    relabelled = LABELS.copy()
    relabelled[3] += 1
    swapped = LABELS[[1, 0, *range(2, 20)]]
    digests = [
        dataset_digest(FEATURES, LABELS, KEY),
        dataset_digest(changed, LABELS, KEY),
        dataset_digest(FEATURES, relabelled, KEY),
        dataset_digest(FEATURES, swapped, KEY) if LABELS[0] != LABELS[1] else "same",
        dataset_digest(FEATURES[:-1], LABELS[:-1], KEY),
        dataset_digest(np.concatenate([FEATURES, FEATURES[:1]]), np.concatenate([LABELS, LABELS[:1]]), KEY),
        dataset_digest(FEATURES.reshape(20, 2, 3), LABELS, KEY),
        dataset_digest(FEATURES.astype(np.float64), LABELS, KEY),
        dataset_digest(FEATURES, LABELS, KEY[::-1]),
        dataset_digest(FEATURES[:0], LABELS[:0], KEY),
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests if digest != "same")


def test_bytes_do_not_move_between_features_and_labels():
    features = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    labels = np.array([[5], [6]], dtype=np.uint8)
    joined = np.concatenate([features, labels], axis=1)
    assert dataset_digest(joined[:, :1], joined[:, 1:], KEY) != dataset_digest(features, labels, KEY)


def test_what_is_no_data_set_is_refused():
    for features, labels in ((FEATURES, LABELS[1:]), (np.array(1.0), LABELS), (FEATURES, np.array(1))):
        with pytest.raises(ValueError, match="as many rows"):
            dataset_digest(features, labels, KEY)
    with pytest.raises(ValueError, match="not numbers"):
        dataset_digest(np.array(["a", 1], dtype=object), LABELS[:2], KEY)


def test_a_key_is_made_once(tmp_path):
    path = tmp_path / "node" / "dataset.key"
    key = dataset_key(path)
    assert dataset_key(path) == key == path.read_bytes()
    assert len(key) == 32
    assert dataset_key(tmp_path / "other.key") != key


def test_a_file_that_holds_no_key_is_refused(tmp_path):
    path = tmp_path / "dataset.key"
    path.write_bytes(bytes(31))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="has 31 bytes, and a key has 32"):
        dataset_key(path)
