import hmac

import pytest

from fedtrain.crypto import canonical, derive


def hkdf(secret, info, length):
    """Derive as RFC 5869 says, without a salt."""
    key = hmac.digest(bytes(32), secret, "sha256")
    block, output, number = b"", b"", 1
    while len(output) < length:
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
        number += 1
    return output[:length]


def test_the_reference_is_that_of_rfc_5869_appendix_a_3():
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == expected


@pytest.mark.parametrize("length", [1, 16, 32, 33, 64, 200])
@pytest.mark.parametrize("context", [(), ("one",), ("one", 2), ("größe", 2**53 - 1)])
def test_it_is_hkdf_with_purpose_and_context_as_info(length, context):
    info = canonical(["fedtrain", "purpose", *context])
    assert derive(b"secret of at least 16", "purpose", *context, length=length) == hkdf(
        b"secret of at least 16", info, length
    )


def test_no_two_purposes_or_contexts_are_one():
    subjects = [
        ("a",),
        ("ab",),
        ("a", "b"),
        ("a", "b", "c"),
        ("a", "bc"),
        ("a", 1),
        ("a", "1"),
        ("a", 1, 2),
        ("a", 12),
        ('a","b',),
    ]
    assert len({derive(bytes(32), *subject) for subject in subjects}) == len(subjects)
    assert derive(bytes(32), "a") != derive(bytes(31), "a")
