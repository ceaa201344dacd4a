import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.crypto.canonical import canonical
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import SampledGaussian, SampledSkellam, merge
from fedtrain.privacy import events as module
from fedtrain.privacy.events import read_event, register_event

EVENT = SampledGaussian(sampling_rate=0.5, noise_multiplier=2.0, steps=3)
DATA = {"kind": "poisson-sampled-gaussian", "sampling_rate": 0.5, "noise_multiplier": 2.0, "steps": 3}
numbers = st.floats(min_value=1e-9, max_value=1e9)
events = st.builds(
    SampledGaussian,
    sampling_rate=numbers,
    noise_multiplier=numbers,
    steps=st.integers(min_value=0, max_value=2**53 - 1),
)


def test_an_event_is_data_that_names_its_kind():
    assert EVENT.as_data() == DATA
    assert SampledGaussian.from_data(DATA) == EVENT


@given(events)
def test_data_survives_canonical_json(event):
    read = SampledGaussian.from_data(json.loads(canonical(event.as_data())))
    assert read == event
    assert canonical(read.as_data()) == canonical(event.as_data())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**DATA, "kind": "shuffled-gaussian"}, "kind: Input should be 'poisson-sampled-gaussian'"),
        ({name: value for name, value in DATA.items() if name != "kind"}, "kind: Field required"),
        ({**DATA, "mu": 0.1}, "mu: Extra inputs are not permitted"),
        ({**DATA, "steps": 3.5}, "steps: "),
        ({**DATA, "steps": True}, "steps: "),
        ({**DATA, "noise_multiplier": "2"}, "noise_multiplier: "),
        ({**DATA, "noise_multiplier": float("nan")}, "noise_multiplier: "),
        ({**DATA, "sampling_rate": None}, "sampling_rate: "),
        ([DATA], "event: "),
        (None, "event: "),
    ],
)
def test_other_data_is_refused(data, message):
    with pytest.raises(PrivacySpecError, match=f"not an event of kind poisson-sampled-gaussian: {message}"):
        SampledGaussian.from_data(data)


def test_events_of_one_mechanism_merge():
    other = SampledGaussian(sampling_rate=0.1, noise_multiplier=2.0, steps=1)
    six = SampledGaussian(sampling_rate=0.5, noise_multiplier=2.0, steps=6)
    assert merge([EVENT, other, EVENT]) == (other, six)
    assert merge([]) == ()


@pytest.mark.parametrize(
    ("data", "kind"),
    [({**DATA, "kind": "laplace"}, "'laplace'"), ({"steps": 3}, "None"), ({"kind": 3}, "3"), ([DATA], "None")],
)
def test_an_event_of_a_kind_that_is_not_registered_is_not_read(data, kind):
    with pytest.raises(PrivacySpecError, match=f"its kind is {kind}, and known kinds are poisson-sampled-gaussian"):
        read_event(data)


def test_a_kind_is_registered_once(monkeypatch):
    monkeypatch.setattr(module, "_READERS", dict(module._READERS))
    with pytest.raises(ValueError, match="'poisson-sampled-gaussian' are registered already"):
        register_event("poisson-sampled-gaussian", SampledGaussian.from_data)
    register_event("another", lambda data: SampledGaussian.from_data({**data, "kind": "poisson-sampled-gaussian"}))
    assert read_event({**DATA, "kind": "another"}) == EVENT
    monkeypatch.undo()
    with pytest.raises(PrivacySpecError, match="its kind is 'another'"):
        read_event({**DATA, "kind": "another"})


SKELLAM = SampledSkellam(sampling_rate=0.5, variance=1600, l2=20, l1=90, values=30, steps=3)
SKELLAM_DATA = {
    "kind": "poisson-sampled-skellam",
    "sampling_rate": 0.5,
    "variance": 1600,
    "l2": 20,
    "l1": 90,
    "values": 30,
    "steps": 3,
}
whole = st.integers(min_value=1, max_value=2**53 - 1)


def test_integer_noise_is_data_that_names_its_kind():
    assert SKELLAM.as_data() == SKELLAM_DATA
    assert SampledSkellam.from_data(SKELLAM_DATA) == read_event(SKELLAM_DATA) == SKELLAM
    assert SKELLAM.noise_multiplier == 2.0
    assert hash(SKELLAM) == hash(read_event(SKELLAM_DATA))


@given(st.builds(SampledSkellam, sampling_rate=numbers, variance=whole, l2=whole, l1=whole, values=whole, steps=whole))
def test_data_of_integer_noise_survives_canonical_json(event):
    read = read_event(json.loads(canonical(event.as_data())))
    assert read == event
    assert canonical(read.as_data()) == canonical(event.as_data())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**SKELLAM_DATA, "kind": "poisson-sampled-gaussian"}, "kind: Input should be 'poisson-sampled-skellam'"),
        ({name: value for name, value in SKELLAM_DATA.items() if name != "l1"}, "l1: Field required"),
        ({**SKELLAM_DATA, "noise_multiplier": 2.0}, "noise_multiplier: Extra inputs are not permitted"),
        ({**SKELLAM_DATA, "variance": 1600.0}, "variance: "),
        ({**SKELLAM_DATA, "l2": True}, "l2: "),
        ({**SKELLAM_DATA, "values": "30"}, "values: "),
        ({**SKELLAM_DATA, "sampling_rate": float("nan")}, "sampling_rate: "),
        ([SKELLAM_DATA], "event: "),
    ],
)
def test_other_data_of_integer_noise_is_refused(data, message):
    with pytest.raises(PrivacySpecError, match=f"not an event of kind poisson-sampled-skellam: {message}"):
        SampledSkellam.from_data(data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"sampling_rate": float("nan")},
        {"variance": 0},
        {"variance": -1600},
        {"variance": 1600.0},
        {"l2": 0},
        {"l2": True, "l1": 1},
        {"l1": 19},
        {"values": 0},
        {"steps": -1},
    ],
)
def test_what_is_no_integer_noise_is_refused(wrong):
    event = replace(SKELLAM, **wrong)
    with pytest.raises(PrivacySpecError, match="is not a Poisson-sampled Skellam"):
        event.check()
    with pytest.raises(PrivacySpecError, match="is not a Poisson-sampled Skellam"):
        event.check_charge()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_rate": 1e-8},
        {"variance": 1, "l2": 1000, "l1": 1000},
        {"variance": 10**12, "l2": 1, "l1": 1},
        {"steps": 0},
        {"steps": 10**6 + 1},
        {"values": 2**53},
    ],
)
def test_integer_noise_that_no_plan_contains_is_not_charged(wrong):
    SKELLAM.check_charge()
    event = replace(SKELLAM, **wrong)
    event.check()
    with pytest.raises(PrivacySpecError, match="cannot be charged"):
        event.check_charge()


def test_steps_of_integer_noise_merge_where_all_is_equal():
    other = replace(SKELLAM, l1=91)
    assert merge([SKELLAM, EVENT, other, SKELLAM]) == (EVENT, replace(SKELLAM, steps=6), other)
