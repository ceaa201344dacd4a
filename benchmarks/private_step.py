"""One step of DP-SGD beside the plain step: fedtrain's, and each of Opacus' ways, interleaved, as ratios.

    python benchmarks/private_step.py [--batch N ...] [--seconds S] [model ...]

cnn          the tutorial's CNN, 122,570 parameters, images of 3x32x32
resnet       ResNet-20 with group normalisation, 269,722 parameters, images of 3x32x32
mlp          784-128-10, 0.1 million parameters
mlp-large    784-1024-1024-10, 1.9 million parameters
lstm         an embedding of 1,000 words, an LSTM of 64 by 128 over 32 words, a linear layer
transformer  an embedding of 1,000 words, two encoder layers of width 64 with 4 heads over 32 words, a linear layer

Opacus' ways run on its own LSTM and attention, since it has none for torch's. Times are of the processor, on one
thread, and ratios to the plain step and to that with channels last. Before a way is timed, its step is compared with
the definition: each record alone, clipped, summed, with noise of the right deviation. If fedtrain's computes something
else, the program ends with status 1; what a way of Opacus does else is shown. fedtrain's step is that of its trainer
after the first step of a round, in which it checks itself.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleExpandedWeights, GradSampleModuleFastGradientClipping
from opacus.layers import DPLSTM, DPMultiheadAttention
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.config import Training
from fedtrain.data import ClassTarget, Columns, DataInfo, Image
from fedtrain.privacy import PrivacyPlan, PrivacySpec
from fedtrain.privacy.noise import RandomSource, SecureSource, SeededSource
from fedtrain.tasks import ClassificationMetrics, Records, Task
from fedtrain.tasks.models import ARCHITECTURES
from fedtrain.training import RoundSettings
from fedtrain.training.gradients import by_loop, collate_alone
from fedtrain.training.preflight import PreflightResult, preflight
from fedtrain.training.private import PrivateTrainer

BATCHES = (16, 64, 256)
CLASSES, WORDS, LENGTH = 10, 1000, 32
RATE, CLIP, SMALL, NOISE = 0.01, 1.0, 1e-3, 1.0
# Of a sum of clipped gradients, what another way may differ by; of the deviation of noise, likewise.
CLOSE, SPREAD = 0.01, 0.05
STEPS, FEWEST, MOST = 3, 3, 9


class Given(Task):
    """Classifies records as they are."""

    def __init__(self, *, words: bool) -> None:
        self._words = words

    def model(self) -> nn.Module:
        raise NotImplementedError

    def collate(self, records: Records, generator: torch.Generator | None) -> dict[str, Tensor]:
        del generator
        features = records.features
        return {"inputs": features.long() if self._words else features.float(), "targets": records.targets}

    def losses(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(CLASSES)


class Recurrent(nn.Module):
    """An LSTM of torch or of Opacus over words."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 64), nn.Linear(128, CLASSES)
        self.lstm = kind(64, 128, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        result: Tensor = self.head(self.lstm(self.words(words))[0][:, -1])
        return result


class Encoder(nn.Module):
    """A layer of a transformer, with attention of torch or of Opacus."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.attention = kind(64, 4, batch_first=True)
        self.wide, self.narrow = nn.Linear(64, 128), nn.Linear(128, 64)
        self.before, self.after = nn.LayerNorm(64), nn.LayerNorm(64)

    def forward(self, hidden: Tensor) -> Tensor:
        normal = self.before(hidden)
        hidden = hidden + self.attention(normal, normal, normal, need_weights=False)[0]
        result: Tensor = hidden + self.narrow(functional.gelu(self.wide(self.after(hidden))))
        return result


class Transformer(nn.Module):
    """A transformer over words."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 64), nn.Linear(64, CLASSES)
        self.layers = nn.Sequential(Encoder(kind), Encoder(kind))

    def forward(self, words: Tensor) -> Tensor:
        result: Tensor = self.head(self.layers(self.words(words)).mean(1))
        return result


def perceptron(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for taken, made in pairwise(widths):
        layers += [nn.Linear(taken, made), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


IMAGE = (3, 32, 32)
# For each model: how it is built for torch and for Opacus, and the shape of a record.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (partial(ARCHITECTURES["cnn-cifar"].build, IMAGE, CLASSES),) * 2 + (IMAGE,),
    "resnet": (partial(ARCHITECTURES["resnet-gn"].build, IMAGE, CLASSES),) * 2 + (IMAGE,),
    "mlp": (partial(perceptron, 784, 128, CLASSES),) * 2 + ((784,),),
    "mlp-large": (partial(perceptron, 784, 1024, 1024, CLASSES),) * 2 + ((784,),),
    "lstm": (partial(Recurrent, nn.LSTM), partial(Recurrent, DPLSTM), (LENGTH,)),
    "transformer": (
        partial(Transformer, nn.MultiheadAttention),
        partial(Transformer, DPMultiheadAttention),
        (LENGTH,),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model at a batch size."""

    name: str
    count: int
    task: Given
    info: DataInfo
    records: Records

    def model(self, *, opacus: bool) -> nn.Module:
        torch.manual_seed(0)
        return MODELS[self.name][opacus]().train()


def case_of(name: str, count: int) -> Case:
    shape, draw = MODELS[name][2], torch.Generator().manual_seed(1)
    names = tuple("abcdefghij")
    words = shape == (LENGTH,)
    features = torch.randn(count, *shape, generator=draw)
    if words:
        features = torch.randint(WORDS, (count, *shape), generator=draw).float()
    kind = Image(shape=shape) if shape == IMAGE else Columns(shape=shape)
    return Case(
        name=name,
        count=count,
        task=Given(words=words),
        info=DataInfo(features=kind, target=ClassTarget(names=names)),
        records=Records(features=features, targets=torch.randint(CLASSES, (count,), generator=draw)),
    )


Way = Callable[[Case, nn.Module, float], Iterator[float]]
"""Trains a model on all records of a case with noise, step by step, and yields the seconds of each."""


def plain(case: Case, model: nn.Module, noise: float, *, last: bool = False) -> Iterator[float]:
    """Step on the mean loss by torch.optim, without privacy, with channels last if asked for."""
    del noise
    batch = case.task.collate(case.records, None)
    if last:
        model.to(memory_format=torch.channels_last)
        batch["inputs"] = batch["inputs"].contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    while True:
        started = time.process_time()
        optimizer.zero_grad()
        functional.cross_entropy(model(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
        yield time.process_time() - started


@dataclass(kw_only=True)
class Timed:
    """A source of randomness that notes when each step draws its records."""

    source: RandomSource
    name: str = "seeded"
    times: list[float] = field(default_factory=list)

    def gaussian(self, shape: Any, **named: Any) -> Tensor:
        return self.source.gaussian(shape, **named)

    def bernoulli(self, count: int, probability: float) -> Tensor:
        self.times.append(time.process_time())
        return self.source.bernoulli(count, probability)


def ours(case: Case, model: nn.Module, noise: float, *, source: type, proof: PreflightResult) -> Iterator[float]:
    """Step by fedtrain's trainer. The first step of a round, which checks itself, is not timed."""
    first = True
    while True:
        spec = PrivacySpec(
            unit="record",
            neighbouring="add or remove one record",
            epsilon=1.0,
            delta=1e-5,
            clip_norm=CLIP,
            sampling_rate=1.0,
            divisor=case.count,
            population=float(case.count),
            steps_per_round=1 if first else STEPS + 2,
            rounds=1,
        )
        timed = Timed(source=source() if source is SecureSource else source(1))
        trainer = PrivateTrainer(
            config=Training(), plan=PrivacyPlan(spec=spec, noise_multiplier=noise), source=timed, preflight=proof
        )
        trainer.train(model, case.task, case.records, RoundSettings(learning_rate=RATE, proximal_mu=0.0, seed=1))
        if first:
            yield 0.0
            first = False
            continue
        yield statistics.median(after - before for before, after in pairwise(timed.times[1:]))


def opacus(case: Case, model: nn.Module, noise: float, *, mode: str) -> Iterator[float]:
    """Step by Opacus as its documentation has it."""
    batch = case.task.collate(case.records, None)
    original = torch.optim.SGD(model.parameters(), lr=RATE)
    options = {"noise_multiplier": noise, "max_grad_norm": CLIP, "expected_batch_size": case.count}
    criterion: Callable[[Tensor, Tensor], Any] = nn.CrossEntropyLoss()
    wrapped: nn.Module
    if mode == "ghost":
        wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=CLIP, use_ghost_clipping=True)
        optimizer = DPOptimizerFastGradientClipping(original, loss_reduction="mean", **options)
        criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss())
    else:
        if mode == "ew":
            wrapped = GradSampleModuleExpandedWeights(model)
        else:
            wrapped = GradSampleModule(model, force_functorch=mode == "functorch")
        optimizer = DPOptimizer(original, **options)
    while True:
        started = time.process_time()
        optimizer.zero_grad()
        criterion(wrapped(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
        yield time.process_time() - started


def right(case: Case, model: nn.Module) -> Tensor:
    """Return what a step without noise is to change: each record alone, clipped, summed, divided."""
    _, gradients = by_loop(case.task, model, collate_alone(case.task, case.records, None))
    norms = torch.stack([each.flatten(1).norm(dim=1) for each in gradients]).norm(dim=0)
    factors = (CLIP / (norms + 1e-6)).clamp(max=1.0)
    return -RATE / case.count * flat(torch.einsum("i,i...", factors, each) for each in gradients)


def flat(values: Any) -> Tensor:
    return torch.cat([value.detach().flatten() for value in values])


def check(case: Case, name: str, way: Way, expected: Tensor, *, private: bool) -> str:
    """Return what is wrong with a way, or nothing."""
    start = case.model(opacus=name.startswith("Opacus"))
    changes = []
    for noise in (SMALL, NOISE):
        model = deepcopy(start)
        before = flat(model.parameters())
        next(way(case, model, noise))
        changes.append(flat(model.parameters()) - before)
    if not private:
        return "" if changes[0].norm() > 0 else "the weights did not change"
    noise_of_small = RATE * SMALL * CLIP / case.count * len(expected) ** 0.5
    off = float((changes[0] - expected).norm())
    if not off <= CLOSE * float(expected.norm()) + 2 * noise_of_small:
        return f"the clipped sum is off by {off / float(expected.norm()):.3g} of its norm"
    deviation = float((changes[1] - expected).std()) / (RATE * NOISE * CLIP / case.count)
    return "" if abs(deviation - 1) <= SPREAD else f"the noise has {deviation:.3f} times its deviation"


def falls(case: Case, ways: dict[str, Way]) -> None:
    """Fail unless the loss of the plain step falls."""
    model, batch = case.model(opacus=False), case.task.collate(case.records, None)
    losses = []
    for _, _ in zip(range(8), ways["plain"](case, model, 0.0), strict=False):
        losses.append(float(functional.cross_entropy(model(batch["inputs"]), batch["targets"]).detach()))
    if not losses[-1] < losses[0]:
        sys.exit(f"{case.name}: the loss does not fall: {losses}")


def ways_of(case: Case, proof: PreflightResult) -> dict[str, Way]:
    ways: dict[str, Way] = {"plain": plain}
    if case.records.features.shape[1:] == IMAGE:
        ways["plain, channels last"] = partial(plain, last=True)
    ways["fedtrain, seeded"] = partial(ours, source=SeededSource, proof=proof)
    ways["fedtrain, secure"] = partial(ours, source=SecureSource, proof=proof)
    return ways | {f"Opacus, {mode}": partial(opacus, mode=mode) for mode in ("hooks", "ew", "functorch", "ghost")}


def checked(case: Case, ways: dict[str, Way]) -> dict[str, str]:
    """Return what is wrong with ways of Opacus, and fail if anything is with others."""
    expected = {each: right(case, case.model(opacus=each)) for each in (False, True)}
    wrong: dict[str, str] = {}
    for name, way in ways.items():
        theirs = name.startswith("Opacus")
        try:
            why = check(case, name, way, expected[theirs], private=not name.startswith("plain"))
        except Exception as error:
            if not theirs:
                raise
            why = f"fails: {type(error).__name__}"
        if why and not theirs:
            sys.exit(f"{case.name}, {case.count} records, {name}: {why}")
        if why:
            wrong[name] = why
    return wrong


def measure(case: Case, seconds: float) -> None:
    proof = preflight(case.model(opacus=False), case.task, case.info)
    ways = ways_of(case, proof)
    falls(case, ways)
    wrong = checked(case, ways)
    running = {
        name: way(case, case.model(opacus=name.startswith("Opacus")), NOISE)
        for name, way in ways.items()
        if name not in wrong
    }
    for steps in running.values():
        next(steps)
    samples: dict[str, list[float]] = {name: [] for name in running}
    ends = time.monotonic() + seconds
    while len(samples["plain"]) < FEWEST or (len(samples["plain"]) < MOST and time.monotonic() < ends):
        for name, steps in running.items():
            samples[name].append(next(steps))
    medians = {name: statistics.median(found) for name, found in samples.items()}
    print(f"\n{case.name}, {case.count} records, by {proof.way}, median of {len(samples['plain'])}")
    for name in ways:
        if name in wrong:
            print(f"  {name:22} {wrong[name]}")
            continue
        print(f"  {name:22} {1000 * medians[name]:9.2f} ms", end="")
        for base in ("plain", "plain, channels last"):
            if base in medians:
                print(f" {medians[name] / medians[base]:7.2f}", end="")
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="model", help=f"of {', '.join(MODELS)}; by default all")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES, help="records of a batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="for the samples of each model and batch")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(MODELS):
        parser.error(f"there is no model {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    for name in arguments.models or MODELS:
        for count in arguments.batch:
            measure(case_of(name, count), arguments.seconds)


if __name__ == "__main__":
    main()
