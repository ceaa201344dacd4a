"""Numbers as people read them, never kinder than they are.

What is good is rounded down (accuracy), what is bad is rounded up (epsilon, errors). A float is taken as its shortest
decimal form, which is the number that ``report.json`` holds.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Literal

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SMALLEST_POWER, _LARGEST_POWER = -4, 16  # numbers between them are written out; floats beyond are whole numbers
_MINUTE, _HOUR = 60, 3600
_QUOTES = dict.fromkeys(map(ord, "“”„‟"), "'")


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with two decimals, rounded down."""
    return f"{(Decimal(repr(fraction)) * 100).quantize(Decimal('0.01'), ROUND_FLOOR)} %"


def upper(value: float) -> str:
    """Return a number that is not negative with two decimals, or two digits if it is small, rounded up.

    A very large one is returned as it is, as by `exact`.
    """
    number = Decimal(repr(value))
    if number.adjusted() >= _LARGEST_POWER:
        return exact(value)
    places = max(2, 1 - number.adjusted()) if number else 0
    return f"{number.quantize(Decimal(1).scaleb(-places), ROUND_CEILING):f}"


def error(value: float) -> str:
    """Return a loss or an error with four decimals, rounded up; a very large one as it is, as by `exact`."""
    number = Decimal(repr(value))
    if number.adjusted() >= _LARGEST_POWER:
        return exact(value)
    return f"{number.quantize(Decimal('0.0001'), ROUND_CEILING):,f}"


def score(value: float) -> str:
    """Return a number of which more is better with four decimals, rounded down; a very large one as by `exact`."""
    number = Decimal(repr(value))
    if number.adjusted() >= _LARGEST_POWER:
        return exact(value)
    return f"{number.quantize(Decimal('0.0001'), ROUND_FLOOR):,f}"


def achieved(value: float, direction: Literal["higher", "lower"]) -> str:
    """Return a measurement with four decimals, rounded to what is worse."""
    return score(value) if direction == "higher" else error(value)


def measured(value: float, direction: Literal["higher", "lower"], form: Literal["percent", "number"]) -> str:
    """Return a measurement, rounded to what is worse."""
    if form == "percent":
        return percent(value) if direction == "higher" else f"{error(100 * value)} %"
    return achieved(value, direction)


def between(lower: float, upper: float, form: Literal["percent", "number"]) -> str:
    """Return an interval, its ends rounded so that it is no narrower than it is."""
    if form == "percent":
        above = (Decimal(repr(upper)) * 100).quantize(Decimal("0.01"), ROUND_CEILING)
        return f"{percent(lower).removesuffix(' %')} to {above} %"
    return f"{score(lower)} to {error(upper)}"


def exact(value: float) -> str:
    """Return a number as it is, with a power of ten where it is very small or very large."""
    number = Decimal(repr(value)).normalize()
    exponent = number.adjusted()
    if not number or _SMALLEST_POWER < exponent < _LARGEST_POWER:
        return f"{number:f}"
    power = f"10{str(exponent).translate(_SUPERSCRIPT)}"
    digits = f"{number.scaleb(-exponent):f}"
    return power if digits == "1" else f"{digits} \N{MULTIPLICATION SIGN} {power}"


def count(number: int) -> str:
    """Return a whole number with thousands separated."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """Return a count with what is counted, such as "1 round" and "1,000 rounds"."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 1:
        return f"{int(1000 * seconds)} ms"
    if seconds < _MINUTE:
        return f"{int(10 * seconds) / 10} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE):02d} s"
    return f"{int(seconds // _HOUR):,} h {int(seconds % _HOUR // _MINUTE):02d} min"


def printable(text: str, *, kept: str = "") -> str:
    """Return a text that only shows itself, wherever it is from: on a terminal it can neither move nor hide others.

    Control characters, line breaks, marks that turn the direction of writing, lone surrogates and all else that is not
    printable is replaced, but for the characters in ``kept``.
    """
    return "".join(letter if letter.isprintable() or letter in kept else "\N{REPLACEMENT CHARACTER}" for letter in text)


def shown(value: object) -> object:
    """Return what a page is about to show, a text so that it only shows itself. Our own markup is as it was."""
    return printable(value, kept="\n\N{NO-BREAK SPACE}") if type(value) is str else value


def quoted(text: str) -> str:
    """Return what somebody else says, so that a reader sees where it begins and ends. It cannot end its own quotation.

    >>> quoted("two wards")
    '“two wards”'
    """
    return f"“{text.translate(_QUOTES)}”"


def short(text: str, limit: int) -> str:
    """Return a text that fits and is printable: the middle is left out where it is too long."""
    if len(text) > limit:
        tail = (limit - 1) // 3
        text = f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"
    return printable(text)
