from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.report import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "100.00 %"), (0.999999, "99.99 %"), (0.29, "29.00 %"), (0.98765, "98.76 %"), (0.0, "0.00 %")],
)
def test_a_percentage_is_rounded_down(value, text):
    assert numbers.percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0, "0"),
        (8.0, "8.00"),
        (0.1, "0.10"),
        (7.9901, "8.00"),
        (2.000000001, "2.01"),
        (0.000121, "0.00013"),
        (12345.6, "12345.60"),
        (9.999e15, "9999000000000000.00"),
        (1e16, "10¹⁶"),
        (1e300, "10³⁰⁰"),
    ],
)
def test_an_epsilon_is_rounded_up(value, text):
    assert numbers.upper(value) == text


@given(st.floats(min_value=0, max_value=1e15))
def test_an_epsilon_is_never_understated(value):
    shown = Decimal(numbers.upper(value))
    assert shown >= Decimal(repr(value))
    assert shown - Decimal(repr(value)) <= Decimal("0.01")


@given(st.floats(min_value=0, max_value=1))
def test_an_accuracy_is_never_overstated(value):
    shown = Decimal(numbers.percent(value).removesuffix(" %"))
    assert Decimal(0) <= 100 * Decimal(repr(value)) - shown < Decimal("0.01")


def test_an_error_is_rounded_up():
    assert [numbers.error(value) for value in (0.12341, 1234.5, 0.0)] == ["0.1235", "1,234.5000", "0.0000"]
    assert [numbers.error(value) for value in (1e300, -2e20)] == ["10³⁰⁰", "-2 \N{MULTIPLICATION SIGN} 10²⁰"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_can_be_shown(value):
    assert all(map(str.isprintable, (numbers.upper(abs(value)), numbers.error(value), numbers.exact(value))))
    assert numbers.duration(abs(value)).isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "10⁻⁵"),
        (0.0001, "10⁻⁴"),
        (0.00025, "2.5 \N{MULTIPLICATION SIGN} 10⁻⁴"),
        (0.001, "0.001"),
        (100.0, "100"),
        (0.0, "0"),
        (2.5e-6, "2.5 \N{MULTIPLICATION SIGN} 10⁻⁶"),
        (1.0853, "1.0853"),
        (8.0, "8"),
        (1e22, "10²²"),
        (3, "3"),
        (-0.5, "-0.5"),
    ],
)
def test_a_number_is_shown_as_it_is(value, text):
    assert numbers.exact(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0439, "43 ms"),
        (1.25, "1.2 s"),
        (59.99, "59.9 s"),
        (60.0, "1 min 00 s"),
        (3599.9, "59 min 59 s"),
        (90_000.0, "25 h 00 min"),
    ],
)
def test_a_duration_is_shown_in_its_largest_units(seconds, text):
    assert numbers.duration(seconds) == text


def test_a_count_of_one_is_singular():
    assert [numbers.counted(number, "round") for number in (0, 1, 1000)] == ["0 rounds", "1 round", "1,000 rounds"]


def test_a_long_text_is_cut_in_its_middle():
    assert numbers.short("abc", 3) == "abc"
    assert numbers.short("abcdefghijklmnop", 10) == "abcdef…nop"
    assert numbers.short("a\x00b\nc", 10) == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"


def test_a_text_can_do_nothing_but_show_itself():
    hostile = "a\x1b[2J\r\n\x07\u202eb\u2066\u2028\x9b\ud800\u200bc"
    replaced = "\N{REPLACEMENT CHARACTER}"
    shown = f"a{replaced}[2J{replaced * 4}b{replaced * 5}c"
    assert numbers.printable(hostile) == shown
    assert numbers.printable("a\nb\tc", kept="\n") == f"a\nb{replaced}c"
    assert numbers.short(hostile, 100) == shown
