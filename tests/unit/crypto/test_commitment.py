from hashlib import sha256

import pytest

from fedtrain.crypto import commit, nonce_of

DIGEST, NONCE = "ab" * 32, bytes(range(32))


def test_a_commitment_is_the_digest_of_all_that_it_binds():
    expected = sha256(b"fedtrain update commitment v1\n" + NONCE + bytes.fromhex(DIGEST)).hexdigest()
    assert commit(DIGEST, NONCE) == expected


def test_it_tells_nothing_without_the_nonce():
    assert commit(DIGEST, NONCE) != commit(DIGEST, bytes(32)) != DIGEST
    assert commit(DIGEST, NONCE) != commit("cd" * 32, NONCE)


def test_a_nonce_is_the_same_for_the_same_subject_and_key():
    subject = ["run", 3, {"rate": 0.5}]
    assert nonce_of(NONCE, subject) == nonce_of(NONCE, list(subject))
    assert len(nonce_of(NONCE, subject)) == 32
    others = {nonce_of(bytes(32), subject), nonce_of(NONCE, ["run", 4, {"rate": 0.5}])}
    assert len({nonce_of(NONCE, subject), *others}) == 3


def test_what_is_not_a_digest_is_refused():
    with pytest.raises(ValueError, match="hex"):
        commit("not hexadecimal", NONCE)
