"""What every mechanism keeps to, and that each check fails for the error that it is about.

A new mechanism needs a row in ``ROWS``.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fedtrain.config import from_flat
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.client_level import Contribution
from fedtrain.privacy.correlated_noise import CorrelatedNoise
from fedtrain.privacy.correlation import inflation
from fedtrain.privacy.mechanisms import (
    Requirements,
    Seen,
    mechanism_of,
    mechanism_of_plan,
    read_plan,
    register,
    registered,
)
from fedtrain.privacy.mechanisms.banded import ClientBanded
from fedtrain.privacy.mechanisms.client import ClientCapped, ClientPoisson
from fedtrain.privacy.mechanisms.record import RecordLocal

BASE = {"federation.clients": 50, "federation.cohort": 10, "federation.rounds": 3, "privacy.delta": 1e-3}
RECORD = {"privacy.mode": "record", "privacy.sampling_rate": 0.1, "training.batch_size": 20}
ROWS = {
    "none": {},
    "record": RECORD,
    "client, Poisson cohorts": {"privacy.mode": "client"},
    "client, capped participation": {"privacy.mode": "client", "privacy.cohorts": "capped"},
    "client, correlated noise": {
        "privacy.mode": "client",
        "privacy.cohorts": "capped",
        "privacy.mechanism": "banded",
        "privacy.separation": 3,
        "federation.rounds": 8,
    },
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
    """Training that moves every number far away. By record it draws the noise of one step, and bounds the update."""

    def __init__(self):
        self.plain = False

    def plainly(self):
        self.plain = True
        return {"w": np.full(4, 1e3, dtype=np.float32)}

    def by_record(self, plan, source):
        deviation = plan.noise_multiplier * plan.spec.clip_norm
        return {"w": source.gaussian((4,), std=deviation, device=torch.device("cpu")).numpy()}


def made(mechanism, row):
    """Give the plan of a mechanism, quickly: at a noise that needs no search."""
    return mechanism.plan(from_flat({**BASE, **row}), noise_multiplier=20.0)


def check_neighbours(mechanism, row):
    assert mechanism_of(from_flat({**BASE, **row})).kind == mechanism.kind
    plan = made(mechanism, row)
    assert (plan.spec.unit, plan.spec.neighbouring) == (mechanism.unit, mechanism.neighbouring)
    assert mechanism_of_plan(read_plan(plan.as_data())).kind == mechanism.kind


def check_steps(mechanism, row):
    plan = made(mechanism, row)
    assert mechanism.event(plan, 1).steps == plan.spec.steps_per_round
    assert mechanism.event(plan, plan.spec.rounds).steps == plan.spec.steps
    assert mechanism.reservation(plan).steps == (
        plan.spec.steps if mechanism.reserves_run else plan.spec.steps_per_round
    )
    assert mechanism.event(plan, 1).noise_multiplier == plan.noise_multiplier


def check_contribution(mechanism, row):
    """What leaves a client is clipped by the plan, whatever the round says, and noise is added once: here or later."""
    plan, received = made(mechanism, row), {"w": np.zeros(4, dtype=np.float32)}
    training, source = Far(), Quiet()
    sent = mechanism.contribute(plan, training, received, clip_norm=1e6, source=source)
    assert sent.arrays.keys() == received.keys()
    assert (sent.arrays["w"].shape, sent.arrays["w"].dtype) == ((4,), np.float32)
    if training.plain:
        assert np.linalg.norm(sent.arrays["w"]) <= plan.spec.clip_norm * (1 + 1e-6)
    assert sent.within is (False if mechanism.clips_updates else None)
    assert source.deviations == ([] if mechanism.adds_noise else [plan.noise_multiplier * plan.spec.clip_norm])


def released(mechanism, plan, contributions, source):
    return mechanism.release(
        plan, clip_norm=plan.spec.clip_norm, shapes={"w": (4,)}, contributions=contributions, source=source
    ).mean["w"]


def check_release(mechanism, row):
    """Sensitivity is measured on neighbouring inputs; noise is what the plan says; the divisor is public."""
    plan, source = made(mechanism, row), Quiet()
    if not mechanism.adds_noise:
        with pytest.raises(PrivacySpecError, match="the server adds no noise"):
            released(mechanism, plan, [], source)
        return
    far = Contribution(update={"w": np.full(4, 1e6)}, within=False)
    one = Contribution(update={"w": np.full(4, 0.1)}, within=True)
    base, more = (released(mechanism, plan, others, source) for others in ([one] * 3, [one] * 3 + [far]))
    assert np.linalg.norm(more - base) <= plan.spec.clip_norm / plan.spec.divisor * (1 + 1e-9)
    assert source.deviations == [plan.value_noise_multiplier * plan.spec.clip_norm] * 2
    alone = released(mechanism, plan, [one], Quiet())
    assert np.allclose(alone * 3, base)


MODULUS = 64.0


def released_sum(mechanism, plan, total, source):
    return mechanism.release_sum(
        plan,
        clip_norm=plan.spec.clip_norm,
        total={"w": total},
        count=0.0,
        source=source,
        modulus=MODULUS,
        count_modulus=MODULUS,
        largest_count=2.0,
    ).mean["w"]


class Constant(Quiet):
    """A source whose noise is known: a number for each draw."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def gaussian(self, shape, *, std, device, dtype=torch.float32):
        return super().gaussian(shape, std=std, device=device, dtype=dtype) + self.value


def check_release_sum(mechanism, row):
    """A sum is released as updates are: same noise, same divisor; and is reduced with its noise, not before it."""
    plan, source = made(mechanism, row), Quiet()
    total = np.full(4, 0.3)
    if not mechanism.adds_noise:
        with pytest.raises(PrivacySpecError, match="the server adds no noise"):
            released_sum(mechanism, plan, total, source)
        return
    one = Contribution(update={"w": total / 3}, within=True)
    assert np.allclose(released_sum(mechanism, plan, total, source), released(mechanism, plan, [one] * 3, Quiet()))
    assert source.deviations == [plan.value_noise_multiplier * plan.spec.clip_norm]
    # At the edge of the range the smallest update of another client flips the sum: with noise that must not show.
    edge = [released_sum(mechanism, plan, np.full(4, value), Constant(5.0)) for value in (31.9, 31.9 - MODULUS)]
    assert np.allclose(edge[0], edge[1])
    assert np.all(np.abs(edge[0]) * plan.spec.divisor <= MODULUS / 2)


class Impulse(Quiet):
    """A source whose draw is its deviation at one place, and zero at all others."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def gaussian(self, shape, *, std, device, dtype=torch.float32):
        drawn = super().gaussian(shape, std=std, device=device, dtype=dtype)
        drawn[self.place] = std
        return drawn


def check_rounds(mechanism, row):
    """Whoever takes part as often and as near as the plan allows moves the run by no more than is charged for it.

    The noise of the rounds is a matrix times independent draws. Its inverse, times what a client adds to each round,
    over the deviation of the draws, is how far the client moves a standard Gaussian.
    """
    plan = made(mechanism, row)
    if not mechanism.adds_noise:
        return
    rounds, correlation = from_flat({**BASE, **row}).federation.rounds, plan.spec.correlation
    noise = mechanism.noise(plan, lambda number: Impulse(number - 1))
    asked = {"device": torch.device("cpu"), "dtype": torch.float64}
    rows = [noise(number).gaussian((rounds,), std=1.0, **asked).numpy() for number in range(1, rounds + 1)]
    assert (correlation is None) is np.array_equal(rows, np.eye(rounds))
    moved = np.linalg.inv(rows) / plan.value_noise_multiplier
    nearest = 1 if correlation is None else correlation.separation
    for count in range(1, plan.spec.rounds + 1):
        charged = np.sqrt(count) / plan.noise_multiplier
        taken = [
            taken
            for taken in itertools.combinations(range(rounds), count)
            if all(after - before >= nearest for before, after in itertools.pairwise(taken))
        ]
        assert max(np.linalg.norm(moved[:, list(each)].sum(axis=1)) for each in taken) <= charged * (1 + 1e-12)


def check_text(mechanism, row):
    plan = made(mechanism, row)
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
    # Epsilon may make use of a draw that nobody learns of what is protected: of records at each client, or of clients
    # in cohorts that are hidden. Where there is no such draw, the rate is 1.
    assert sampling.scheme in {"none", f"Poisson, {mechanism.unit}s"}
    assert sampling.amplification is (sampling.rate < 1)
    assert sampling.scheme != "none" or not sampling.amplification
    assert mechanism.requires.hidden_cohorts is (sampling.scheme == "Poisson, clients")


CHECKS = [
    check_neighbours,
    check_steps,
    check_contribution,
    check_release,
    check_release_sum,
    check_rounds,
    check_text,
]


def test_each_mechanism_has_a_row_and_is_the_one_that_its_row_chooses():
    assert {mechanism.kind for mechanism in registered()} == set(ROWS)
    for kind, row in ROWS.items():
        assert mechanism_of(from_flat({**BASE, **row})).kind == kind


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("mechanism", [each for each in registered() if each.private], ids=lambda each: each.kind)
def test_a_mechanism_keeps_to_the_contract(mechanism, check):
    check(mechanism, ROWS[mechanism.kind])


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


class NoiseAtBothEnds(ClientCapped):
    def contribute(self, plan, training, received, *, clip_norm, source):
        source.gaussian((4,), std=plan.noise_multiplier * plan.spec.clip_norm, device=torch.device("cpu"))
        return super().contribute(plan, training, received, clip_norm=clip_norm, source=source)


class NoiseTwiceAtTheServer(ClientCapped):
    def release(self, plan, *, contributions, source, **given):
        source.gaussian((4,), std=plan.noise_multiplier * plan.spec.clip_norm, device=torch.device("cpu"))
        return super().release(plan, contributions=contributions, source=source, **given)


class NoiseTwiceAtTheClient(RecordLocal):
    def contribute(self, plan, training, received, *, clip_norm, source):
        sent = super().contribute(plan, training, received, clip_norm=clip_norm, source=source)
        source.gaussian((4,), std=plan.noise_multiplier * plan.spec.clip_norm, device=torch.device("cpu"))
        return sent


class NoNoiseAnywhere(RecordLocal):
    def contribute(self, plan, training, received, *, clip_norm, source):
        return super().contribute(plan, training, received, clip_norm=clip_norm, source=Quiet())


class HalfTheNoiseOnSums(ClientCapped):
    def release_sum(self, plan, **given):
        return super().release_sum(type(plan)(spec=plan.spec, noise_multiplier=plan.noise_multiplier / 2), **given)


class NoiseTwiceOnSums(ClientCapped):
    def release_sum(self, plan, *, source, **given):
        source.gaussian((4,), std=plan.noise_multiplier * plan.spec.clip_norm, device=torch.device("cpu"))
        return super().release_sum(plan, source=source, **given)


class OtherDivisorOnSums(ClientCapped):
    def release_sum(self, plan, **given):
        made = super().release_sum(plan, **given)
        return type(made)(mean={name: value / 2 for name, value in made.mean.items()}, clip_norm=made.clip_norm)


class NeverReduces(ClientCapped):
    def release_sum(self, plan, *, modulus, **given):
        return super().release_sum(plan, modulus=np.inf, **given)


class ReducesBeforeTheNoise(ClientCapped):
    def release_sum(self, plan, *, total, modulus, **given):
        reduced = {name: value - modulus * np.rint(value / modulus) for name, value in total.items()}
        return super().release_sum(plan, total=reduced, modulus=np.inf, **given)


class TellsWhetherItClipped(RecordLocal):
    def contribute(self, plan, training, received, *, clip_norm, source):
        sent = super().contribute(plan, training, received, clip_norm=clip_norm, source=source)
        return type(sent)(arrays=sent.arrays, within=True)


class CountsOnKnownCohorts(ClientPoisson):
    requires = Requirements(no_batch_statistics=True)


class CountsOnNoDraw(RecordLocal):
    def sampling(self, plan):
        return replace(super().sampling(plan), scheme="none")


class WrongNeighbours(ClientCapped):
    neighbouring = "add or remove one client"
    _rate = ClientPoisson._rate


class NoiseOfTheSumAlone(ClientBanded):
    """Correlated, and no more of it than independent noise would have."""

    def noise(self, plan, draws):
        source = super().noise(plan, draws)
        return lambda number: Scaled(source(number), 1 / inflation(plan.spec.correlation, plan.spec.rounds))


class Scaled:
    """A source whose noise is multiplied."""

    def __init__(self, inner, factor):
        self.inner, self.factor = inner, factor

    def gaussian(self, shape, *, std, device, dtype=torch.float32):
        return self.inner.gaussian(shape, std=std, device=device, dtype=dtype) * self.factor


class MoreBandsThanItSays(ClientBanded):
    def noise(self, plan, draws):
        return CorrelatedNoise(from_flat({**BASE, **ROWS[self.kind]}).federation.rounds, draws)


class IndependentNoise(ClientBanded):
    def noise(self, plan, draws):
        return draws


class TakesPartTwiceAsSoon(ClientBanded):
    def spec(self, experiment):
        spec = super().spec(experiment)
        return replace(spec, correlation=replace(spec.correlation, separation=2))

    def plan(self, experiment, *, noise_multiplier=None):
        plan = super().plan(experiment, noise_multiplier=noise_multiplier)
        inflated = inflation(super().spec(experiment).correlation, plan.spec.rounds)
        return Inflated(spec=plan.spec, noise_multiplier=plan.noise_multiplier, kind=plan.kind, inflated=inflated)


@dataclass(frozen=True, kw_only=True)
class Inflated(PrivacyPlan):
    """A plan whose draws have another deviation than follows from its spec."""

    inflated: float

    @property
    def value_noise_multiplier(self):
        return self.noise_multiplier * self.inflated


class OmitsTheRelay(ClientPoisson):
    def adversaries(self, plan, seen):
        return tuple(adversary for adversary in super().adversaries(plan, seen) if "relays" not in adversary.who)


class BoundsTheServer(ClientCapped):
    def adversaries(self, plan, seen):
        return tuple(replace(adversary, bounded=True) for adversary in super().adversaries(plan, seen))


@pytest.mark.parametrize(
    ("planted", "check"),
    [
        (FewerSteps(), check_steps),
        (Unclipped(), check_contribution),
        (HalfTheNoise(), check_release),
        (DrawnDivisor(), check_release),
        (NoiseAtBothEnds(), check_contribution),
        (NoiseTwiceAtTheServer(), check_release),
        (NoiseTwiceAtTheClient(), check_contribution),
        (NoNoiseAnywhere(), check_contribution),
        (TellsWhetherItClipped(), check_contribution),
        (HalfTheNoiseOnSums(), check_release_sum),
        (NoiseTwiceOnSums(), check_release_sum),
        (OtherDivisorOnSums(), check_release_sum),
        (NeverReduces(), check_release_sum),
        (ReducesBeforeTheNoise(), check_release_sum),
        (WrongNeighbours(), check_neighbours),
        (NoiseOfTheSumAlone(), check_rounds),
        (MoreBandsThanItSays(), check_rounds),
        (IndependentNoise(), check_rounds),
        (TakesPartTwiceAsSoon(), check_rounds),
        (CountsOnKnownCohorts(), check_text),
        (CountsOnNoDraw(), check_text),
        (OmitsTheRelay(), check_text),
        (BoundsTheServer(), check_text),
    ],
    ids=lambda part: type(part).__name__ if hasattr(part, "kind") else part.__name__,
)
def test_a_planted_error_is_found(planted, check):
    with pytest.raises((AssertionError, StopIteration)):
        check(planted, ROWS[planted.kind])


def test_two_mechanisms_whose_plans_cannot_be_told_apart_are_refused():
    class Twin(ClientCapped):
        kind = "a twin"

    with pytest.raises(ValueError, match="cannot be told from those of 'client, capped participation'"):
        register(Twin())
    with pytest.raises(ValueError, match="is registered already"):
        register(ClientCapped())
