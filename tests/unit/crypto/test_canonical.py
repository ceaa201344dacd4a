import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.crypto import canonical, is_canonical

numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


def loads(data):
    """Read JSON as RFC 8785 does: a number that an integer does not hold exactly is a double."""
    return json.loads(data, parse_int=lambda text: int(text) if abs(float(text)) < 2**53 else float(text))


@given(values)
def test_the_canonical_form_is_one_and_holds_the_value(value):
    data = canonical(value)
    assert loads(data) == value
    assert canonical(loads(data)) == data


@given(values)
def test_the_quick_check_says_what_the_encoder_says(value):
    for data in (
        canonical(value),
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(),
        json.dumps(value, separators=(",", ":")).encode(),
    ):
        assert is_canonical(data) == (canonical(loads(data)) == data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" 1",
        b"1\n",
        b"1.0",
        b"-0",
        b"-0.0",
        b"1e5",
        b"1E5",
        b"1e-05",
        b"0.10",
        b"1e400",
        b"NaN",
        b"[1, 2]",
        b"[Infinity]",
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":2,"a":1}',
        b'"\\u0041"',
        b'"\\/"',
        b'"\\u000F"',
        b'"\\ud800"',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"9007199254740993",
        b"-9007199254740993",
        b"9" * 5000,
        b"[" * 100_000,
        b"[1]x",
    ],
)
def test_any_other_form_is_seen(data):
    assert not is_canonical(data)


@pytest.mark.parametrize(
    "data",
    [
        b"1",
        b"-1",
        b"0.5",
        b"0.00001",
        b"1e-7",
        b"1e+21",
        b"100",
        b"9007199254740991",
        b"9007199254740992",
        b"-295147905179352830000",
        b"{}",
        '"ö€"'.encode(),
        b'"\\u000f"',
    ],
)
def test_the_canonical_form_is_accepted(data):
    assert is_canonical(data)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 2**53, -(2**53), "\ud800", {"\ud800": 1}, {1: 2}, object(), b"x", {1}]
)
def test_what_is_not_json_is_refused(value):
    with pytest.raises(ValueError, match=r"."):
        canonical({"value": [value]})


def test_what_is_nested_too_deeply_is_refused():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="too deeply"):
        canonical(value)
