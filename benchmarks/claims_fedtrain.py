"""What fedtrain says of the situations of single records, and of a whole run."""

import tempfile
from collections.abc import Iterator, Sequence
from math import inf
from textwrap import shorten
from typing import Any
from unittest import mock

import torch
from claims_bounds import DELTA, TINY, TINY_STEPS, Row, gaussian, poisson, tiny
from claims_situations import CLASSES, LEARNING, WIDTH, Learning, MaxNorm, Perceptron, Wide
from torch import Tensor, nn

from fedtrain import simulate
from fedtrain.config import Training, from_flat
from fedtrain.data import ClassTarget, Columns, DataInfo
from fedtrain.errors import PrivacySpecError, TaskError
from fedtrain.privacy import PrivacyPlan, PrivacySpec, SampledGaussian, calibrate, claim
from fedtrain.privacy.noise import RandomSource, SecureSource, SeededSource
from fedtrain.tasks import ClassificationMetrics, Metrics, Records, Task
from fedtrain.training import RoundSettings, private
from fedtrain.training.preflight import preflight
from fedtrain.training.private import PrivateTrainer, with_noise

FEDTRAIN = "fedtrain"
CLIP, STEPS = 1.0, 20
ONE = SampledGaussian(sampling_rate=1.0, noise_multiplier=1.0, steps=1)


def rows() -> Iterator[Row]:
    """Yield what was measured, one situation after the other."""
    yield from runs()
    yield from (learning(each) for each in LEARNING if not each.ghost)
    yield from (max_norm(), overflow(), accumulated(), poisson_batches(), one_record_more(), central_limit())
    yield from (one_release(), tiny_delta(), without_noise(), metric())


def claimed(event: SampledGaussian = ONE) -> float:
    return claim([event], DELTA).epsilon


def row(situation: str, *, true: float, note: str, event: SampledGaussian = ONE) -> Row:
    return Row(situation=situation, program=FEDTRAIN, claimed=claimed(event), true=true, note=note)


def refused(situation: str, why: str) -> Row:
    return Row(
        situation=situation,
        program=FEDTRAIN,
        claimed=None,
        true=None,
        note=shorten(f"refused: {why}", 96, placeholder=" ..."),
    )


# The whole program: two runs on the same records


def runs(rounds: int = 3) -> Iterator[Row]:
    """Simulate two runs of three rounds each on the same ledgers, and read their reports."""
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            experiment = from_flat(
                {
                    "federation.clients": 2,
                    "federation.cohort": 2,
                    "federation.rounds": rounds,
                    "federation.sites": f"{folder}/sites",
                    "data.max_records": 400,
                    "task.model": "linear",
                    "training.batch_size": 16,
                    "privacy.mode": "record",
                    "privacy.delta": DELTA,
                    "privacy.sampling_rate": 0.1,
                    "privacy.noise_multiplier": 1.0,
                    "server.evaluate_every": rounds,
                    "output.screen": "none",
                }
            )
            privacy = simulate(experiment, out=f"{folder}/run-{number}").report.privacy
    assert privacy is not None
    assert privacy.mechanism is not None
    steps = 2 * rounds * privacy.mechanism.steps_per_round
    yield Row(
        situation="an accountant for each round or run",
        program=FEDTRAIN,
        claimed=privacy.epsilon,
        true=poisson(0.1, 1.0, steps),
        note=f"the report of the second of two runs of {rounds} rounds: {steps} steps at rate 0.1",
    )
    nobody = not any(adversary.bounded for adversary in privacy.adversaries)
    assert nobody, "seeded noise is said to bound somebody"
    secure = [SecureSource().gaussian((4,), std=1.0, device=torch.device("cpu")) for _ in range(2)]
    torch.manual_seed(42)
    assert not torch.equal(*secure)
    yield Row(
        situation="the script sets the seed of the noise",
        program=FEDTRAIN,
        claimed=None,
        true=None,
        note="of seeded noise the report says that nobody is bounded; secure noise has no seed",
    )


# Records


class Given(Task):
    """A task with a model and a loss that are given."""

    def __init__(self, case: Learning) -> None:
        self._case = case

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self._case.model().to(self._case.dtype)

    def collate(self, records: Records, generator: torch.Generator | None) -> dict[str, Tensor]:  # noqa: ARG002 - draws nothing
        return {"inputs": records.features.to(self._case.dtype), "targets": records.targets}

    def losses(self, outputs: Any, batch: dict[str, Tensor]) -> Tensor:
        return self._case.loss(outputs, batch["targets"])

    def metrics(self) -> Metrics:
        return ClassificationMetrics(CLASSES)


class Counting:
    """A source that remembers how many of how many records were drawn, and counts noise."""

    name = "seeded"

    def __init__(self) -> None:
        self._source = SeededSource(0)
        self.drawn: list[tuple[int, int]] = []
        self.noises = 0

    def gaussian(self, shape: Any, **named: Any) -> Tensor:
        self.noises += 1
        return self._source.gaussian(shape, **named)

    def bernoulli(self, count: int, probability: float) -> Tensor:
        mask = self._source.bernoulli(count, probability)
        self.drawn.append((int(mask.sum()), count))
        return mask


def trained(
    case: Learning,
    features: Tensor,
    targets: Tensor,
    *,
    plan: PrivacyPlan,
    source: RandomSource | None = None,
    **config: Any,
) -> Tensor:
    """Return by how much the weights change, after a preflight."""
    task = Given(case)
    model = task.model()
    info = DataInfo(
        features=Columns(shape=tuple(features.shape[1:])),
        target=ClassTarget(names=tuple("abc"[: max(CLASSES, 3)])),
    )
    found = preflight(model, task, info)
    before = torch.cat([each.detach().flatten().clone() for each in model.parameters()])
    config = Training(learning_rate=1.0, **config)
    trainer = PrivateTrainer(config=config, plan=plan, source=source or SeededSource(0), preflight=found)
    settings = RoundSettings(learning_rate=1.0, proximal_mu=0.0, seed=0)
    told = trainer.train(model, task, Records(features=features, targets=targets), settings)
    assert told is None
    return (torch.cat([each.detach().flatten() for each in model.parameters()]) - before).double()


def plan_of(divisor: int, *, clip: float, rate: float = 1.0, noise: float = 1.0, steps: int = 1) -> PrivacyPlan:
    spec = PrivacySpec(
        unit="record",
        neighbouring="add or remove one record",
        epsilon=100.0,
        delta=DELTA,
        clip_norm=clip,
        sampling_rate=rate,
        divisor=divisor,
        population=divisor / rate,
        steps_per_round=steps,
        rounds=1,
    )
    return PrivacyPlan(spec=spec, noise_multiplier=noise)


def influence(case: Learning, **config: Any) -> float:
    """Return by how much one record moves the sum at most, over the clipping norm: with the noise taken out."""
    features, targets = case.records()
    # Far more than rounding, and far less than what is measured: the same noise is in both weights.
    plan = plan_of(case.count, clip=case.clip, noise=1e-2 if case.dtype is torch.float32 else 0.3)

    def changed(kept: Tensor) -> Tensor:
        return trained(case, features[kept], targets[kept], plan=plan, **config)

    whole = changed(torch.arange(case.count))
    return max(float((whole - changed(kept)).norm()) for kept in case.without()) * case.count / case.clip


def learning(case: Learning) -> Row:
    try:
        moved = half(case) if case.dtype is torch.bfloat16 else influence(case)
    except TaskError as error:
        return refused(
            case.situation, str(error).splitlines()[0].removeprefix("the model cannot be trained privately: ")
        )
    note = f"a record moves the sum by {moved:.3f} clipping norms"
    return row(case.situation, true=gaussian(moved), note=note)


def half(case: Learning) -> float:
    """Measure the sums when their noise is drawn: the weights are rounded later."""
    features, targets = case.records()
    sums: list[Tensor] = []

    def watching(found: Sequence[Tensor], *, std: float, source: RandomSource) -> list[Tensor]:
        sums.append(torch.cat([total.double().flatten() for total in found]))
        return with_noise(found, std=std, source=source)

    worlds = [torch.arange(case.count), *case.without()]
    with mock.patch.object(private, "with_noise", watching):
        for kept in worlds:
            trained(case, features[kept], targets[kept], plan=plan_of(case.count, clip=case.clip))
    assert len(sums) == len(worlds)
    return max(float((sums[0] - without).norm()) for without in sums[1:]) / case.clip


def max_norm() -> Row:
    """Prepare an embedding that is rewritten by the forward pass."""
    situation = "an embedding with max_norm"
    case = Learning(situation=situation, model=MaxNorm)
    try:
        moved = influence(case)
    except TaskError as error:
        return refused(situation, str(error).splitlines()[0].removeprefix("the model cannot be trained privately: "))
    return row(situation, true=gaussian(moved), note=f"a record moves the sum by {moved:.3f} clipping norms")


def changed_by(worlds: Sequence[tuple[Tensor, Tensor]], **config: Any) -> float:
    """Return the distance of the changes of the weights in two worlds with the same noise, in clipping norms."""
    case = Learning(situation="", model=Perceptron)
    plan = plan_of(12, clip=CLIP, noise=0.01)
    first, second = (trained(case, *world, plan=plan, **config) for world in worlds)
    assert first.isfinite().all()
    return float((first - second).norm()) * 12 / CLIP


def overflow() -> Row:
    features, targets = torch.ones(12, WIDTH), torch.zeros(12, dtype=torch.long)
    features[0] = torch.inf
    moved = changed_by([(features, targets), (features[1:], targets[1:])])
    note = f"such a record moves the sum by {moved:.3f} clipping norms"
    return row("a gradient that is not finite", true=gaussian(moved), note=note)


def accumulated() -> Row:
    """Compute a batch of twelve in parts of five, and count the noise."""
    features, targets = Learning(situation="", model=Perceptron).records()
    worlds = [(features, targets), (features[:-1], targets[:-1])]
    moved = changed_by(worlds, physical_batch_size=5)
    source = Counting()
    trained(
        Learning(situation="", model=Perceptron),
        features,
        targets,
        plan=plan_of(12, clip=CLIP),
        source=source,
        physical_batch_size=5,
    )
    assert source.noises == 1, "noise is not drawn once a step"
    note = f"3 parts of a batch, noise once; a record moves the sum by {moved:.3f} clipping norms"
    return row("accumulated batches", true=gaussian(moved), note=note)


def poisson_batches(noise: float = 0.6, steps: int = 1000) -> Row:
    """Draw the batches of the plan that Opacus takes shuffled batches for, 20 steps of it."""
    event = SampledGaussian(sampling_rate=1 / steps, noise_multiplier=noise, steps=steps)
    source = Counting()
    records = (torch.ones(2 * steps, WIDTH), torch.zeros(2 * steps, dtype=torch.long))
    plan = plan_of(2, clip=CLIP, rate=1 / steps, steps=STEPS)
    trained(Learning(situation="", model=Perceptron), *records, plan=plan, source=source)
    sizes = [size for size, of in source.drawn if of == 2 * steps]
    assert len(sizes) == STEPS
    assert len(set(sizes)) > 1, "the batches have one size"
    note = f"batches of {min(sizes)} to {max(sizes)} records: Poisson sampling"
    true = poisson(1 / steps, noise, steps)
    return row("shuffled batches", true=true, note=note, event=event)


def one_record_more() -> Row:
    """Train on 100 and on 101 records whose gradients are zero, under one plan."""
    event = SampledGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=10)
    plan = plan_of(10, clip=CLIP, rate=0.1, steps=10)
    case = Learning(situation="", model=Wide)
    spread = [
        float(trained(case, torch.zeros(n, 64), torch.zeros(n, dtype=torch.long), plan=plan).var()) for n in (100, 101)
    ]
    ratio = spread[1] / spread[0]
    assert ratio == 1.0, ratio
    note = f"101 records for 100: the noise has {ratio:.2f} times the variance"
    return row("rate, steps, divisor of the private n", true=poisson(0.1, 1.0, 10), note=note, event=event)


def central_limit() -> Row:
    event = SampledGaussian(sampling_rate=0.01, noise_multiplier=0.6, steps=100)
    note = "composed numerically, rounded up"
    return row("Gaussian DP by the central limit", true=poisson(0.01, 0.6, 100), note=note, event=event)


def one_release() -> Row:
    event = SampledGaussian(sampling_rate=1.0, noise_multiplier=0.3, steps=1)
    note = "one Gaussian of noise multiplier 0.3, accounted exactly"
    return row("the classic formula above epsilon 1", true=gaussian(1 / 0.3), note=note, event=event)


def tiny_delta() -> Row:
    rate, noise, steps = TINY_STEPS
    event = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)
    bound = claim([event], TINY)
    note = f"by {bound.accountant}, with what rounding can do"
    return Row(situation="a delta of 1e-12", program=FEDTRAIN, claimed=bound.epsilon, true=tiny(), note=note)


def without_noise() -> Row:
    situation = "a filter without noise"
    try:
        calibrate(plan_of(12, clip=CLIP).spec, noise_multiplier=0.0)
    except PrivacySpecError as error:
        return refused(situation, str(error))
    return row(situation, true=inf, note="a plan without noise is made")


def metric() -> Row:
    case = Learning(situation="metrics in the clear", model=Perceptron)
    trained(case, *case.records(), plan=plan_of(12, clip=CLIP))
    note = "a private client's trainer returns no loss, and a client sends no measurement"
    return Row(situation=case.situation, program=FEDTRAIN, claimed=None, true=None, note=note)
