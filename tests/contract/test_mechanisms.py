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
from fedtrain.privacy.integer_noise import draw
from fedtrain.privacy.mechanisms import (
    Requirements,
    Seen,
    Sent,
    mechanism_of,
    mechanism_of_plan,
    read_plan,
    register,
    registered,
)
from fedtrain.privacy.mechanisms.banded import ClientBanded
from fedtrain.privacy.mechanisms.client import ClientCapped, ClientPoisson
from fedtrain.privacy.mechanisms.distributed import ClientDistributed, RecordDistributed
from fedtrain.privacy.mechanisms.record import RecordLocal
from fedtrain.privacy.noise import SeededSource

BASE = {"federation.clients": 50, "federation.cohort": 10, "federation.rounds": 3, "privacy.delta": 1e-3}
RECORD = {"privacy.mode": "record", "privacy.sampling_rate": 0.1, "training.batch_size": 20}
SHARED = {"privacy.trust": "distributed", "privacy.colluders": 1}
ROWS = {
    "none": {},
    "record": RECORD,
    "record, distributed noise": {**RECORD, **SHARED},
    "client, Poisson cohorts": {"privacy.mode": "client"},
    "client, capped participation": {"privacy.mode": "client", "privacy.cohorts": "capped"},
    "client, correlated noise": {
        "privacy.mode": "client",
        "privacy.cohorts": "capped",
        "privacy.mechanism": "banded",
        "privacy.separation": 3,
        "federation.rounds": 8,
    },
    "client, distributed noise": {"privacy.mode": "client", "privacy.cohorts": "capped", **SHARED},
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

    def gradient_sum(self, plan, source, *, clip_norm):
        return {"w": np.full(4, clip_norm)}


class Wide(Far):
    """The same of so many numbers that the noise on them can be measured; what is not noise is in the first one."""

    def plainly(self):
        return {"w": np.concatenate([[1e3], np.zeros(VALUES - 1)]).astype(np.float32)}

    def gradient_sum(self, plan, source, *, clip_norm):
        return {"w": np.concatenate([[clip_norm], np.zeros(VALUES - 1)])}


VALUES = 4000


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
    event = mechanism.event(plan, 1)
    # Of whole numbers it is as little larger as they allow, and not larger by shares that are not counted on.
    assert plan.noise_multiplier <= event.noise_multiplier <= plan.noise_multiplier * (1 + 1e-6)


def check_sensitivity(mechanism, row):
    """Where noise is shared, epsilon is for the sensitivity after rounding, and for shares that are sure."""
    if not mechanism.shares_noise:
        return
    plan = made(mechanism, row)
    shares, event = plan.spec.shares, mechanism.event(plan, 1)
    root, grid = round(event.values**0.5), plan.grid
    assert root**2 == event.values
    assert event.l2 >= grid.steps + root
    assert event.l1 >= root * event.l2
    assert event.variance == (shares.threshold - shares.colluders) * grid.share
    assert shares.members * (grid.limit + grid.most) < 2**31


def check_share(mechanism, row):
    """What leaves a client that shares the noise is in whole grid steps, clipped, with one share of the noise in it."""
    if not mechanism.shares_noise:
        return
    plan, received = made(mechanism, row), {"w": np.zeros(VALUES, dtype=np.float32)}
    sent = mechanism.contribute(plan, Wide(), received, clip_norm=1e6, source=SeededSource(1))
    assert sent.within is None
    first, noise = int(sent.arrays["w"][0]), sent.arrays["w"][1:].astype(np.float64)
    assert sent.arrays["w"].dtype == np.int32
    # What is not noise is a clipping norm at most; of 4,000 values the deviation is known to one per cent.
    assert abs(np.std(noise) / plan.grid.share**0.5 - 1) < 0.06
    assert abs(np.mean(noise)) < 5 * plan.grid.share**0.5 / len(noise) ** 0.5
    assert abs(first - plan.grid.steps) <= plan.grid.most


def check_change(mechanism, row):
    """A sum of whole numbers moves the model by its mean over the clients in it, and needs nothing else."""
    plan = made(mechanism, row)
    total = {"w": np.array([plan.grid.steps, -plan.grid.steps])} if mechanism.shares_noise else {"w": np.ones(2)}
    if not mechanism.shares_noise:
        with pytest.raises(PrivacySpecError, match="clients do not share the noise"):
            mechanism.change(plan, total=total, clients=1, learning_rate=0.5)
        assert mechanism.largest(plan) == 0
        return
    assert mechanism.largest(plan) == plan.grid.limit + plan.grid.most
    one = mechanism.change(plan, total=total, clients=1, learning_rate=0.5)["w"]
    twice = mechanism.change(plan, total={"w": 2 * total["w"]}, clients=2, learning_rate=0.5)["w"]
    assert np.allclose(one, twice)
    step = plan.spec.clip_norm if mechanism.unit == "client" else -0.5 * plan.spec.clip_norm / plan.spec.divisor
    assert np.allclose(one, [step, -step])


def check_contribution(mechanism, row):
    """What leaves a client is clipped by the plan, whatever the round says, and noise is added once: here or later."""
    if mechanism.shares_noise:
        return
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
        # Where noise is shared, that of one client is too little for who sees it alone.
        trusts = mechanism.adds_noise or (mechanism.requires.only_sums and not seen.only_sums)
        assert mechanism.requires.only_sums is mechanism.shares_noise
        assert server.bounded is not trusts
        assert ("The server" in " ".join(mechanism.trusted(plan, seen))) is trusts
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
    check_sensitivity,
    check_contribution,
    check_share,
    check_change,
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


class CountsEveryShare(RecordDistributed):
    def event(self, plan, rounds):
        return replace(super().event(plan, rounds), variance=plan.spec.shares.members * plan.grid.share)


class CountsColluders(ClientDistributed):
    def event(self, plan, rounds):
        return replace(super().event(plan, rounds), variance=plan.spec.shares.threshold * plan.grid.share)


class IgnoresRounding(RecordDistributed):
    def event(self, plan, rounds):
        event = super().event(plan, rounds)
        return replace(event, l2=plan.grid.steps, variance=round(event.variance * (plan.grid.steps / event.l2) ** 2))


class HalfAShare(RecordDistributed):
    def contribute(self, plan, training, received, **given):
        return super().contribute(
            replace(plan, noise_multiplier=plan.noise_multiplier / 2), training, received, **given
        )


class NoShare(ClientDistributed):
    def contribute(self, plan, training, received, *, clip_norm, source):
        values = {"w": np.round(training.plainly()["w"]).astype(np.int32)}
        return Sent(arrays=values)


class ShareTwice(RecordDistributed):
    def contribute(self, plan, training, received, *, clip_norm, source):
        sent = super().contribute(plan, training, received, clip_norm=clip_norm, source=source)
        again = draw(plan.grid.noise, VALUES, source)
        return Sent(arrays={"w": sent.arrays["w"] + again})


class UnclippedSum(ClientDistributed):
    def contribute(self, plan, training, received, *, clip_norm, source):
        sent = super().contribute(plan, training, received, clip_norm=clip_norm, source=source)
        far = np.zeros(VALUES, dtype=np.int32)
        far[0] = 100 * plan.grid.most
        return Sent(arrays={"w": sent.arrays["w"] + far})


class DividesByTheCohort(RecordDistributed):
    def _divisor(self, plan, clients):
        return plan.spec.shares.members * plan.spec.divisor


class BoundsAServerThatSeesClients(RecordDistributed):
    def adversaries(self, plan, seen):
        return super().adversaries(plan, replace(seen, only_sums=True))


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
        (CountsEveryShare(), check_steps),
        (CountsEveryShare(), check_sensitivity),
        (CountsColluders(), check_steps),
        (CountsColluders(), check_sensitivity),
        (IgnoresRounding(), check_sensitivity),
        (HalfAShare(), check_share),
        (NoShare(), check_share),
        (ShareTwice(), check_share),
        (UnclippedSum(), check_share),
        (DividesByTheCohort(), check_change),
        (BoundsAServerThatSeesClients(), check_text),
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
