"""What a report says of its numbers is true of these numbers, whatever they are."""

import re
from decimal import Context, Decimal
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.report import Accountant, Mechanism, Privacy
from fedtrain.report.meaning import factor, group, meaning_of_delta, population, relation, second_opinion

SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
DELTAS = st.one_of(st.floats(1e-12, 0.999), st.sampled_from([1e-3, 1e-5, 0.1, 0.5, 1 / 462, 1 / 461.5, 1e-300]))
POPULATIONS = st.one_of(
    st.floats(1e-3, 1e9), st.integers(1, 10**7).map(float), st.sampled_from([461.53846153846155, 0.3, 1e18])
)
EPSILONS = st.one_of(st.floats(0, 40), st.sampled_from([0.0, 7.501, 20.0, 20.000001, 1e-9]))


def claim(*, unit="record", epsilon=1.0, delta=1e-5, number=400.0, budget=None, opinion=None):
    """Give the part of a claim that is put into words, unchecked: what a hostile report may say."""
    accountants = [("claim", epsilon)] if opinion is None else [("claim", epsilon), ("second opinion", opinion)]
    return Privacy.model_construct(
        unit=unit,
        epsilon=epsilon,
        delta=delta,
        budget=budget,
        mechanism=Mechanism.model_construct(population=number),
        accountants=tuple(Accountant.model_construct(role=role, epsilon=value) for role, value in accountants),
    )


def number_in(text):
    """Read a number as a person would."""
    found = re.fullmatch(r"([\d,.]+)?(?: \N{MULTIPLICATION SIGN} )?(?:10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", text)
    assert found, text
    mantissa = Decimal(found[1].replace(",", "")) if found[1] else Decimal(1)
    return mantissa * Decimal(10) ** int((found[2] or "⁰").translate(SUPERSCRIPT))


@given(delta=DELTAS, number=POPULATIONS, unit=st.sampled_from(["record", "client"]))
def test_delta_is_said_to_be_below_one_in_a_number_exactly_where_it_is(delta, number, unit):
    text = meaning_of_delta(claim(unit=unit, delta=delta, number=number))
    pattern = (
        r"It is (far below|below|not below) one in (?:about |the number of clients, which is )(.+?)(?:: so|\.(?: |$))"
    )
    said, shown = re.match(pattern, text).groups()
    against, exactly = number_in(shown), Decimal(repr(delta))
    product = exactly * against
    assert said == relation(exactly, against)
    assert (said == "not below") == (product >= 1) == ("too large: publishing" in text)
    assert (said == "far below") == (product <= Decimal("0.01"))
    # What is shown is the number, as people read it: a whole one, unless that would change what is said of it.
    assert abs(against - Decimal(repr(number))) <= max(1, Decimal(repr(number)) * Decimal("1e-6"))
    assert (relation(exactly, Decimal(repr(number))) == said) or against != Decimal(repr(number))


@given(delta=DELTAS, number=POPULATIONS)
def test_from_so_many_records_on_delta_is_too_large(delta, number):
    text = meaning_of_delta(claim(delta=delta, number=number))
    least = number_in(re.search(r"For a client with (.+?) records or more, delta is not below one", text)[1])
    assert least * Decimal(repr(delta)) >= Decimal("0.999999999999")
    if least < 10**9:
        assert (least - 1) * Decimal(repr(delta)) < 1


def test_the_number_of_before_is_rounded_as_people_read_it():
    text = meaning_of_delta(claim(delta=1e-3, number=461.53846153846155))
    assert text.startswith("It is below one in about 462: so many records of a client are what")
    assert population(claim(number=461.53846153846155))[1] == "about 462, not counted"
    assert meaning_of_delta(claim(unit="client", delta=0.2, number=10.0)) == (
        "It is not below one in the number of clients, which is 10. That is too large: publishing one of them at "
        "random, as it is, would keep such a delta."
    )


@given(epsilon=EPSILONS, delta=DELTAS)
def test_the_factor_is_that_of_the_epsilon_beside_it_and_no_guess_is_better(epsilon, delta):
    found = factor(claim(epsilon=epsilon, delta=delta))
    if epsilon > 20:
        assert found is None
        return
    value = Decimal(found.factor.replace(",", ""))
    assert value >= Decimal(exp(epsilon)) * Decimal("0.999999999")
    assert value <= Decimal(exp(epsilon + 0.01)) * Decimal("1.000001") + 1
    guess = Decimal(found.guess.removesuffix(" %")) / 100
    best = (Decimal(exp(epsilon)) + Decimal(repr(delta))) / (1 + Decimal(exp(epsilon)))
    assert min(best, Decimal(1)) - Decimal("1e-9") <= guess <= 1


@given(epsilon=EPSILONS, delta=DELTAS, unit=st.sampled_from(["record", "client"]))
def test_two_units_together_have_twice_epsilon_and_a_delta_that_is_no_kinder(epsilon, delta, unit):
    text = group(claim(unit=unit, epsilon=epsilon, delta=delta))
    assert text.startswith(f"One {unit}")
    shown = re.search(r"epsilon is at most (.+?) and delta (.+)\.$", text)
    needed = Decimal(repr(delta)) * (1 + Decimal(epsilon).exp(Context(prec=30)))
    if shown is None:
        assert epsilon > 20 or needed >= Decimal("0.97") or "guarantee nothing" in text
        return
    assert Decimal(shown[1]) >= 2 * Decimal(repr(epsilon))
    assert number_in(shown[2]) >= needed * Decimal("0.999999")
    assert number_in(shown[2]) < 1.01


@given(epsilon=EPSILONS, opinion=EPSILONS, budget=st.none() | st.floats(0.01, 40))
def test_the_second_opinion_is_said_to_be_where_it_is(epsilon, opinion, budget):
    text = second_opinion(claim(epsilon=epsilon, opinion=opinion, budget=budget))
    assert ("are equal" in text) == (epsilon == opinion)
    assert ("opinion is higher" in text) == (opinion > epsilon)
    assert ("opinion is lower" in text) == (opinion < epsilon)
    assert ("above the budget" in text) == (budget is not None and epsilon <= budget < opinion)
    if epsilon != opinion:
        apart = number_in(re.search(r"by at most (.+?):", text)[1])
        assert apart >= abs(Decimal(repr(opinion)) - Decimal(repr(epsilon)))


def test_without_a_second_opinion_nothing_is_said_of_it():
    assert second_opinion(claim()) == ""


@pytest.mark.parametrize("unit", [None])
def test_without_privacy_there_is_nothing_to_say(unit):
    none = Privacy.model_construct(unit=unit, epsilon=None, delta=None, budget=None, mechanism=None, accountants=())
    assert (factor(none), group(none), meaning_of_delta(none)) == (None, "", "")
