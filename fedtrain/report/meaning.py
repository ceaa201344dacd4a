"""What the numbers of a claim mean, in sentences for a person who decides.

Each sentence is true for every value that a report may have. A relation that is said of a number is that of the number
as the sentence shows it, which is rounded as people read it.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

from fedtrain.privacy.spec import counted_of, covered_by
from fedtrain.report.numbers import count, exact, upper
from fedtrain.report.privacy import Privacy

_FAR = Decimal("0.01")  # a delta times the number it is held against that is far below one
_PLAIN_EPSILON = 20  # beyond it the factor e^epsilon means nothing to a reader
_WHOLE_FROM = 100  # a factor from which on parts of one mean nothing to a reader
_MANY = 10**15  # a number that is written as a power of ten
_EXACT = Context(prec=40, rounding=ROUND_CEILING)


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What an epsilon that a reader can imagine permits.

    Attributes:
        factor: e to the power of the epsilon as it is shown, rounded up.
        guess: the largest probability, in percent and rounded up, of being right about whether a unit was used, for
            somebody to whom both were equally likely before: (e^epsilon + delta) / (1 + e^epsilon), Kairouz, Oh and
            Viswanath 2015.
    """

    factor: str
    guess: str


def factor(privacy: Privacy) -> Factor | None:
    """Return what an epsilon permits; ``None`` without one, and where it is too large to mean anything to a reader."""
    if privacy.epsilon is None or privacy.delta is None or privacy.epsilon > _PLAIN_EPSILON:
        return None
    value, delta = Decimal(upper(privacy.epsilon)).exp(_EXACT), Decimal(repr(privacy.delta))
    shown = value.quantize(Decimal("0.01") if value < _WHOLE_FROM else Decimal(1), ROUND_CEILING)
    guess = min(_EXACT.divide(_EXACT.add(value, delta), _EXACT.add(value, 1)), Decimal(1))
    return Factor(factor=f"{shown:,f}", guess=f"{(100 * guess).quantize(Decimal('0.01'), ROUND_CEILING)} %")


def population(privacy: Privacy) -> tuple[str, str]:
    """Return what delta is held against, and how many there are: a count, or about what public constants imply."""
    assert privacy.mechanism is not None
    assert privacy.unit is not None
    (counted, implied), number = counted_of(privacy.unit), privacy.mechanism.population
    if not implied:
        return counted, _people(number)
    return f"{counted}, by {implied}", f"about {_people(number)}, not counted"


def meaning_of_delta(privacy: Privacy) -> str:
    """Return how small delta is; nothing without privacy. What public constants imply is no count, and is called so."""
    if privacy.delta is None or privacy.mechanism is None or privacy.unit is None:
        return ""
    delta, (counted, implied) = Decimal(repr(privacy.delta)), counted_of(privacy.unit)
    number = Decimal(repr(privacy.mechanism.population))
    rounded = Decimal(max(1, round(number)))
    alike = relation(delta, rounded) == relation(delta, number)
    shown, against = (_people(float(rounded)), rounded) if alike else (exact(float(number)), number)
    how = relation(delta, against)
    if not implied:
        return f"It is {how} one in the number of {counted}, which is {shown}.{_excess(how)}"
    least = float((1 / delta).quantize(Decimal(1), ROUND_CEILING)) if delta > Decimal(1) / _MANY else float(1 / delta)
    return (
        f"It is {how} one in about {shown}: so many {counted} are what {implied} implies. These are public constants, "
        f"and nobody's records were counted.{_excess(how)} For a client with {_people(least)} records or more, delta "
        "is not below one in their number, and too large."
    )


def relation(delta: Decimal, number: Decimal) -> str:
    """Return how a delta compares with one in a number.

    >>> relation(Decimal("0.001"), Decimal(462)), relation(Decimal("0.00001"), Decimal(462))
    ('below', 'far below')
    """
    product = delta * number
    if product >= 1:
        return "not below"
    return "far below" if product <= _FAR else "below"


def _excess(how: str) -> str:
    if how != "not below":
        return ""
    return " That is too large: publishing one of them at random, as it is, would keep such a delta."


def _people(number: float) -> str:
    """Return a number of people or records as a whole one; a very large one as it is."""
    return count(round(number)) if number < _MANY else exact(number)


def group(privacy: Privacy) -> str:
    """Return what one unit covers, and what the guarantee is for two of them together.

    The definition applied twice: P <= e^epsilon (e^epsilon P'' + delta) + delta, so that for two units epsilon is twice
    as large, and delta 1 + e^epsilon times.
    """
    if privacy.unit is None or privacy.epsilon is None or privacy.delta is None:
        return ""
    what = covered_by(privacy.unit)
    double = Decimal(upper(privacy.epsilon)) * 2 if privacy.epsilon <= _PLAIN_EPSILON else None
    if double is None:
        return what
    delta = _EXACT.multiply(Decimal(repr(privacy.delta)), _EXACT.add((double / 2).exp(_EXACT), 1))
    if delta >= 1:
        return f"{what} For two together this epsilon and delta guarantee nothing."
    return f"{what} For two together epsilon is at most {double} and delta {upper(float(delta))}."


def second_opinion(privacy: Privacy) -> str:
    """Return how the second opinion compares with the claim and the budget, and what it means; nothing without one."""
    found = {accountant.role: accountant.epsilon for accountant in privacy.accountants}
    if "second opinion" not in found:
        return ""
    claim, opinion = found["claim"], found["second opinion"]
    text = (
        "Each accountant computes an upper bound on the same epsilon. The claim does not rest on the others: the "
        "second opinion, computed in another way, can show an error of one program. "
    )
    if opinion == claim:
        return f"{text}The two are equal."
    difference = Decimal(repr(opinion)) - Decimal(repr(claim))
    apart = upper(float(abs(difference)))
    if difference < 0:
        return f"{text}The second opinion is lower, by at most {apart}: the claim is the more careful of the two."
    text += f"The second opinion is higher, by at most {apart}: it is the coarser bound, or the claim is too low."
    if privacy.budget is not None and claim <= privacy.budget < opinion:
        text += (
            f" It is also above the budget of {exact(privacy.budget)}, and the claim is not: the noise was chosen by "
            "the accountant of the claim, and the budget is kept if that is right."
        )
    return f"{text} The audit says whether the two agree as closely as they should."
