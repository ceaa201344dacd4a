import math

import pytest

from fedtrain.errors import TransportError
from fedtrain.secagg.fields import Reader


def reader(value):
    return Reader("the message", {"name": value})


CASES = [
    (lambda r: r.whole("name"), [0, 2**53 - 1], [-1, 2**53, True, 1.0, "1", None, b"1"]),
    (lambda r: r.number("name"), [0.5, -1e300], [1, math.inf, math.nan, "1", None]),
    (
        lambda r: r.hexadecimal("name", 2),
        ["00ff"],
        ["00f", "00FF", "00f\n", "00fff", b"00ff", "0x0f", "", None, "\u0660" * 4],
    ),
    (lambda r: r.data("name", 2), [b"", b"12"], [b"123", "1", None, bytearray(1)]),
    (lambda r: r.all_data("name", 2, 1), [[], [b"1", b""]], [[b""] * 3, [b"12"], ["1"], (b"1",), b"1", None]),
    (
        lambda r: r.clients("name", 2),
        [[], [0, 7]],
        [[1, 1], [2, 1], [1, 2, 3], [-1], [True], [1.0], (1,), None, [2**53]],
    ),
]


@pytest.mark.parametrize(("read", "good", "bad"), CASES)
def test_a_field_has_one_type_and_bounds(read, good, bad):
    for value in good:
        one = reader(value)
        taken = read(one)
        assert taken == (tuple(value) if isinstance(value, list) else value)
        one.end()
    for value in bad:
        with pytest.raises(TransportError, match="the message cannot be used: name is not"):
            read(reader(value))


def test_a_field_is_there_once_and_no_other_is():
    one = reader(1)
    with pytest.raises(TransportError, match="the message cannot be used: unknown field 'name'"):
        one.end()
    assert one.whole("name") == 1
    with pytest.raises(TransportError, match="there is no field 'name'"):
        one.whole("name")
    with pytest.raises(TransportError, match="unknown field '7'"):
        Reader("the message", {7: 1}).end()


def test_the_rest_is_taken_once():
    one = reader(1)
    assert one.rest() == {"name": 1}
    assert one.rest() == {}
    one.end()
