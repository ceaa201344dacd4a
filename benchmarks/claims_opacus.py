"""What plain Opacus says, and what Flower's Opacus example says with it.

The example makes a `PrivacyEngine` in each call of `fit`, and prints its epsilon; this is done here in the same way.
"""

import logging
import warnings
from collections.abc import Iterator
from math import inf
from textwrap import shorten

import torch
from claims_bounds import DELTA, TINY, TINY_STEPS, Row, gaussian, poisson, scales, shuffled, tiny
from claims_situations import LEARNING, Learning, MaxNorm, Perceptron, Wide, plain
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from opacus import PrivacyEngine
from opacus.accountants import create_accountant
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

OPACUS = "Opacus"
EXAMPLE = "Flower's Opacus example"
Mean = nn.CrossEntropyLoss
# How far a measured variance may be from the one that the bound is computed for.
CLOSE = 0.1


def rows() -> Iterator[Row]:
    """Yield what was measured, one situation after the other."""
    warnings.simplefilter("ignore")
    logging.getLogger("opacus").setLevel(logging.ERROR)
    yield from rounds()
    yield from (learning(each) for each in LEARNING)
    yield from (max_norm(), overflow(), accumulated(), pass_of_shuffled_batches(), one_record_more(), known_seed())
    yield central_limit()
    yield from tiny_delta()


class Averaged(nn.Module):
    """The mean of the losses of a batch, for Opacus, which multiplies by the batch's size again."""

    def __init__(self, loss: object) -> None:
        super().__init__()
        self.loss, self.reduction = loss, "mean"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses: Tensor = self.loss(outputs, targets)  # type: ignore[operator]
        return losses if self.reduction == "none" else losses.mean()


def train(
    model: nn.Module,
    features: Tensor,
    targets: Tensor,
    *,
    batches: int = 1,
    clip: float = 1.0,
    noise: float = 1.0,
    rate: float = 0.1,
    drawn: bool = False,
    ghost: bool = False,
    loss: object = plain,
    engine: PrivacyEngine | None = None,
) -> tuple[nn.Module, float]:
    """Train one pass as Opacus' tutorials do, and return the model with its summed gradients, and the epsilon."""
    engine = engine or PrivacyEngine()
    given = {
        "module": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=rate),
        "data_loader": DataLoader(
            TensorDataset(features, targets), batch_size=-(-len(features) // batches), shuffle=batches > 1
        ),
        "noise_multiplier": noise,
        "max_grad_norm": clip,
        "poisson_sampling": drawn,
    }
    if ghost:
        private, optimizer, criterion, loader = engine.make_private(
            **given, criterion=Averaged(loss), grad_sample_mode="ghost"
        )
    else:
        private, optimizer, loader = engine.make_private(**given)
        criterion = Averaged(loss)
    steps = 0
    for some, of in loader:
        optimizer.zero_grad()
        criterion(private(some), of).backward()
        optimizer.step()
        steps += 1
    assert steps == batches
    return private, float(engine.get_epsilon(DELTA))


def rounds(count: int = 10) -> Iterator[Row]:
    """Train ten rounds of 20 Poisson batches: with an engine for each, and with one engine for all."""
    features, targets = torch.zeros(400, 6), torch.zeros(400, dtype=torch.long)
    torch.manual_seed(0)
    said = [train(Perceptron(), features, targets, batches=20, drawn=True)[1] for _ in range(count)]
    engine = PrivacyEngine()
    for _ in range(count):
        _, over_all = train(Perceptron(), features, targets, batches=20, drawn=True, engine=engine)
    true = poisson(1 / 20, 1.0, 20 * count)
    what = f"{count} rounds of 20 steps"
    situation = "an accountant for each round or run"
    yield Row(situation=situation, program=EXAMPLE, claimed=said[-1], true=true, note=f"{what}, printed in each")
    yield Row(situation=situation, program=OPACUS, claimed=over_all, true=true, note=f"{what}, one engine for all")


def learning(case: Learning) -> Row:
    """Measure by how much one record moves the sum of clipped gradients, over the clipping norm."""
    program = f"{OPACUS}, ghost" if case.ghost else OPACUS
    features, targets = case.records()

    def summed(kept: Tensor) -> tuple[Tensor, float]:
        torch.manual_seed(0)
        model, epsilon = train(
            case.model().to(case.dtype), features[kept], targets[kept], clip=case.clip, ghost=case.ghost, loss=case.loss
        )
        gradients = [parameter.summed_grad.flatten() for parameter in model.parameters()]
        return torch.cat(gradients).double(), epsilon

    try:
        whole, claimed = summed(torch.arange(case.count))
    except Exception as error:  # noqa: BLE001 - what is raised is the result
        return refused(case.situation, program, error)
    moved = max(float((whole - summed(kept)[0]).norm()) for kept in case.without()) / case.clip
    note = f"a record moves the sum by {moved:.3f} clipping norms"
    return Row(situation=case.situation, program=program, claimed=claimed, true=gaussian(moved), note=note)


def refused(situation: str, program: str, error: Exception) -> Row:
    """Return a row of a program that released nothing."""
    said = str(error).strip().splitlines()[0].strip("[]")
    return Row(
        situation=situation,
        program=program,
        claimed=None,
        true=None,
        note=shorten(f"raises: {said}", 96, placeholder=" ..."),
    )


def max_norm() -> Row:
    """Compare the weights of an embedding with and without the one record of a token."""
    features = torch.ones(12, 6)
    features[0] = 5
    targets, rate, clip = torch.zeros(12, dtype=torch.long), 0.1, 0.1
    released = []
    for kept in (slice(None), slice(1, None)):
        torch.manual_seed(0)
        model, claimed = train(MaxNorm(), features[kept], targets[kept], rate=rate, clip=clip)
        released.append(model.get_parameter("_module.words.weight").detach()[5])
    moved = float((released[0] - released[1]).norm())
    deviation = rate * clip / 12
    note = f"a row of the weights moves by {moved / deviation:.0f} deviations of its noise"
    true = gaussian(moved / deviation)
    return Row(situation="an embedding with max_norm", program=OPACUS, claimed=claimed, true=true, note=note)


def overflow() -> Row:
    """Train on a record whose gradient is not a number."""
    features, targets = torch.ones(12, 6), torch.zeros(12, dtype=torch.long)
    fine, claimed = train(Perceptron(), features, targets)
    features[0] = torch.inf
    spoilt, _ = train(Perceptron(), features, targets)
    shows = torch.cat([each.flatten() for each in spoilt.parameters()]).isnan().any()
    assert not torch.cat([each.flatten() for each in fine.parameters()]).isnan().any()
    note = "the weights are NaN if the record is there" if shows else "the weights stay finite"
    return Row(
        situation="a gradient that is not finite",
        program=OPACUS,
        claimed=claimed,
        true=inf if shows else gaussian(1.0),
        note=note,
    )


def accumulated() -> Row:
    """Accumulate the gradients of two Poisson batches, without Opacus' manager of memory."""
    situation = "accumulated batches"
    model, engine = Perceptron(), PrivacyEngine()
    data = TensorDataset(torch.ones(40, 6), torch.zeros(40, dtype=torch.long))
    model, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(data, batch_size=20),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    try:
        for some, of in loader:
            Mean()(model(some), of).backward()
        optimizer.step()
    except ValueError as error:
        return refused(situation, OPACUS, error)
    claimed = engine.get_epsilon(DELTA)
    return Row(
        situation=situation, program=OPACUS, claimed=claimed, true=poisson(0.5, 1.0, 2), note="two batches, one step"
    )


def pass_of_shuffled_batches(noise: float = 0.6, batches: int = 1000) -> Row:
    """Make one pass through shuffled batches, with `poisson_sampling=False`."""
    seen = torch.zeros(2 * batches, dtype=torch.long)

    class Counted(Perceptron):
        def forward(self, features: Tensor) -> Tensor:
            seen[features[:, 0].long()] += 1
            return super().forward(features / len(seen))

    features = torch.arange(2 * batches).float()[:, None].repeat(1, 6)
    targets = torch.zeros(2 * batches, dtype=torch.long)
    _, claimed = train(Counted(), features, targets, batches=batches, noise=noise)
    assert (seen == 1).all()
    true = shuffled(noise, batches)
    note = f"one pass of {batches} batches, noise multiplier {noise}; each record was in one batch"
    return Row(situation="shuffled batches", program=OPACUS, claimed=claimed, true=true, note=note)


def one_record_more() -> Row:
    """Train on 100 and on 101 records whose gradients are all zero: what is left is the noise."""

    def spread(count: int) -> tuple[float, int, float]:
        torch.manual_seed(0)
        model = Wide()
        before = model.only.weight.detach().clone()
        batches = -(-count // 10)
        trained, claimed = train(
            model, torch.zeros(count, 64), torch.zeros(count, dtype=torch.long), batches=batches, drawn=True, rate=1.0
        )
        change = trained.get_parameter("_module.only.weight") - before
        return float(change.var()), change.numel(), claimed

    few, count, claimed = spread(100)
    more, _, _ = spread(101)
    expected = (11 / 9**2) / (10 / 10**2)
    assert abs(more / few / expected - 1) < CLOSE, (more / few, expected)
    note = f"101 records for 100: the noise of {count} weights has {expected:.2f} times the variance ({more / few:.2f})"
    return Row(
        situation="rate, steps, divisor of the private n",
        program=OPACUS,
        claimed=claimed,
        true=scales(expected, count),
        note=note,
    )


def known_seed() -> Row:
    """Train after `torch.manual_seed`, and subtract the noise of the seed."""
    features, targets = torch.ones(12, 6), torch.zeros(12, dtype=torch.long)
    weights = []
    for kept in (slice(None), slice(None), slice(1, None)):
        torch.manual_seed(42)
        model, claimed = train(Perceptron(), features[kept], targets[kept])
        weights.append(torch.cat([each.flatten() for each in model.parameters()]))
    known = torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    return Row(
        situation="the script sets the seed of the noise",
        program=OPACUS,
        claimed=claimed,
        true=inf if known else gaussian(1.0),
        note="without secure_mode torch.manual_seed repeats all noise: it can be subtracted",
    )


def central_limit() -> Row:
    """Account 100 steps by the approximation that Opacus offers and warns of."""
    accountant = create_accountant("gdp")
    for _ in range(100):
        accountant.step(noise_multiplier=0.6, sample_rate=0.01)
    note = 'accountant="gdp", of which Opacus warns'
    claimed = float(accountant.get_epsilon(DELTA))
    return Row(
        situation="Gaussian DP by the central limit",
        program=OPACUS,
        claimed=claimed,
        true=poisson(0.01, 0.6, 100),
        note=note,
        said=True,
    )


def tiny_delta() -> Iterator[Row]:
    """Account 10,000 steps at a delta of 1e-12, by the accountant of an engine, and by dp-accounting's."""
    rate, noise, steps = TINY_STEPS
    accountant = PrivacyEngine().accountant
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    losses = PLDAccountant()
    losses.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), steps)
    claims = {OPACUS: accountant.get_epsilon(TINY), "dp-accounting, PLD": losses.get_epsilon(TINY)}
    note = f"{steps:,} steps at rate {rate:g} and noise multiplier {noise:g}"
    for program, claimed in claims.items():
        yield Row(situation="a delta of 1e-12", program=program, claimed=float(claimed), true=tiny(), note=note)
