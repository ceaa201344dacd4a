import dataclasses

import pytest

from fedtrain.errors import BudgetError
from fedtrain.privacy import Account, Charge, PrivacySpec, SampledGaussian, calibrate, epsilon_of

SPEC = PrivacySpec(
    unit="record",
    neighbouring="add or remove one record",
    epsilon=4.0,
    delta=1e-4,
    clip_norm=1.0,
    sampling_rate=0.5,
    divisor=72,
    population=144.0,
    steps_per_round=4,
    rounds=3,
)
PLAN = calibrate(SPEC)


def charge(number, **change):
    values = {"run": "a", "round_number": number, "model": f"m{number}", "event": PLAN.round_event}
    return Charge(**{**values, **change})


def test_all_rounds_of_the_plan_fit_and_no_more():
    account = Account()
    for number in (1, 2, 3):
        account = account.reserve(charge(number), SPEC)
    assert account.spent(SPEC.delta) == epsilon_of([PLAN.event(SPEC.steps)], SPEC.delta)
    with pytest.raises(BudgetError, match=r"round 4 would bring epsilon from 3.\d+ to 4.\d+, beyond the budget of 4"):
        account.reserve(charge(4), SPEC)


def test_a_repeated_round_is_charged_once_and_a_changed_one_again():
    account = Account().reserve(charge(1), SPEC)
    assert account.reserve(charge(1), SPEC) == account
    for change in ({"model": "other"}, {"run": "b"}):
        assert len(account.reserve(charge(1, **change), SPEC).charges) == 2


def test_another_mechanism_is_composed_not_counted():
    account = Account().reserve(charge(1), SPEC)
    weak = SampledGaussian(sampling_rate=0.5, noise_multiplier=0.5, steps=1)
    with pytest.raises(BudgetError):
        account.reserve(charge(2, event=weak), SPEC)
    strong = dataclasses.replace(PLAN.round_event, noise_multiplier=50.0)
    assert len(account.reserve(charge(2, event=strong), SPEC).charges) == 2
