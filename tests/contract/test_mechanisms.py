"""What every mechanism keeps to, and that each check fails for the error that it is about.

A new mechanism needs a row in ``ROWS``.
"""

import numpy as np
import pytest
import torch

from fedtrain.config import from_flat
from fedtrain.privacy.client_level import Contribution
from fedtrain.privacy.mechanisms import (
    Seen,
    mechanism_of,
    mechanism_of_plan,
    read_plan,
    register,
    registered,
)
from fedtrain.privacy.mechanisms.client import ClientCapped, ClientPoisson
from fedtrain.privacy.mechanisms.record import RecordLocal

BASE = {"federation.clients": 50, "federation.cohort": 10, "federation.rounds": 3, "privacy.delta": 1e-3}
RECORD = {"privacy.mode": "record", "privacy.sampling_rate": 0.1, "training.batch_size": 20}
ROWS = {
    "none": {},
    "record": RECORD,
    "client, Poisson cohorts": {"privacy.mode": "client"},
    "client, capped participation": {"privacy.mode": "client", "privacy.cohorts": "capped"},
}
SEEN = [Seen(sealed=sealed, summed=summed, only_sums=summed) for sealed in (False, True) for summed in (False, True)]


class Quiet:
    """A source without noise that remembers the deviations that it was asked for."""

    name = "seeded"

    def __init__(self):
        self.deviations = []

    def gaussian(self, shape, *, std, device, dtype=torch.float32):
        self.deviations.append(std)
        return torch.zeros(tuple(shape), dtype=dtype)

    def bernoulli(self, count, probability):
        return torch.ones(count, dtype=torch.bool)


class Far:
    """Training that moves every number far away."""

    def plainly(self):
        return {"w": np.full(4, 1e3, dtype=np.float32)}

    def by_record(self, plan, source):
        return self.plainly()


def made(mechanism, kind):
    """Give the plan of a mechanism, quickly: at a noise that needs no search."""
    return mechanism.plan(from_flat({**BASE, **ROWS[kind]}), noise_multiplier=20.0)


def check_neighbours(mechanism, kind):
    plan = made(mechanism, kind)
    assert (plan.spec.unit, plan.spec.neighbouring) == (mechanism.unit, mechanism.neighbouring)
    assert mechanism_of_plan(read_plan(plan.as_data())).kind == kind


def check_steps(mechanism, kind):
    plan = made(mechanism, kind)
    assert mechanism.event(plan, 1).steps == plan.spec.steps_per_round
    assert mechanism.event(plan, plan.spec.rounds).steps == plan.spec.steps
    assert mechanism.reservation(plan).steps == (
        plan.spec.steps if mechanism.reserves_run else plan.spec.steps_per_round
    )
    assert mechanism.event(plan, 1).noise_multiplier == plan.noise_multiplier


def check_contribution(mechanism, kind):
    plan, received = made(mechanism, kind), {"w": np.zeros(4, dtype=np.float32)}
    sent = mechanism.contribute(plan, Far(), received, clip_norm=1e6, source=Quiet())
    assert sent.arrays.keys() == received.keys()
    if mechanism.clips_updates:
        assert np.linalg.norm(sent.arrays["w"]) <= plan.spec.clip_norm * (1 + 1e-6)
        assert sent.within is False


def released(mechanism, plan, contributions, source):
    return mechanism.release(
        plan, clip_norm=plan.spec.clip_norm, shapes={"w": (4,)}, contributions=contributions, source=source
    ).mean["w"]


def check_release(mechanism, kind):
    """Sensitivity is measured on neighbouring inputs; noise is what the plan says; the divisor is public."""
    if not mechanism.adds_noise:
        return
    plan, source = made(mechanism, kind), Quiet()
    far = Contribution(update={"w": np.full(4, 1e6)}, within=False)
    one = Contribution(update={"w": np.full(4, 0.1)}, within=True)
    base, more = (released(mechanism, plan, others, source) for others in ([one] * 3, [one] * 3 + [far]))
    assert np.linalg.norm(more - base) <= plan.spec.clip_norm / plan.spec.divisor * (1 + 1e-9)
    assert source.deviations == [plan.noise_multiplier * plan.spec.clip_norm] * 2
    alone = released(mechanism, plan, [one], Quiet())
    assert np.allclose(alone * 3, base)


def check_text(mechanism, kind):
    plan = made(mechanism, kind)
    for seen in SEEN:
        found = mechanism.adversaries(plan, seen)
        who = " ".join(adversary.who for adversary in found)
        for needed in ("model", "another client", "the server", "relays", "reads this report"):
            assert needed in who
        server = next(adversary for adversary in found if adversary.who.startswith("the server"))
        assert server.bounded is not mechanism.adds_noise
        assert ("The server" in " ".join(mechanism.trusted(plan, seen))) is mechanism.adds_noise
        assert "the odds" in mechanism.statement("the odds", seen)
    sampling = mechanism.sampling(plan)
    assert sampling.rate == plan.spec.sampling_rate
    assert sampling.amplification is (sampling.rate < 1)
    assert sampling.amplification is (mechanism.requires.hidden_cohorts or not mechanism.adds_noise)


CHECKS = [check_neighbours, check_steps, check_contribution, check_release, check_text]


def test_each_mechanism_has_a_row_and_is_the_one_that_its_row_chooses():
    assert {mechanism.kind for mechanism in registered()} == set(ROWS)
    for kind, row in ROWS.items():
        assert mechanism_of(from_flat({**BASE, **row})).kind == kind


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("mechanism", [each for each in registered() if each.private], ids=lambda each: each.kind)
def test_a_mechanism_keeps_to_the_contract(mechanism, check):
    check(mechanism, mechanism.kind)


class FewerSteps(RecordLocal):
    def event(self, plan, rounds):
        return plan.event(rounds)


class Unclipped(ClientCapped):
    def contribute(self, plan, training, received, *, clip_norm, source):
        sent = super().contribute(plan, training, received, clip_norm=clip_norm, source=source)
        return type(sent)(arrays=dict(training.plainly()), within=sent.within)


class HalfTheNoise(ClientCapped):
    def release(self, plan, **given):
        return super().release(type(plan)(spec=plan.spec, noise_multiplier=plan.noise_multiplier / 2), **given)


class DrawnDivisor(ClientPoisson):
    def release(self, plan, *, contributions, **given):
        contributions = list(contributions)
        made = super().release(plan, contributions=contributions, **given)
        return type(made)(
            mean={name: value * plan.spec.divisor / len(contributions) for name, value in made.mean.items()},
            clip_norm=made.clip_norm,
        )


class WrongNeighbours(ClientCapped):
    neighbouring = "add or remove one client"
    _rate = ClientPoisson._rate


class OmitsTheRelay(ClientPoisson):
    def adversaries(self, plan, seen):
        return tuple(adversary for adversary in super().adversaries(plan, seen) if "relays" not in adversary.who)


class BoundsTheServer(ClientCapped):
    def adversaries(self, plan, seen):
        from dataclasses import replace

        return tuple(replace(adversary, bounded=True) for adversary in super().adversaries(plan, seen))


@pytest.mark.parametrize(
    ("planted", "check"),
    [
        (FewerSteps(), check_steps),
        (Unclipped(), check_contribution),
        (HalfTheNoise(), check_release),
        (DrawnDivisor(), check_release),
        (WrongNeighbours(), check_neighbours),
        (OmitsTheRelay(), check_text),
        (BoundsTheServer(), check_text),
    ],
    ids=lambda part: type(part).__name__ if hasattr(part, "kind") else part.__name__,
)
def test_a_planted_error_is_found(planted, check):
    with pytest.raises((AssertionError, StopIteration)):
        check(planted, planted.kind)


def test_two_mechanisms_whose_plans_cannot_be_told_apart_are_refused():
    class Twin(ClientCapped):
        kind = "a twin"

    with pytest.raises(ValueError, match="cannot be told from those of 'client, capped participation'"):
        register(Twin())
    with pytest.raises(ValueError, match="is registered already"):
        register(ClientCapped())
