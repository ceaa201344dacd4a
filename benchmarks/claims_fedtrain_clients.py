"""What fedtrain says of the situations of whole clients."""

from collections.abc import Iterator, Sequence
from math import log
from typing import Any

import numpy as np
from claims_bounds import DELTA, Row, gaussian, two
from claims_fedtrain import CLIP, FEDTRAIN, row

from fedtrain.privacy import AdaptiveClipping, PrivacyPlan, PrivacySpec
from fedtrain.privacy.client_level import Contribution, Release, release
from fedtrain.privacy.noise import SeededSource

CLIENTS = 10
LENGTHS = range(1, CLIENTS + 1)
Arrays = dict[str, np.ndarray[Any, Any]]
MODEL: Arrays = {"first": np.zeros(4), "second": np.full(4, 5.0)}


def rows() -> Iterator[Row]:
    """Yield what was measured, one situation after the other."""
    yield from (overflow(), no_change(), another_order(), zeroed(), weights(), dropout())
    yield from (count_of_clipped(), direction(), scalar())


def update(**change: float) -> Arrays:
    """Return an update: each array a vector of the given length, all of its numbers the same."""
    return {name: np.full(4, change.get(name, 0.0) / 2) for name in MODEL}


def released(
    updates: Sequence[Arrays], *, adaptive: AdaptiveClipping | None = None, clip: float = CLIP, seed: int = 7
) -> tuple[Release, PrivacyPlan]:
    """Return a release of ten clients, with noise of a seed."""
    spec = PrivacySpec(
        unit="client",
        neighbouring="zero out one client",
        epsilon=100.0,
        delta=DELTA,
        clip_norm=CLIP,
        sampling_rate=1.0,
        divisor=CLIENTS,
        population=float(CLIENTS),
        steps_per_round=1,
        rounds=1,
        adaptive=adaptive,
    )
    plan = PrivacyPlan(spec=spec, noise_multiplier=1.0)
    contributions = [
        Contribution(update=each, within=float(np.linalg.norm(np.concatenate(list(each.values())))) <= clip)
        for each in updates
    ]
    made = release(
        plan,
        clip_norm=clip,
        shapes=dict.fromkeys(MODEL, (4,)),
        contributions=contributions,
        source=SeededSource(seed),
    )
    return made, plan


def compared(situation: str, with_it: Sequence[Arrays], without: Sequence[Arrays], what: str) -> Row:
    """Compare two worlds with the same noise: how far is one client's part from the deviation of the noise."""
    worlds = [np.concatenate(list(released(world)[0].mean.values())) for world in (with_it, without)]
    assert all(np.isfinite(world).all() for world in worlds)
    shift = float(np.linalg.norm(worlds[0] - worlds[1])) * CLIENTS / CLIP
    return row(situation, true=gaussian(shift), note=f"{what}: {shift:.2f} deviations of the noise")


def overflow() -> Row:
    others = [update(first=1e-3)] * (CLIENTS - 1)
    with_it = [*others, {**update(), "first": np.full(4, np.nan)}]
    return compared("an update that is not finite", with_it, [*others, update()], "such an update moves the mean")


def no_change() -> Row:
    others = [update(first=0.5)] * (CLIENTS - 1)
    return compared("an update of zero", [*others, update()], others, "an update of zero moves the mean")


def another_order() -> Row:
    others = [update(first=1e-3)] * (CLIENTS - 1)
    mine = dict(reversed(update(first=9.0, second=3.0).items()))
    return compared("clipping by position", [*others, mine], others, "arrays in another order move the mean")


def zeroed() -> Row:
    """Zero one client's update, which is the relation that a run with known cohorts claims."""
    others = [update(first=-9.0)] * (CLIENTS - 1)
    situation = "add one, accounted; replace one, done"
    return compared(
        situation, [*others, update(first=9.0)], [*others, update()], 'claimed: "zero out one client"; moves'
    )


def weights() -> Row:
    others = [update(first=1e-9)] * (CLIENTS - 1)
    what = "every client has the weight 1; a long update moves the mean"
    return compared("weights without a bound", [*others, update(first=9.0)], others, what)


def dropout() -> Row:
    what = "2 of 10 answer, divided by 10 all the same; one moves the mean"
    return compared("fewer clients than the noise is for", [update(first=9.0)] * 2, [update(first=9.0)], what)


def count_of_clipped() -> Row:
    """Replace one long update by nothing: how far do the sum and the count move, each over its noise."""
    adaptive = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=0.55)
    others = [update(first=1e-9)] * (CLIENTS - 1)
    worlds = [released(world, adaptive=adaptive) for world in ([*others, update(first=9.0)], others)]
    plan = worlds[0][1]
    values = np.linalg.norm(worlds[0][0].mean["first"] - worlds[1][0].mean["first"]) * CLIENTS
    counts = abs(log(worlds[0][0].clip_norm / worlds[1][0].clip_norm)) / adaptive.learning_rate * CLIENTS
    shift = two(float(values) / plan.value_noise_multiplier, counts / adaptive.count_noise)
    note = f"one client moves the count by {counts:.2f}, and both together by {shift:.2f} deviations"
    return row("the count of adaptive clipping", true=gaussian(round(shift, 5)), note=note)


def direction() -> Row:
    adaptive = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=0.6)
    norm = CLIP
    for seed in range(50):
        updates = [update(first=float(length)) for length in LENGTHS]
        norm = released(updates, adaptive=adaptive, clip=norm, seed=seed)[0].clip_norm
    assert min(LENGTHS) < norm < max(LENGTHS)
    note = f"the norm is {norm:.2g} after 50 rounds for updates of 1 to 10"
    return Row(situation="the direction of adaptive clipping", program=FEDTRAIN, claimed=None, true=None, note=note)


def scalar() -> Row:
    """Change a number without dimensions alone, far beyond the bound."""
    plan = released([])[1]
    worlds = [
        release(
            plan,
            clip_norm=CLIP,
            shapes={"temperature": (), "w": (4,)},
            contributions=[Contribution(update={"temperature": np.float64(far), "w": np.zeros(4)}, within=False)],
            source=SeededSource(7),
        ).mean["temperature"]
        for far in (9.0, 0.0)
    ]
    shift = abs(float(worlds[0] - worlds[1])) * CLIENTS / CLIP
    note = f"it has noise like all others, and moves by {shift:.2f} deviations"
    return row("a number without dimensions", true=gaussian(shift), note=note)
