import ast
import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtrain.crypto.canonical import canonical
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import AdaptiveClipping, PrivacyPlan, PrivacySpec, calibrate, epsilon_of
from fedtrain.privacy.correlation import Correlation, inflation
from fedtrain.privacy.shares import NoiseShares

ROOT = Path(__file__).parents[3]
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
CLIENT = dataclasses.replace(
    SPEC, unit="client", neighbouring="add or remove one client", divisor=20, population=40.0, steps_per_round=1
)
CAPPED = dataclasses.replace(CLIENT, neighbouring="zero out one client", sampling_rate=1.0)
CORRELATED = dataclasses.replace(CAPPED, rounds=3, correlation=Correlation(rounds=12, separation=4, bands=4))
SHARES = NoiseShares(members=20, threshold=14, colluders=2, bits=22, reach=1)
ADAPTIVE = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=10.0)


def replaced(data, path, value):
    """Return the data with one field changed; a value of ... removes it."""
    data = json.loads(json.dumps(data))
    *parents, name = path.split(".")
    part = data
    for parent in parents:
        part = part[parent]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    return data


@pytest.mark.parametrize("spec", [SPEC, CLIENT, CAPPED, CORRELATED, dataclasses.replace(CLIENT, adaptive=ADAPTIVE)])
def test_the_noise_keeps_the_budget_and_hardly_less_would(spec):
    plan = calibrate(spec)
    assert epsilon_of([plan.event(spec.steps)], spec.delta) <= spec.epsilon
    less = dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier * 0.99)
    assert epsilon_of([less.event(spec.steps)], spec.delta) > spec.epsilon


def test_an_event_is_so_many_steps_of_the_plan():
    plan = calibrate(SPEC)
    assert (plan.event(7).steps, plan.event(7).sampling_rate) == (7, 0.5)


def test_a_given_noise_is_kept_if_it_keeps_the_budget():
    enough = calibrate(SPEC).noise_multiplier
    assert calibrate(SPEC, noise_multiplier=enough).noise_multiplier == enough
    with pytest.raises(PrivacySpecError, match=r"noise multiplier 1 spends epsilon .* more than the budget of 4"):
        calibrate(SPEC, noise_multiplier=1.0)
    with pytest.raises(PrivacySpecError, match="outside"):
        calibrate(SPEC, noise_multiplier=0.01)


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (SPEC, {"epsilon": 0.0}, "epsilon = 0"),
        (SPEC, {"epsilon": float("inf")}, "epsilon = inf"),
        (SPEC, {"epsilon": float("nan")}, "epsilon = nan"),
        (SPEC, {"delta": 0.0}, "delta = 0"),
        (
            SPEC,
            {"delta": 1 / 144},
            r"below 1 / records of a client, and batch size 72 / sampling rate 0.5 means 144 records, so below 0.00694",
        ),
        (
            CLIENT,
            {"delta": 1 / 40},
            r"below 1 / clients, and there are 40 clients, so below 0.025; .* a client outright",
        ),
        (CAPPED, {"delta": 0.3}, r"below 1 / clients, and there are 40 clients"),
        (SPEC, {"sampling_rate": 0.0}, "sampling rate = 0"),
        (SPEC, {"sampling_rate": 1.5}, "sampling rate = 1.5"),
        (SPEC, {"sampling_rate": float("nan")}, "sampling rate = nan"),
        (SPEC, {"sampling_rate": 0.25}, "with divisor 72 and population 144, it is 0.5"),
        (CLIENT, {"sampling_rate": 0.1}, "with divisor 20 and population 40, it is 0.5"),
        (CAPPED, {"sampling_rate": 0.5}, "to zero out one client, .*, it is 1"),
        (SPEC, {"population": 0.5, "delta": 0.5}, "population = 0.5"),
        (SPEC, {"population": float("inf")}, "population = inf"),
        (SPEC, {"neighbouring": "zero out one client"}, "does not say what protects one record"),
        (CLIENT, {"neighbouring": "add or remove one record"}, "does not say what protects one client"),
        (SPEC, {"clip_norm": 0.0}, "clip norm = 0"),
        (SPEC, {"rounds": 0}, "at least 1"),
        (SPEC, {"divisor": 0}, "at least 1"),
        (SPEC, {"epsilon": 1e-6}, "cannot be kept: even noise multiplier 1000 spends"),
        (SPEC, {"adaptive": ADAPTIVE}, "adaptive clipping is for client privacy"),
        (CLIENT, {"adaptive": dataclasses.replace(ADAPTIVE, quantile=1.0)}, "clipping quantile = 1"),
        (CLIENT, {"adaptive": dataclasses.replace(ADAPTIVE, learning_rate=0.0)}, "clipping rate = 0"),
        (CLIENT, {"adaptive": dataclasses.replace(ADAPTIVE, count_noise=float("inf"))}, "clipping noise = inf"),
        (CORRELATED, {"adaptive": ADAPTIVE}, "correlated noise needs a clipping norm that is the same in all rounds"),
        (CORRELATED, {"rounds": 4}, "takes part in 4 rounds is not allowed: .* 12 rounds have room for 1 to 3"),
        (CORRELATED, {"steps_per_round": 2}, "one release a round"),
        (CORRELATED, {"shares": SHARES}, "correlated noise is added by the server"),
        (CLIENT, {"correlation": CORRELATED.correlation}, "correlated noise is for whole clients in known cohorts"),
        (SPEC, {"correlation": CORRELATED.correlation}, "correlated noise is for whole clients in known cohorts"),
        (
            CLIENT,
            {"adaptive": dataclasses.replace(ADAPTIVE, count_noise=0.5)},
            r"clipping noise 0.5 is too little: .* 2 \* 0.5 = 1, and .* together must have 1\.\d+; .* above 0\.\d+",
        ),
    ],
)
def test_what_cannot_be_promised_is_refused_with_the_arithmetic(spec, change, message):
    with pytest.raises(PrivacySpecError, match=message):
        calibrate(dataclasses.replace(spec, **change))


def test_adaptive_clipping_gives_the_sum_the_noise_that_the_count_leaves():
    spec = dataclasses.replace(CLIENT, adaptive=ADAPTIVE)
    plan = calibrate(spec)
    assert calibrate(CLIENT).value_noise_multiplier == calibrate(CLIENT).noise_multiplier == plan.noise_multiplier
    # Two Gaussians on orthogonal queries: 1/z^2 of both together is the sum of theirs, the count moving by 1/2.
    together = plan.value_noise_multiplier**-2 + (ADAPTIVE.count_noise / 0.5) ** -2
    assert together == pytest.approx(plan.noise_multiplier**-2)
    with pytest.raises(PrivacySpecError, match="too little"):
        calibrate(spec, noise_multiplier=20.0)


def test_correlated_noise_costs_what_independent_noise_costs_and_draws_more():
    plan, independent = calibrate(CORRELATED), calibrate(dataclasses.replace(CORRELATED, correlation=None))
    assert plan.noise_multiplier == independent.noise_multiplier
    assert plan.event(3) == independent.event(3)
    assert plan.value_noise_multiplier == plan.noise_multiplier * inflation(CORRELATED.correlation, 3)
    assert plan.round_noise_multiplier > plan.value_noise_multiplier > plan.noise_multiplier
    assert independent.round_noise_multiplier == independent.value_noise_multiplier == plan.noise_multiplier


@pytest.mark.parametrize("spec", [SPEC, CLIENT, CAPPED, CORRELATED, dataclasses.replace(CLIENT, adaptive=ADAPTIVE)])
def test_a_plan_is_data_that_an_auditor_reads(spec):
    plan = calibrate(spec)
    read = PrivacyPlan.from_data(json.loads(canonical(plan.as_data())))
    assert read == plan
    assert read.digest == plan.digest
    assert len(bytes.fromhex(plan.digest)) == 32


def test_the_digest_is_that_of_every_constant():
    plan = calibrate(dataclasses.replace(CLIENT, adaptive=ADAPTIVE))
    changes = [{"noise_multiplier": plan.noise_multiplier + 1e-9}]
    others = {"adaptive": None, "correlation": CORRELATED.correlation}
    changes += [
        {"spec": dataclasses.replace(plan.spec, **{field.name: others.get(field.name, 7)})}
        for field in dataclasses.fields(plan.spec)
    ]
    digests = {dataclasses.replace(plan, **change).digest for change in changes}
    assert len(digests | {plan.digest}) == len(changes) + 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.correlation.bands", 3.5, "not a privacy plan"),
        ("spec.correlation.bands", 0, "bands = 0 are not allowed"),
        ("spec.correlation.separation", ..., "not a privacy plan"),
        ("spec.correlation.separation", 13, "separation = 13 is not allowed"),
        ("spec.correlation.rounds", 2**40, "over 1099511627776 rounds is not allowed"),
        ("spec.correlation.more", 1, "fields or types that a plan does not have"),
        ("spec.correlation", None, "fields or types that a plan does not have"),
    ],
)
def test_data_that_is_no_correlation_is_refused(path, value, message):
    with pytest.raises(PrivacySpecError, match=message):
        PrivacyPlan.from_data(replaced(calibrate(CORRELATED).as_data(), path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("kind", "shuffled-gaussian", "not a privacy plan"),
        ("kind", ..., "not a privacy plan"),
        ("extra", 1, "fields or types that a plan does not have"),
        ("spec.extra", 1, "fields or types that a plan does not have"),
        ("spec.adaptive", ..., "fields or types that a plan does not have"),
        ("spec.rounds", "10", "fields or types that a plan does not have"),
        ("spec.rounds", 2**60, "not a privacy plan"),
        ("spec.rounds", 1.5, "not a privacy plan"),
        ("spec.epsilon", math.nan, "not a privacy plan"),
        ("spec.unit", "photo", "not a privacy plan"),
        ("spec.population", ..., "not a privacy plan"),
        ("spec.population", 288.0, "it is 0.25"),
        ("spec.delta", 0.1, "must be below"),
        ("noise_multiplier", 0.0, "outside of"),
        ("noise_multiplier", 1e9, "outside of"),
    ],
)
def test_data_that_is_no_plan_is_refused(path, value, message):
    data = calibrate(SPEC).as_data()
    with pytest.raises(PrivacySpecError, match=message):
        PrivacyPlan.from_data(replaced(data, path, value))


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["kind", "spec", "noise_multiplier"]) | st.text(), inner)
        ),
    )
)
def test_any_other_json_is_refused(data):
    with pytest.raises(PrivacySpecError, match="not a privacy plan"):
        PrivacyPlan.from_data(data)


def test_only_calibrate_and_the_reader_make_plans():
    makers = {
        file.relative_to(ROOT).as_posix()
        for package in ("fedtrain", "server", "clients")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "PrivacyPlan"
    }
    assert makers == {"fedtrain/privacy/plan.py"}
