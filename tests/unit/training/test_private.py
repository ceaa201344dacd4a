import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fedtrain.config import Training
from fedtrain.errors import TaskError
from fedtrain.privacy.noise import SecureSource, SeededSource
from fedtrain.training import Records, private
from fedtrain.training.preflight import PreflightResult
from fedtrain.training.private import with_noise
from fedtrain.training.steps import shuffled_batches
from tests.unit.training.mechanism import (
    PLAIN,
    SETTINGS,
    Classification,
    change,
    clipped_sum,
    flat,
    model,
    plan,
    records,
    train_private,
)


class SpyingClassification(Classification):
    def __init__(self):
        self.batches = []

    def collate(self, records, generator):
        self.batches.append(len(records))
        return super().collate(records, generator)


def test_a_step_is_the_sum_of_clipped_gradients_over_the_public_batch_size():
    data = records()
    torch.testing.assert_close(change(data, plan(batch=7)), -clipped_sum(data, 0.1) / 7, rtol=1e-4, atol=1e-6)


@pytest.fixture
def shortened():
    """Ask torch to shorten the factors of products, as programs do for speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


class Watched(nn.Linear):
    """Keeps with which precision its products are computed."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = set()

    def forward(self, inputs):
        backends = torch.backends
        self.seen.add((backends.mkldnn.matmul.fp32_precision, backends.cudnn.conv.fp32_precision))
        return super().forward(inputs)


@pytest.mark.usefixtures("shortened")
def test_products_are_of_single_precision_whatever_the_program_asked_for():
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    convolutions = torch.backends.cudnn.conv.fp32_precision
    watched = Watched(4, 3)
    change(records(), plan(), net=watched)
    assert watched.seen == {("ieee", "ieee")}
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.cudnn.conv.fp32_precision == convolutions
    assert torch.get_float32_matmul_precision() == "medium"


def test_one_record_of_many_moves_the_sum_by_no_more_than_the_bound(monkeypatch):
    """All gradients point one way, so that their sum is long, and would be rounded coarsely in single precision."""
    count, found = 200_000, []
    generator = torch.Generator().manual_seed(0)
    data = Records(features=torch.rand(count, 64, generator=generator), targets=torch.zeros(count, dtype=torch.long))

    def kept(sums, *, std, source):
        found.append(torch.cat([total.double().flatten() for total in sums]))
        return with_noise(sums, std=std, source=source)

    monkeypatch.setattr(private, "with_noise", kept)
    for some in (data, data.take(torch.arange(1, count))):
        torch.manual_seed(0)
        net = nn.Linear(64, 3)
        change(some, plan(batch=count, noise=1.0), net=net)
    assert float((found[0] - found[1]).norm()) <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize("features", [64, 784])
def test_many_records_that_are_alike_train(features):
    count = 3000
    generator = torch.Generator().manual_seed(0)
    data = Records(
        features=torch.rand(1, features, generator=generator).expand(count, features).clone(),
        targets=torch.zeros(count, dtype=torch.long),
    )
    torch.manual_seed(0)
    change(data, plan(batch=count, noise=1.0), net=nn.Linear(features, 3))


def test_an_unclipped_gradient_would_be_seen():
    data = records()
    assert not torch.allclose(change(data, plan(batch=7)), -clipped_sum(data, 1e9) / 7, rtol=1e-2)


def test_one_record_moves_the_weights_by_at_most_the_bound():
    data = records()
    with_it = change(data, plan())
    data.features[3] *= 1000
    data.targets[3] = (data.targets[3] + 1) % 3
    assert float((change(data, plan()) - with_it).norm()) <= 2 * 0.1 / 20 * 1.001


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_record_that_is_not_finite_counts_as_zero(poison):
    data = records()
    clean = Records(features=data.features[1:], targets=data.targets[1:])
    data.features[0, 2] = poison
    torch.testing.assert_close(change(data, plan()), change(clean, plan()), rtol=1e-4, atol=1e-7)


def test_an_empty_batch_is_a_noisy_step():
    mechanism = plan(rate=1e-12, noise=1.0, steps=3)
    moved = change(records(), mechanism)
    assert moved.abs().min() > 0
    assert float(moved.std()) == pytest.approx(math.sqrt(3) * 1.0 * 0.1 / 20, rel=0.25)


def test_losses_that_compare_records_are_refused_although_the_first_batch_is_one_record():
    class Coupled(Classification):
        def losses(self, outputs, batch):
            return super().losses(outputs, batch) + outputs.mean()

    masks = [torch.arange(20) == 2, torch.ones(20, dtype=torch.bool)]

    class Drawn(SeededSource):
        def bernoulli(self, count, probability):
            return masks.pop(0)

    with pytest.raises(TaskError, match="another value than for the record alone"):
        change(records(), plan(steps=2), task=Coupled(), source=Drawn(5))
    assert not masks


SOURCES = {"seeded": SeededSource, "secure": lambda seed: SecureSource()}


def noise_of(multiplier, kind):
    # A batch without records leaves the noise alone; many rounds give a sample of it.
    mechanism = plan(rate=1e-12, noise=multiplier)
    draws = [change(records(1), mechanism, source=SOURCES[kind](seed)) for seed in range(40)]
    return torch.cat(draws).numpy() / (0.1 / 20)


@pytest.mark.parametrize("kind", SOURCES)
def test_the_noise_is_gaussian_of_the_declared_scale(kind):
    sample, wrong = noise_of(1.0, kind), noise_of(1.3, kind)
    assert stats.kstest(sample, "norm").pvalue > 1e-6
    assert stats.kstest(wrong, "norm", args=(0, 1.3)).pvalue > 1e-6
    assert stats.kstest(sample, "norm", args=(0, 1.5)).pvalue < 1e-9
    # The chi-square test of the variance is sharper.
    assert 1e-6 < stats.chi2.cdf(np.square(sample).sum(), len(sample)) < 1 - 1e-6
    assert stats.chi2.sf(np.square(wrong).sum(), len(wrong)) < 1e-9


@pytest.mark.parametrize("views", [1, 3])
def test_the_noise_does_not_depend_on_views_or_chunks(views):
    mechanism, data = plan(noise=1.0), records()
    config = Training(learning_rate=1.0, augmentations=views, physical_batch_size=6)
    noisy = change(data, mechanism, config=config)
    noise = (noisy + clipped_sum(data, 0.1) / 20) / (0.1 / 20)
    generator = SeededSource(5)
    drawn = generator.gaussian((len(noise),), std=1.0, device=torch.device("cpu"))
    torch.testing.assert_close(noise, -drawn, rtol=1e-3, atol=1e-3)


def test_batches_are_poisson_samples_whose_size_says_nothing_exact():
    task = SpyingClassification()
    change(records(200), plan(rate=0.1, steps=300), task=task)
    sizes = np.array(task.batches)
    assert len(set(sizes)) > 10
    assert sizes.mean() == pytest.approx(20, abs=1.5)
    assert sizes.var() == pytest.approx(200 * 0.1 * 0.9, rel=0.4)


def test_shuffled_batches_would_be_seen():
    # Passes over shuffled records in batches of 20: all batches have one size.
    sizes = np.array([len(batch) for batch in shuffled_batches(200, Training(batch_size=20, local_steps=300), None)])
    assert sizes.var() < 0.6 * 200 * 0.1 * 0.9


def test_the_number_of_records_is_not_in_the_step():
    mechanism = plan(noise=1.0, rate=1e-12)
    assert torch.equal(change(records(10), mechanism), change(records(1000), mechanism))
    # Twice the records are twice the sum, over the same divisor; an average would hide and reveal their number.
    data, mechanism = records(), plan()
    twice = Records(features=data.features.repeat(2, 1), targets=data.targets.repeat(2))
    torch.testing.assert_close(change(twice, mechanism), 2 * change(data, mechanism), rtol=1e-3, atol=1e-5)


def test_the_same_seed_repeats_and_another_does_not():
    mechanism = plan(noise=1.0, rate=0.5)
    other = dataclasses.replace(SETTINGS, seed=6)
    assert torch.equal(change(records(), mechanism), change(records(), mechanism))
    assert not torch.equal(change(records(), mechanism), change(records(), mechanism, other))


def test_the_proximal_term_is_added_after_the_noise():
    data = records()
    settings = dataclasses.replace(SETTINGS, proximal_mu=0.5)
    one = change(data, plan(steps=1))
    torch.testing.assert_close(change(data, plan(steps=1), settings), one)
    assert float(change(data, plan(steps=5), settings).norm()) < float(change(data, plan(steps=5)).norm())


def test_the_model_is_left_as_a_plain_module():
    net = model()
    names = list(net.state_dict())
    train_private(net, Classification(), records(), PLAIN, SETTINGS, plan(), SeededSource(5))
    assert list(net.state_dict()) == names
    assert type(net) is nn.Sequential
    assert_plain(net)
    # It trains on like any other module, and can be copied.
    nn.functional.cross_entropy(copy.deepcopy(net)(records().features), records().targets).backward()


def assert_plain(net):
    for layer, fresh in zip(net.modules(), model().modules(), strict=True):
        assert vars(layer).keys() == vars(fresh).keys()
        assert not any(hooks for name, hooks in vars(layer).items() if name.endswith("_hooks"))
    for parameter in net.parameters():
        assert not vars(parameter)
        assert parameter.grad is None


def test_the_model_is_left_as_a_plain_module_also_by_a_failure():
    class Broken(Classification):
        def losses(self, outputs, batch):
            raise RuntimeError("planted")

    net = model()
    with pytest.raises(RuntimeError, match="planted"):
        train_private(net, Broken(), records(), PLAIN, SETTINGS, plan(), SeededSource(5))
    assert_plain(net)


class Patches(nn.Module):
    """Makes four rows of each record."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(1, 3)

    def forward(self, features):
        return self.dense(features.reshape(-1, 1)).reshape(len(features), 4, 3).mean(1)


class Unused(nn.Module):
    def __init__(self, *, called):
        super().__init__()
        self.called, self.dense, self.other = called, nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, features):
        return self.dense(features) + (self.other(features).detach() if self.called else 0)


class Shared(nn.Module):
    """Uses a layer twice, and its weights in another layer."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.dense = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.two.weight = self.one.weight

    def forward(self, features):
        return self.dense(self.two(self.one(self.one(features))))


class Centred(nn.Module):
    """Takes a running mean over the records away."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, features):
        self.mean = self.mean + 0.1 * (features.mean(0) - self.mean)
        return features - self.mean


@pytest.mark.parametrize(
    ("way", "net", "named"),
    [
        ("book-keeping", Patches(), "dense"),
        ("hooks", Patches(), "dense"),
        ("hooks", Unused(called=False), "other.weight"),
        ("hooks", Unused(called=True), "other.weight"),
        ("book-keeping", nn.Sequential(Centred(), nn.Linear(4, 3)), "0.mean"),
    ],
)
def test_a_model_without_one_gradient_for_each_record_is_refused(way, net, named):
    data = Records(features=torch.randn(5, 4), targets=torch.zeros(5, dtype=torch.long))
    before = flat(net)
    with pytest.raises(TaskError, match=named):
        train_private(net, Classification(), data, PLAIN, SETTINGS, plan(), SeededSource(5), PreflightResult(way=way))
    assert torch.equal(flat(net), before)


@pytest.mark.parametrize("called", [True, False])
def test_weights_without_a_gradient_have_noise_alone(called):
    torch.manual_seed(0)
    net, data = Unused(called=called), Records(features=torch.randn(5, 4), targets=torch.zeros(5, dtype=torch.long))
    before = flat(net.other)
    train_private(net, Classification(), data, PLAIN, SETTINGS, plan(noise=1.0), SeededSource(5))
    assert 0 < float((flat(net.other) - before).abs().max()) < 0.1


class Shifted(nn.Module):
    """Has a buffer that stays as it is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.ones(4))

    def forward(self, features):
        return features - self.shift


def test_buffers_that_do_not_change_are_allowed():
    assert change(records(), plan(steps=2), net=nn.Sequential(Shifted(), nn.Linear(4, 3))).abs().max() > 0


def test_a_record_is_clipped_once_where_weights_are_used_several_times():
    torch.manual_seed(0)
    net, data = Shared(), Records(features=100 * torch.randn(1, 4), targets=torch.zeros(1, dtype=torch.long))
    before = flat(net)
    train_private(net, Classification(), data, PLAIN, SETTINGS, plan(batch=1), SeededSource(5))
    assert float((flat(net) - before).norm()) == pytest.approx(0.1, rel=1e-3)


def test_frozen_weights_stay_and_have_no_part_in_the_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    net[0].requires_grad_(False)
    frozen = net[0].weight.clone()
    train_private(net, Classification(), records(), PLAIN, SETTINGS, plan(), SeededSource(5))
    assert torch.equal(net[0].weight, frozen)


def test_momentum_is_after_the_noise_and_allowed():
    net = model()
    momentum = Training(momentum=0.9)
    train_private(net, Classification(), records(), momentum, SETTINGS, plan(noise=1.0, steps=3), SeededSource(5))
    assert flat(net).isfinite().all()
