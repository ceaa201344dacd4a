import pytest

from fedtrain.crypto import decrypt_once, encrypt_once
from fedtrain.crypto.onetime import TAG_BYTES
from fedtrain.errors import TransportError

KEY = bytes(range(32))


@pytest.mark.parametrize("plaintext", [b"", b"plaintext", bytes(100_000)])
def test_what_is_encrypted_is_decrypted(plaintext):
    ciphertext = encrypt_once(KEY, plaintext, b"context")
    assert len(ciphertext) == len(plaintext) + TAG_BYTES
    assert plaintext == b"" or plaintext not in ciphertext
    assert decrypt_once(KEY, ciphertext, b"context") == plaintext
    assert decrypt_once(KEY, memoryview(ciphertext), b"context") == plaintext
    assert encrypt_once(KEY, memoryview(plaintext), b"context") == ciphertext


def test_another_key_or_context_does_not_decrypt_it():
    ciphertext = encrypt_once(KEY, b"plaintext", b"context")
    for key, context in ((KEY, b"Context"), (KEY, b""), (KEY[::-1], b"context")):
        with pytest.raises(TransportError, match="changed, or encrypted for another occasion or under another key"):
            decrypt_once(key, ciphertext, context)


def test_every_changed_byte_and_every_other_length_is_refused():
    ciphertext = encrypt_once(KEY, b"plaintext", b"context")
    size = len(ciphertext)
    changed = [ciphertext[:place] + bytes([ciphertext[place] ^ 1]) + ciphertext[place + 1 :] for place in range(size)]
    for other in (*changed, *(ciphertext[:length] for length in range(size)), ciphertext + b"\0"):
        with pytest.raises(TransportError, match="changed"):
            decrypt_once(KEY, other, b"context")


def test_an_error_shows_nothing_of_the_key():
    with pytest.raises(TransportError) as caught:
        decrypt_once(KEY, bytes(16), b"")
    assert caught.value.__cause__ is None
    assert KEY.hex() not in str(caught.value)
