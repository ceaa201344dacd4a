import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.crypto.canonical import canonical
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import SampledGaussian, merge
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
