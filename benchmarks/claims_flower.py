"""What Flower's wrappers for differential privacy say.

Strategies and mods are called with messages, as Flower's runtime does. Where the wrapper has an accountant, the claim
is that of the accountant; where it has none, it is the epsilon of the noise multiplier that was set, for its bound.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from math import exp, inf, log
from typing import Any

import numpy as np
from claims_bounds import DELTA, Row, gaussian, poisson, two
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)
from flwr.supercore.privacy_accounting import NeighboringRelation, PrivacyConfig, SamplingMethod
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant
from flwr.supercore.task_identity import TaskIdentity

FIXED, ADAPTIVE, LOCAL = "Flower, fixed clipping", "Flower, adaptive clipping", "Flower, LocalDpMod"
CLIENTS, CLIP, NOISE = 10, 1.0, 1.0
Arrays = dict[str, np.ndarray[Any, Any]]
MODEL: Arrays = {"first": np.zeros(4), "second": np.full(4, 5.0)}


class Nodes:
    """The one method of a grid that a strategy calls to draw a cohort."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self.count + 1)


def rows() -> Iterator[Row]:
    """Yield what was measured, one situation after the other."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    # Flower's programs set these before an app runs. A message cannot be made without them.
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    yield from (overflow(), no_change(), another_order(), replaced_in_the_sample(), metric(), known_seed())
    yield from (weights(accounted=True), weights(accounted=False), dropout(accounted=True), dropout(accounted=False))
    yield from (count_of_clipped(), direction())
    yield from (classic_formula(), local_rounds())


def fixed(*, accounted: bool = True, population: int = CLIENTS) -> DifferentialPrivacyServerSideFixedClipping:
    """Return the wrapper around FedAvg, with Flower's accountant or without."""
    config = PrivacyConfig(
        target_delta=DELTA,
        population_size=population,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
    )
    return DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_train=0.5, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS),
        noise_multiplier=NOISE,
        clipping_norm=CLIP,
        num_sampled_clients=CLIENTS,
        accountant=RdpAccountant(config) if accounted else None,
    )


def update(**change: float) -> Arrays:
    """Return the model with some arrays moved, each over all its numbers by a vector of the given length."""
    return {name: value + change.get(name, 0.0) / 2 for name, value in MODEL.items()}


def release(
    strategy: Any,
    trained: list[Arrays],
    *,
    weight: list[int] | None = None,
    loss: list[float] | None = None,
    seed: int = 7,
) -> tuple[Arrays, float]:
    """Let the strategy configure and aggregate a round, with noise of a seed; return the model and the loss."""
    arrays = ArrayRecord({name: Array(value) for name, value in MODEL.items()})
    list(strategy.configure_train(1, arrays, ConfigRecord(), Nodes(CLIENTS)))
    replies = []
    for node, state in enumerate(trained):
        metrics = MetricRecord(
            {
                "num-examples": weight[node] if weight else 1,
                "train_loss": loss[node] if loss else 0.5,
            }
        )
        content = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(np.asarray(value)) for name, value in state.items()}),
                "metrics": metrics,
            }
        )
        replies.append(Message(content, dst_node_id=node + 1, message_type=MessageType.TRAIN))
    np.random.seed(seed)  # noqa: NPY002 - the generator that Flower draws its noise from
    made, metrics = strategy.aggregate_train(1, replies)
    if made is None:
        raise ValueError("no model: the round is skipped")
    return {name: value.numpy() for name, value in made.items()}, float(metrics["train_loss"])


def spent(strategy: Any) -> float:
    """Return the epsilon of Flower's accountant after the round."""
    return float(strategy.privacy_spent().epsilon)


def measured(
    situation: str, program: str, worlds: Callable[[Any], tuple[Arrays, Arrays]], *, accounted: bool, what: str
) -> Row:
    """Compare two worlds with the same noise: how far is one client's part from the deviation of the noise."""
    strategy = fixed(accounted=accounted)
    try:
        with_it, without = worlds(strategy)
    except (ValueError, ZeroDivisionError) as error:
        return Row(situation=situation, program=program, claimed=None, true=None, note=f"{_name(error)}: {error}")
    claimed = spent(strategy) if accounted else gaussian(1 / NOISE)
    moved = np.concatenate([with_it[name] - without[name] for name in MODEL])
    if not np.isfinite(moved).all():
        return Row(situation=situation, program=program, claimed=claimed, true=inf, note=what, implied=not accounted)
    shift = float(np.linalg.norm(moved)) * CLIENTS / (NOISE * CLIP)
    note = f"{what}: {shift:.2f} deviations of the noise"
    return Row(
        situation=situation, program=program, claimed=claimed, true=gaussian(shift), note=note, implied=not accounted
    )


def _name(error: Exception) -> str:
    return "raises" if isinstance(error, ZeroDivisionError) else "refused"


def overflow() -> Row:
    def worlds(strategy: Any) -> tuple[Arrays, Arrays]:
        others = [update(first=1e-3)] * (CLIENTS - 1)
        with_it, _ = release(strategy, [*others, update(first=np.nan)])
        return with_it, release(fixed(), [*others, update(first=1e-3)])[0]

    what = "the model is NaN if the client's update is"
    return measured("an update that is not finite", FIXED, worlds, accounted=True, what=what)


def no_change() -> Row:
    def worlds(strategy: Any) -> tuple[Arrays, Arrays]:
        model, _ = release(strategy, [update(first=1.0)] * (CLIENTS - 1) + [update()])
        return model, model

    return measured("an update of zero", FIXED, worlds, accounted=True, what="released")


def another_order() -> Row:
    """One client returns its two arrays, which have one shape, in another order."""

    def worlds(strategy: Any) -> tuple[Arrays, Arrays]:
        others = [update(first=1e-3)] * (CLIENTS - 1)
        with_it, _ = release(strategy, [*others, dict(reversed(update(first=1e-3).items()))])
        return with_it, release(fixed(), [*others, update(first=1e-3)])[0]

    what = "arrays in another order move the model"
    return measured("clipping by position", FIXED, worlds, accounted=True, what=what)


def replaced_in_the_sample() -> Row:
    """Add a client to the ten: ten are drawn all the same, so that it takes the place of another."""
    others = [update(first=-9.0)] * (CLIENTS - 1)
    strategy = fixed()
    with_it, _ = release(strategy, [*others, update(first=9.0)])
    without, _ = release(fixed(), [*others, update(first=-9.0)])
    shift = float(np.linalg.norm(with_it["first"] - without["first"])) * CLIENTS / (NOISE * CLIP)
    chance = CLIENTS / (CLIENTS + 1)
    note = f"of 11 clients 10 are drawn: with chance {chance:.2f} a client moves the mean by {shift:.2f} deviations"
    return Row(
        situation="add one, accounted; replace one, done",
        program=FIXED,
        claimed=spent(strategy),
        true=poisson(chance, 1 / shift, 1),
        note=note,
    )


def metric() -> Row:
    strategy = fixed()
    states = [update(first=1.0)] * CLIENTS
    _, loss = release(strategy, states, loss=[0.5] * 9 + [0.75])
    _, usual = release(fixed(), states)
    assert loss != usual
    return Row(
        situation="metrics in the clear",
        program=FIXED,
        claimed=spent(strategy),
        true=inf,
        note="the mean training loss is released without noise",
        said=True,
    )


def known_seed() -> Row:
    strategy = fixed()
    noisy, _ = release(strategy, [update(first=1.0)] * CLIENTS, seed=42)
    again, _ = release(fixed(), [update(first=1.0)] * CLIENTS, seed=42)
    assert all((noisy[name] == again[name]).all() for name in MODEL)
    note = "np.random.seed repeats all noise: it can be subtracted"
    return Row(
        situation="the script sets the seed of the noise", program=FIXED, claimed=spent(strategy), true=inf, note=note
    )


def weights(*, accounted: bool) -> Row:
    """One client says that it has a thousand times the examples of the others."""

    def worlds(strategy: Any) -> tuple[Arrays, Arrays]:
        others = [update(first=1e-9)] * (CLIENTS - 1)
        weight = [1] * (CLIENTS - 1) + [1000]
        with_it, _ = release(strategy, [*others, update(first=1.0)], weight=weight)
        return with_it, release(fixed(accounted=accounted), [*others, update(first=1e-9)], weight=weight)[0]

    program = FIXED if accounted else f"{FIXED}, no accountant"
    what = "a client of 1000 examples among ones of 1"
    return measured("weights without a bound", program, worlds, accounted=accounted, what=what)


def dropout(*, accounted: bool) -> Row:
    """Two of ten clients answer, and the noise is that of a mean over ten."""

    def worlds(strategy: Any) -> tuple[Arrays, Arrays]:
        with_it, _ = release(strategy, [update(first=1e-9), update(first=1.0)])
        return with_it, release(fixed(accounted=accounted), [update(first=1e-9), update(first=1e-9)])[0]

    program = FIXED if accounted else f"{FIXED}, no accountant"
    what = "2 of 10 answer, with a warning"
    return measured("fewer clients than the noise is for", program, worlds, accounted=accounted, what=what)


def adaptive(**given: float) -> DifferentialPrivacyServerSideAdaptiveClipping:
    return DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(min_train_nodes=CLIENTS, min_available_nodes=CLIENTS),
        noise_multiplier=NOISE,
        num_sampled_clients=CLIENTS,
        **{"initial_clipping_norm": CLIP, "clipped_count_stddev": 0.55, **given},
    )


def count_of_clipped() -> Row:
    """Replace one long update by nearly zero: how far do the sum and the count move, each over its noise."""
    others = [update(first=1e-9)] * (CLIENTS - 1)
    models, norms = [], []
    for mine in (update(first=9.0), update(first=1e-9)):
        strategy = adaptive()
        models.append(release(strategy, [*others, mine])[0])
        norms.append(strategy.clipping_norm)
    counts = abs(log(norms[0] / norms[1])) / 0.2 * CLIENTS
    # The noise of the values follows the norm that the count has set; with the norm taken out, what moves is the rest.
    value = 1 / strategy.noise_multiplier
    shift = two(value, counts / strategy.clipped_count_stddev)
    note = f"one client moves the count of clipped updates by {counts:.2f}; its noise is for 0.5"
    return Row(
        situation="the count of adaptive clipping",
        program=ADAPTIVE,
        claimed=gaussian(1 / NOISE),
        true=gaussian(shift),
        note=note,
        implied=True,
    )


def direction() -> Row:
    """Adapt the clipping norm to updates of the lengths 1 to 10 over 50 rounds; half of them should be within."""
    strategy = adaptive(clipped_count_stddev=0.6)
    states = [update(first=float(length)) for length in range(1, CLIENTS + 1)]
    for seed in range(50):
        release(strategy, states, seed=seed)
    note = f"no epsilon is false, the norm is: {strategy.clipping_norm:.2g} after 50 rounds for updates of 1 to 10"
    assert not exp(-3) < strategy.clipping_norm / 5.5 < exp(3)
    return Row(situation="the direction of adaptive clipping", program=ADAPTIVE, claimed=None, true=None, note=note)


def local(epsilon: float, change: float, seed: int) -> np.ndarray[Any, Any]:
    """Return what a client sends through Flower's mod, for a bound of 1/2, so that two updates differ by 1 at most."""
    sent = ArrayRecord({"w": Array(np.zeros(10_000))})
    moved = np.zeros(10_000)
    moved[0] = change

    def app(message: Message, _: Context) -> Message:
        return Message(RecordDict({"arrays": ArrayRecord({"w": Array(moved)})}), reply_to=message)

    mod = LocalDpMod(clipping_norm=0.5, sensitivity=1.0, epsilon=epsilon, delta=DELTA)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    message = Message(RecordDict({"arrays": sent}), dst_node_id=1, message_type=MessageType.TRAIN)
    np.random.seed(seed)  # noqa: NPY002 - the generator that Flower draws its noise from
    return mod(message, context, app).content["arrays"]["w"].numpy()  # type: ignore[no-any-return,union-attr]


def shift_of(epsilon: float) -> float:
    """Measure how far two updates are apart that the mod makes private, over the deviation of its noise."""
    apart = local(epsilon, 9.0, 7) - local(epsilon, -9.0, 7)
    return float(np.linalg.norm(apart)) / float(local(epsilon, 0.5, 8)[1:].std())


def classic_formula(epsilon: float = 50.0) -> Row:
    shift = shift_of(epsilon)
    # The deviation is measured of 10,000 numbers, so the bound is computed for three percent less.
    note = f"one release: two updates are {shift:.2f} deviations of the noise apart"
    return Row(
        situation="the classic formula above epsilon 1",
        program=LOCAL,
        claimed=epsilon,
        true=gaussian(0.97 * shift),
        note=note,
    )


def local_rounds(epsilon: float = 1.0, rounds: int = 10) -> Row:
    shift = 0.97 * shift_of(epsilon)
    note = f"{rounds} rounds of its epsilon {epsilon:g}, which nothing adds up"
    return Row(
        situation="an accountant for each round or run",
        program=LOCAL,
        claimed=epsilon,
        true=gaussian(shift * rounds**0.5),
        note=note,
    )
