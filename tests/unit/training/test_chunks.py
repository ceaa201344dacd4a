"""Batches in chunks, and several views of a record."""

import math

import pytest
import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.privacy.noise import SeededSource
from fedtrain.training import Records
from fedtrain.training.preflight import PreflightResult
from tests.unit.training.mechanism import Classification, Counting, change, clipped_sum, plan, records

BOUND = 0.1 / 20
WAYS = ("book-keeping", "hooks", "vmap", "loop")


def config(**fields):
    return Training(learning_rate=1.0, **fields)


class Augmented(Classification):
    """Adds noise to the features, as an augmentation."""

    def collate(self, records, generator):
        batch = super().collate(records, generator)
        noise = 0.3 * torch.randn(records.features.shape, generator=generator)
        return batch | {"inputs": batch["inputs"] + noise}


class Views(Classification):
    """Makes the views of a list, one after another."""

    def __init__(self, *views):
        self.views, self.calls = views, 0

    def collate(self, records, generator):
        view = self.views[self.calls % len(self.views)]
        self.calls += 1
        return {"inputs": view(records.features), "targets": records.targets}


@pytest.mark.parametrize("physical", [1, 7, 19, 20, 64])
@pytest.mark.parametrize("views", [1, 3])
def test_chunks_give_the_result_of_the_whole_batch(physical, views):
    mechanism = plan(rate=0.7, noise=1.0, steps=3)
    results = [
        change(records(), mechanism, task=Augmented(), config=config(physical_batch_size=size, augmentations=views))
        for size in (physical, None)
    ]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("physical", [None, 1, 6])
def test_noise_is_added_once_a_step_whatever_the_chunks(physical):
    source = Counting(SeededSource(5))
    change(records(), plan(noise=2.0, steps=3), config=config(physical_batch_size=physical), source=source)
    assert source.noises == [((67,), pytest.approx(0.2))] * 3
    assert source.masks == [(20, 1.0)] * 3


@pytest.mark.parametrize("physical", [None, 3])
def test_the_divisor_is_the_public_one_whatever_the_chunks(physical):
    data = records()
    moved = change(data, plan(batch=7), config=config(physical_batch_size=physical))
    torch.testing.assert_close(moved, -clipped_sum(data, 0.1) / 7, rtol=1e-4, atol=1e-6)


class Rows(Classification):
    def __init__(self):
        self.rows = []

    def forward(self, model, batch):
        self.rows.append(len(batch["inputs"]))
        return super().forward(model, batch)


def test_no_more_records_than_the_physical_batch_are_computed_at_once():
    task = Rows()
    change(records(), plan(), task=task, config=config(physical_batch_size=8, augmentations=2))
    # Some records are also computed again alone.
    assert [rows for rows in task.rows if rows > 1] == [16, 16, 8]


def test_records_that_are_computed_one_by_one_are_computed_again_in_the_first_step_alone():
    counts = []
    for steps in (2, 3):
        task = Rows()
        change(records(), plan(noise=1.0, steps=steps), task=task, config=config(physical_batch_size=1))
        counts.append(len(task.rows))
    assert counts[1] - counts[0] == len(records())


def test_views_that_are_the_same_are_one_view():
    one = change(records(), plan(noise=1.0, rate=0.5, steps=3))
    for physical in (None, 3):
        four = change(
            records(),
            plan(noise=1.0, rate=0.5, steps=3),
            config=config(augmentations=4, physical_batch_size=physical),
        )
        torch.testing.assert_close(four, one, rtol=1e-5, atol=1e-7)


def test_views_are_averaged_before_clipping():
    task = Views(lambda features: features, lambda features: -3 * features)
    data = records()
    encode = lambda features, view: features if view == 0 else -3 * features
    moved = change(data, plan(), task=task, config=config(augmentations=2))
    expected = -clipped_sum(data, 0.1, views=2, encode=encode) / 20
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)
    # Clipped each on its own and then averaged, they would give something else.
    apart = sum(change(data, plan(), task=Views(view)) for view in task.views) / 2
    assert not torch.allclose(moved, apart, rtol=1e-2)


@pytest.mark.parametrize("physical", [None, 3])
def test_one_record_moves_the_weights_by_at_most_the_bound_with_any_number_of_views(physical):
    several = config(augmentations=5, physical_batch_size=physical)
    data = records()
    wild = Records(features=data.features.clone(), targets=data.targets.clone())
    wild.features[3] *= 1000
    wild.targets[3] = (wild.targets[3] + 1) % 3
    without = Records(features=data.features[1:], targets=data.targets[1:])
    source, task = SeededSource(5), Augmented()
    with_it = change(data, plan(), task=Classification(), config=several)
    assert float((change(wild, plan(), task=Classification(), config=several) - with_it).norm()) <= 2.001 * BOUND
    assert float((change(without, plan(), task=Classification(), config=several) - with_it).norm()) <= 1.001 * BOUND
    assert change(data, plan(), task=task, config=several, source=source).isfinite().all()


@pytest.mark.parametrize("physical", [None, 1, 7])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_one_view_that_is_not_finite_silences_its_record(physical, poison):
    def poisoned(features):
        changed = features.clone()
        changed[2, 1] = poison
        return changed

    data = records()
    clean = Records(features=data.features[torch.arange(20) != 2], targets=data.targets[torch.arange(20) != 2])
    same = lambda features: features
    moved = change(
        data,
        plan(),
        task=Views(same, poisoned, same),
        config=config(augmentations=3, physical_batch_size=physical),
    )
    torch.testing.assert_close(moved, change(clean, plan()), rtol=1e-4, atol=1e-6)


def test_views_that_overflow_only_in_their_mean_silence_their_record():
    class Huge(Classification):
        def losses(self, outputs, batch):
            return outputs.sum(1)

    # Each view's gradient is finite and their sum is not.
    task = Huge()
    net = nn.Linear(4, 3, bias=False)
    data = Records(features=torch.full((2, 4), 2e38), targets=torch.zeros(2, dtype=torch.long))
    data.features[1] = 1e-3
    moved = change(data, plan(), task=task, config=config(augmentations=2), net=net)
    assert moved.isfinite().all()
    assert float(moved.norm()) <= BOUND * 1.001


@pytest.mark.parametrize("fields", [{"physical_batch_size": 4}, {"augmentations": 3}])
def test_empty_batches_step(fields):
    moved = change(records(), plan(rate=1e-12, noise=1.0, steps=2), config=config(**fields))
    assert moved.abs().min() > 0
    torch.testing.assert_close(moved, change(records(), plan(rate=1e-12, noise=1.0, steps=2)))


@pytest.mark.parametrize("way", WAYS)
def test_a_client_without_records_steps(way):
    data = Records(features=torch.zeros(0, 4), targets=torch.zeros(0, dtype=torch.long))
    moved = change(data, plan(noise=1.0), config=config(physical_batch_size=4), preflight=PreflightResult(way=way))
    assert moved.abs().min() > 0


@pytest.mark.parametrize("fields", [{}, {"physical_batch_size": 7}, {"augmentations": 2, "physical_batch_size": 3}])
@pytest.mark.parametrize("way", WAYS[1:])
def test_every_way_gives_the_same_in_chunks_and_with_views(way, fields):
    results = [
        change(
            records(), plan(rate=0.7, noise=1.0, steps=3), config=config(**fields), preflight=PreflightResult(way=each)
        )
        for each in (WAYS[0], way)
    ]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", WAYS[1:])
def test_records_of_different_shapes_train_alone(way):
    class Ragged(Classification):
        """Pads to the longest record of the batch."""

        def collate(self, records, generator):
            longest = int((records.features != 0).any(0).sum())
            return {"inputs": records.features[:, :longest], "targets": records.targets}

        def forward(self, model, batch):
            missing = 4 - batch["inputs"].shape[1]
            return model(nn.functional.pad(batch["inputs"], (0, missing)))

    data = records()
    data.features[::2, 2:] = 0
    moved = change(data, plan(), task=Ragged(), preflight=PreflightResult(way=way))
    torch.testing.assert_close(moved, change(data, plan()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", WAYS[1:])
def test_an_augmentation_is_drawn_anew_for_each_record(way):
    torch.manual_seed(0)
    one = records(1)
    twice = Records(features=one.features.repeat(2, 1), targets=one.targets.repeat(2))
    moved = change(twice, plan(clip=10.0), task=Augmented(), preflight=PreflightResult(way=way))
    same = change(one, plan(clip=10.0), task=Augmented(), preflight=PreflightResult(way=way))
    assert not torch.allclose(moved, 2 * same, rtol=1e-2)
