import dataclasses
from math import exp, log

import numpy as np
import pytest
import torch
from scipy import stats

from fedtrain.errors import RunError
from fedtrain.privacy import AdaptiveClipping, PrivacyPlan, PrivacySpec
from fedtrain.privacy.client_level import Contribution, next_clip_norm, poisson_cohort, release
from fedtrain.privacy.clipping import clip_update
from fedtrain.privacy.noise import SeededSource
from tests.updates import SHAPES, an_update, flat, norm

SPEC = PrivacySpec(
    unit="client",
    neighbouring="add or remove one client",
    epsilon=4.0,
    delta=1e-3,
    clip_norm=1.0,
    sampling_rate=0.1,
    divisor=8,
    population=80.0,
    steps_per_round=1,
    rounds=20,
)
PLAN = PrivacyPlan(spec=SPEC, noise_multiplier=1.3)
ADAPTIVE = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=0.9)
ADAPTIVE_PLAN = PrivacyPlan(spec=dataclasses.replace(SPEC, adaptive=ADAPTIVE), noise_multiplier=1.3)
SCALAR = {"x": ()}


class Silent:
    """A source whose noise is zero, which remembers the noise that it was asked for."""

    name = "seeded"

    def __init__(self):
        self.asked = []

    def gaussian(self, shape, *, std, device, dtype=torch.float32):
        self.asked.append((tuple(shape), std))
        return torch.zeros(tuple(shape), device=device, dtype=dtype)

    def bernoulli(self, count, probability):
        return torch.ones(count, dtype=torch.bool)


def given(*updates, within=True):
    return [Contribution(update=update, within=within) for update in updates]


def released(contributions, *, plan=PLAN, clip_norm=1.0, shapes=SHAPES, source=None):
    return release(plan, clip_norm=clip_norm, shapes=shapes, contributions=contributions, source=source or Silent())


# The release without its noise: what one client can change


def test_short_updates_are_summed_exactly_and_divided_by_the_public_number():
    updates = [an_update(seed, scale=0.01) for seed in range(3)]
    mean = released(given(*updates)).mean
    assert flat(mean) == pytest.approx(sum(flat(update).astype(np.float64) for update in updates) / 8, rel=1e-12)
    assert list(mean) == list(SHAPES)
    assert {value.dtype for value in mean.values()} == {np.dtype(np.float64)}


def test_nobody_is_a_release_too():
    nothing = released([])
    assert norm(nothing.mean) == 0.0
    source = SeededSource(3)
    noise = released([], source=source)
    assert {name: value.shape for name, value in noise.mean.items()} == SHAPES
    assert np.abs(flat(noise.mean)).min() > 0


HOSTILE = {
    "none": None,
    "huge": {name: np.full(shape, 3e38, np.float32) for name, shape in SHAPES.items()},
    "unclipped": an_update(9, scale=100.0),
    "at the bound": clip_update(an_update(9, scale=100.0), 1.0)[0],
    "not a number": {name: np.full(shape, np.nan, np.float32) for name, shape in SHAPES.items()},
    "infinite": {name: np.full(shape, -np.inf, np.float32) for name, shape in SHAPES.items()},
    "reordered": dict(reversed(an_update(9, scale=100.0).items())),
    "half zero": {"weight": np.zeros((3, 4), np.float32), "bias": np.full(4, 1e9, np.float32)},
}


@pytest.mark.parametrize("clip_norm", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_one_client_moves_the_release_by_no_more_than_the_bound(hostile, clip_norm):
    others = given(*(an_update(seed, scale=3.0) for seed in range(5)))
    zero = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    alone = flat(released(others, clip_norm=clip_norm).mean)
    zeroed = flat(released([*others[:2], *given(zero), *others[2:]], clip_norm=clip_norm).mean)
    update = HOSTILE[hostile]
    joined = [*others[:2], *(given(update) if update else []), *others[2:]]
    present = flat(released(joined, clip_norm=clip_norm).mean)
    # Added or removed, and replaced by zero, are the same to the sum.
    assert (zeroed == alone).all()
    assert np.linalg.norm(present - alone) <= clip_norm / SPEC.divisor


def test_without_clipping_one_client_would_exceed_the_bound():
    # The test above can fail.
    others = [an_update(seed, scale=3.0) for seed in range(5)]
    alone = sum(flat(update) for update in others) / SPEC.divisor
    present = alone + flat(HOSTILE["unclipped"]) / SPEC.divisor
    assert np.linalg.norm(present - alone) > 1.0 / SPEC.divisor


def test_arrays_are_matched_by_name_and_not_by_position():
    update = an_update(1, scale=0.01)
    straight = released(given(update)).mean
    turned = released(given(dict(reversed(update.items())))).mean
    assert (flat(straight) == flat(turned)).all()
    assert list(turned) == list(SHAPES)


@pytest.mark.parametrize(
    "update",
    [
        {"weight": np.zeros((3, 4))},
        {"weight": np.zeros((3, 4)), "bias": np.zeros(5)},
        {"weight": np.zeros((4, 3)), "bias": np.zeros(4)},
        {"weight": np.zeros((3, 4)), "bias": np.zeros(4), "more": np.zeros(1)},
    ],
)
def test_an_update_of_another_model_is_refused(update):
    with pytest.raises(ValueError, match="an update has the arrays"):
        released(given(update))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan])
def test_a_clipping_norm_that_bounds_nothing_is_refused(bad):
    with pytest.raises(ValueError, match="clip_norm"):
        released([], clip_norm=bad)


def test_a_plan_that_protects_records_is_refused():
    spec = dataclasses.replace(SPEC, unit="record", neighbouring="add or remove one record")
    with pytest.raises(ValueError, match="protects one record"):
        released([], plan=PrivacyPlan(spec=spec, noise_multiplier=1.0))


def test_the_number_that_answered_changes_neither_divisor_nor_noise():
    asked = []
    for count in (0, 1, 8, 30):
        source = Silent()
        update = {"x": np.array(0.5, np.float32)}
        mean = released(given(*[update] * count), shapes=SCALAR, source=source).mean
        assert mean["x"] == count * 0.5 / SPEC.divisor
        asked.append(source.asked)
    assert asked == [[((), PLAN.noise_multiplier)]] * 4


# The noise


def test_the_noise_on_the_sum_is_that_of_the_plan():
    source = Silent()
    released(given(an_update(0)), clip_norm=2.5, source=source)
    assert source.asked == [((3, 4), 1.3 * 2.5), ((4,), 1.3 * 2.5)]


def normality(plan, *, clip_norm, claimed):
    """Return the p value of the release's noise against what is claimed of it."""
    size = {"x": (40_000,)}
    mean = released([], plan=plan, clip_norm=clip_norm, shapes=size, source=SeededSource(5)).mean["x"]
    return stats.kstest(mean, "norm", args=(0.0, claimed * clip_norm / plan.spec.divisor)).pvalue


def test_the_noise_is_gaussian_of_the_claimed_scale_and_a_wrong_scale_is_noticed():
    assert normality(PLAN, clip_norm=0.7, claimed=1.3) > 0.01
    assert normality(ADAPTIVE_PLAN, clip_norm=0.7, claimed=ADAPTIVE_PLAN.value_noise_multiplier) > 0.01
    for wrong in (1.3 * 0.95, 1.3 * 1.05):
        assert normality(dataclasses.replace(PLAN, noise_multiplier=wrong), clip_norm=0.7, claimed=1.3) < 1e-6
    # The noise on the values alone is more than that of both together, and the difference would be noticed.
    assert normality(ADAPTIVE_PLAN, clip_norm=0.7, claimed=1.3) < 1e-6


def test_arrays_have_noise_of_their_own_and_rounds_too():
    source = SeededSource(1)
    shapes = {"a": (2000,), "b": (2000,)}
    first, second = (released([], shapes=shapes, source=source).mean for _ in range(2))
    for x, y in ((first["a"], first["b"]), (first["a"], second["a"])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.1


def test_the_same_seed_repeats_a_release_to_the_bit():
    contributions = given(*(an_update(seed) for seed in range(4)))
    first, second = (released(contributions, plan=ADAPTIVE_PLAN, source=SeededSource(2)) for _ in range(2))
    assert (flat(first.mean) == flat(second.mean)).all()
    assert first.clip_norm == second.clip_norm


# Adaptive clipping


def test_a_fixed_clipping_norm_stays():
    source = Silent()
    assert released(given(an_update(0), within=False), clip_norm=0.8, source=source).clip_norm == 0.8
    assert len(source.asked) == len(SHAPES)


def test_the_clipping_norm_follows_the_equation():
    # 5 within and 2 outside of 8 expected: the centred count is 1.5, so b = 1.5 / 8 + 1/2.
    contributions = [*given(*[an_update(0)] * 5), *given(*[an_update(1)] * 2, within=False)]
    result = released(contributions, plan=ADAPTIVE_PLAN, clip_norm=0.8)
    assert result.clip_norm == pytest.approx(0.8 * exp(-0.2 * (1.5 / 8 + 0.5 - 0.5)), rel=1e-12)


def test_nobody_counts_as_half():
    assert released([], plan=ADAPTIVE_PLAN, clip_norm=0.8).clip_norm == 0.8


def test_one_client_moves_the_count_by_half():
    def count(contributions):
        return -log(released(contributions, plan=ADAPTIVE_PLAN).clip_norm) / ADAPTIVE.learning_rate * SPEC.divisor

    others = given(*(an_update(seed) for seed in range(4)))
    for within in (True, False):
        for hostile in filter(None, HOSTILE.values()):
            change = count([*others, *given(hostile, within=within)]) - count(others)
            assert abs(change) == pytest.approx(0.5, abs=1e-12)
            assert (change > 0) == within


def test_values_and_count_together_are_one_gaussian_of_the_accounted_noise():
    source = Silent()
    clip_norm = 0.4
    released([], plan=ADAPTIVE_PLAN, clip_norm=clip_norm, shapes=SCALAR, source=source)
    (_, values), (_, count) = source.asked
    # Sensitivities over deviations: of the values C, of the centred count 1/2.
    assert (clip_norm / values) ** 2 + (0.5 / count) ** 2 == pytest.approx(1.3**-2, rel=1e-12)
    for alpha in (1.5, 2, 10, 200):
        two = alpha * clip_norm**2 / (2 * values**2) + alpha * 0.5**2 / (2 * count**2)
        assert two == pytest.approx(alpha / (2 * 1.3**2), rel=1e-12)
    # An uncentred count (sensitivity 1), or the values' noise left at z, would spend more than is accounted for.
    assert (clip_norm / values) ** 2 + (1.0 / count) ** 2 > 1.3**-2 * 1.05
    assert 1.3**-2 + (0.5 / count) ** 2 > 1.3**-2 * 1.05


def test_an_accountant_agrees_that_the_two_are_one():
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    source = Silent()
    released([], plan=ADAPTIVE_PLAN, shapes=SCALAR, source=source)
    (_, values), (_, count) = source.asked
    two, one = RdpAccountant(), RdpAccountant()
    two.compose(dp_event.GaussianDpEvent(values / 1.0), 20)
    two.compose(dp_event.GaussianDpEvent(count / 0.5), 20)
    one.compose(dp_event.GaussianDpEvent(1.3), 20)
    assert two.get_epsilon(1e-3) == pytest.approx(one.get_epsilon(1e-3), rel=1e-9)


def adapted(rounds, *, start, quantile, step=next_clip_norm, seed=0, rate=0.3, clients=400):
    """Return where the clipping norm goes from ``start``, and the clients' norms: lognormal around 5."""
    adaptive = AdaptiveClipping(quantile=quantile, learning_rate=0.2, count_noise=3.0)
    generator, source = np.random.default_rng(seed), SeededSource(seed)
    norms = generator.lognormal(log(5.0), 0.5, clients)
    divisor = int(rate * clients)
    clip_norm, seen = start, []
    for _ in range(rounds):
        cohort = norms[list(poisson_cohort(range(clients), rate, source))]
        noise = float(source.gaussian((), std=adaptive.count_noise, device=torch.device("cpu"), dtype=torch.float64))
        count = np.where(cohort <= clip_norm, 0.5, -0.5).sum() + noise
        clip_norm = step(adaptive, clip_norm, noisy_count=count, divisor=divisor)
        seen.append(clip_norm)
    return float(np.mean(seen[-30:])), norms


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.05, 5.0, 500.0])
def test_the_clipping_norm_converges_to_the_quantile_from_either_side(start, quantile):
    reached, norms = adapted(150, start=start, quantile=quantile)
    assert (norms <= reached).mean() == pytest.approx(quantile, abs=0.06)


@pytest.mark.parametrize("start", [0.5, 50.0])
def test_with_the_sign_inverted_the_clipping_norm_would_run_away(start):
    def inverted(adaptive, clip_norm, *, noisy_count, divisor):
        turned = dataclasses.replace(adaptive, learning_rate=-adaptive.learning_rate)
        return next_clip_norm(turned, clip_norm, noisy_count=noisy_count, divisor=divisor)

    reached, norms = adapted(60, start=start, quantile=0.5, step=inverted)
    assert reached < start / 10 or reached > start * 10
    assert (norms <= reached).mean() in {0.0, 1.0}


@pytest.mark.parametrize("count", [1e9, -1e9])
def test_a_clipping_norm_that_runs_away_ends_the_run(count):
    with pytest.raises(RunError, match=r"privacy\.clipping_rate"):
        next_clip_norm(ADAPTIVE, 1.0, noisy_count=count, divisor=8)


# Cohorts


def test_a_cohort_takes_each_client_on_its_own():
    source = SeededSource(0)
    clients = [3, 5, 8, 13]
    drawn = [poisson_cohort(clients, 0.3, source) for _ in range(4000)]
    taken = np.array([[client in cohort for client in clients] for cohort in drawn])
    assert taken.mean(axis=0) == pytest.approx([0.3] * 4, abs=0.03)
    assert np.abs(np.corrcoef(taken.T) - np.eye(4)).max() < 0.06
    sizes = taken.sum(axis=1)
    assert stats.chisquare(np.bincount(sizes, minlength=5), 4000 * stats.binom.pmf(range(5), 4, 0.3)).pvalue > 1e-3
    assert min(map(len, drawn)) == 0
    assert all(cohort == tuple(sorted(cohort)) for cohort in drawn)


def test_a_rate_of_one_takes_all_and_nobody_can_be_drawn_from_nobody():
    assert poisson_cohort([4, 2], 1.0, SeededSource(0)) == (4, 2)
    assert poisson_cohort([], 0.5, SeededSource(0)) == ()
