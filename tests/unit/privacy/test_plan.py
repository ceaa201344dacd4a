import dataclasses

import pytest

from fedtrain.config import from_flat
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import PrivacySpec, calibrate, epsilon_of
from fedtrain.privacy.spec import privacy_spec

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
    rounds=10,
)


def test_the_noise_keeps_the_budget_and_hardly_less_would():
    plan = calibrate(SPEC)
    assert epsilon_of([plan.event(SPEC.steps)], SPEC.delta) <= SPEC.epsilon
    less = dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier * 0.99)
    assert epsilon_of([less.event(SPEC.steps)], SPEC.delta) > SPEC.epsilon


def test_a_given_noise_is_kept_if_it_keeps_the_budget():
    enough = calibrate(SPEC).noise_multiplier
    assert calibrate(SPEC, noise_multiplier=enough).noise_multiplier == enough
    with pytest.raises(PrivacySpecError, match=r"noise multiplier 1 spends epsilon .* more than the budget of 4"):
        calibrate(SPEC, noise_multiplier=1.0)
    with pytest.raises(PrivacySpecError, match="outside"):
        calibrate(SPEC, noise_multiplier=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon = 0"),
        ({"epsilon": float("inf")}, "epsilon = inf"),
        ({"delta": 0.0}, "delta = 0"),
        ({"delta": 1 / 144}, r"below 1 / records of a client, and batch size 72 / sampling rate 0.5 means 144 records"),
        ({"sampling_rate": 0.0}, "sampling rate = 0"),
        ({"sampling_rate": 1.5}, "sampling rate = 1.5"),
        ({"clip_norm": 0.0}, "clip norm = 0"),
        ({"rounds": 0}, "at least 1"),
        ({"epsilon": 1e-6}, "cannot be kept: even noise multiplier 1000 spends"),
    ],
)
def test_what_cannot_be_promised_is_refused_with_the_arithmetic(change, message):
    with pytest.raises(PrivacySpecError, match=message):
        calibrate(dataclasses.replace(SPEC, **change))


def test_the_spec_of_an_experiment_is_made_of_public_constants():
    flat = {"privacy.mode": "record", "privacy.sampling_rate": 0.3, "training.local_epochs": 2.0}
    spec = privacy_spec(from_flat(flat))
    assert (spec.steps_per_round, spec.rounds, spec.divisor) == (7, 10, 32)
    assert privacy_spec(from_flat({**flat, "federation.cohort": 3, "privacy.max_participations": 3})).rounds == 3
    assert privacy_spec(from_flat({**flat, "privacy.max_participations": 99})).rounds == 10
    with pytest.raises(ValueError, match="promises nothing"):
        privacy_spec(from_flat({}))
