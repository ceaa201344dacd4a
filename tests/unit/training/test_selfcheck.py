"""Each failure that the self-check is there for, planted."""

import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.errors import ClientError
from fedtrain.privacy.noise import SecureSource, SeededSource
from fedtrain.training import Records, RoundSettings, perrecord, private
from fedtrain.training.selfcheck import SelfCheck
from tests.unit.training.mechanism import SETTINGS, Classification, change, model, plan, records, train_private


class Wide(nn.Sequential):
    """Has enough values to measure the deviation of their noise."""

    def __init__(self):
        super().__init__(nn.Linear(4, 200), nn.ReLU(), nn.Linear(200, 3))


class Altered:
    """Draws noise as a source does, then changes it."""

    name = "seeded"

    def __init__(self, alter, masks=None):
        self.alter, self.source, self.masks = alter, SeededSource(0), masks

    def gaussian(self, shape, *, std, device, dtype=torch.float32):
        return self.alter(self.source.gaussian(shape, std=std, device=device, dtype=dtype))

    def bernoulli(self, count, probability):
        if self.masks:
            return torch.full((count,), self.masks.pop(0))
        return self.source.bernoulli(count, probability)


def factors_replaced(monkeypatch, factors):
    """Scale the records' gradients by other factors, a function of their norms."""
    monkeypatch.setattr(perrecord, "clip_factors", factors)


def one_let_through(norms, bound):
    factors = (bound / norms).clamp(max=1)
    factors[int(norms.argmax())] = 1
    return factors


UNCLIPPED = {
    "skipped": lambda norms, bound: torch.ones_like(norms),
    "one record is let through": one_let_through,
    "the batch is clipped instead of its records": lambda norms, bound: (
        (bound / norms.mean()).clamp(max=1).expand(len(norms))
    ),
    "the bound is twice too large": lambda norms, bound: (2 * bound / norms).clamp(max=1),
    "a norm that is not a number": lambda norms, bound: norms * float("nan"),
}


@pytest.mark.parametrize("physical", [None, 8])
@pytest.mark.parametrize("factors", UNCLIPPED.values(), ids=UNCLIPPED)
def test_missing_clipping_is_caught(monkeypatch, factors, physical):
    factors_replaced(monkeypatch, factors)
    with pytest.raises(ClientError, match=r"not clipped to 0\.1"):
        change(records(), plan(noise=1.0), config=Training(physical_batch_size=physical))


def test_right_clipping_by_other_code_passes(monkeypatch):
    # Shows that the plants above are caught for their factors.
    factors_replaced(monkeypatch, lambda norms, bound: (bound / norms).clamp(max=1))
    change(records(), plan(noise=1.0))


def test_missing_clipping_is_caught_in_a_later_chunk(monkeypatch):
    honest = perrecord.clip_factors
    calls = []

    def second_unclipped(norms, bound):
        calls.append(bound)
        return honest(norms, 1e9 if len(calls) == 2 else bound)

    factors_replaced(monkeypatch, second_unclipped)
    with pytest.raises(ClientError, match="not clipped"):
        change(records(), plan(noise=1.0), config=Training(physical_batch_size=10))
    assert len(calls) == 2


def test_missing_clipping_is_caught_in_the_first_batch_that_has_records(monkeypatch):
    factors_replaced(monkeypatch, UNCLIPPED["skipped"])
    source = Altered(lambda noise: noise, masks=[False, False, True])
    with pytest.raises(ClientError, match="not clipped"):
        change(records(), plan(noise=1.0, steps=3), source=source)
    assert source.masks == []
    # The batches before it have nothing to clip.
    change(records(), plan(noise=1.0, steps=2), source=Altered(lambda noise: noise, masks=[False, False]))


@pytest.mark.parametrize(("off", "refused"), [(5e-4, False), (5e-3, True)])
def test_sums_that_are_added_up_in_double_precision_are_no_more_exact_than_their_gradients(off, refused):
    layer, count = nn.Linear(50, 4, bias=False), 2000
    gradients = torch.rand(count, 4, 50, generator=torch.Generator().manual_seed(0))
    found = perrecord.PerRecord.of(list(layer.parameters()), [gradients])
    (total,) = found.clipped(1.0, exact=True)
    total[0, 0] += off  # as rounding of 2000 gradients in single precision is
    check = SelfCheck(layer, clip_norm=1.0, std=1.0)
    with pytest.raises(ClientError, match="not clipped") if refused else nullcontext():
        check.after_clipping(found, [total])


@pytest.mark.parametrize("masks", [[True], [False]])
def test_missing_noise_is_caught_also_in_an_empty_batch(masks):
    with pytest.raises(ClientError, match=r"no noise was added to the gradient of 0\.weight"):
        change(records(), plan(noise=1.0), source=Altered(torch.zeros_like, masks=masks))


def test_noise_missing_in_one_parameter_is_caught():
    # After a weight (8, 4) and a bias (8,).
    without = Altered(lambda noise: noise * ((torch.arange(67) < 40) | (torch.arange(67) >= 64)))
    with pytest.raises(ClientError, match=r"no noise was added to the gradient of 2\.weight"):
        change(records(), plan(noise=1.0), source=without)


def test_noise_that_is_lost_in_rounding_is_caught():
    with pytest.raises(ClientError, match="lost in rounding"):
        change(records(), plan(noise=1e-9))


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.5, float("nan")])
def test_noise_of_another_scale_is_caught(factor):
    with pytest.raises(ClientError, match="times the declared standard deviation"):
        change(records(), plan(noise=1.0), source=Altered(lambda noise: factor * noise), net=Wide())


def test_noise_that_is_not_added_is_caught(monkeypatch):
    monkeypatch.setattr(private, "with_noise", lambda sums, std, source: [total.clone() for total in sums])
    with pytest.raises(ClientError, match="no noise was added"):
        change(records(), plan(noise=1.0))


def test_weights_that_do_not_move_are_caught():
    with pytest.raises(ClientError, match="the weights did not change"):
        change(records(), plan(noise=1.0), RoundSettings(learning_rate=1e-30, proximal_mu=0.0, seed=5))


def test_honest_rounds_pass():
    for seed in range(30):
        settings = RoundSettings(learning_rate=0.1, proximal_mu=0.0, seed=seed)
        change(records(), plan(noise=0.3, rate=0.2, steps=2), settings, net=Wide())
        change(records(), plan(noise=0.3, rate=0.2, steps=2), settings, source=SecureSource())


def test_it_rests_after_the_first_step_with_records(monkeypatch):
    source = Altered(lambda noise: noise, masks=[True, True])
    honest = perrecord.clip_factors
    factors_replaced(monkeypatch, lambda norms, bound: honest(norms, bound if source.masks else 1e9))
    change(records(), plan(noise=1.0, steps=2), source=source)
    assert source.masks == []


def test_the_message_says_nothing_of_the_batch(monkeypatch):
    factors_replaced(monkeypatch, UNCLIPPED["skipped"])
    messages = set()
    for count in (3, 17, 60):
        with pytest.raises(ClientError) as caught:
            change(records(count), plan(noise=1.0))
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert re.findall(r"\d+\.?\d*", messages.pop()) == ["0.1"]


def test_a_failed_check_leaves_neither_hooks_nor_records_in_the_model(monkeypatch):
    factors_replaced(monkeypatch, UNCLIPPED["skipped"])
    net, data = model(), records()
    with pytest.raises(ClientError):
        train_private(net, Classification(), data, Training(), SETTINGS, plan(), SeededSource(0))
    assert all(parameter.grad is None and not vars(parameter) for parameter in net.parameters())
    assert not any(layer._forward_hooks or layer._backward_hooks for layer in net.modules())
    assert not any("activations" in vars(layer) for layer in net.modules())


class Scale(nn.Module):
    """Has a parameter without dimensions."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, features):
        return features * self.factor


def test_parameters_without_dimensions_are_trained():
    data = Records(features=torch.randn(6, 3), targets=torch.zeros(6, dtype=torch.long))
    assert change(data, plan(noise=1.0, batch=6, rate=0.5, steps=4), net=Scale()).abs() > 0
