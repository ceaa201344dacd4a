import torch

from fedtrain.privacy.noise import SeededSource
from fedtrain.seeding import seeded_generator

CPU = torch.device("cpu")


def test_its_streams_are_torchs_by_the_labels_noise_and_sampling():
    source, noise, sampling = SeededSource(3), seeded_generator(3, "noise"), seeded_generator(3, "sampling")
    for shape in ((4, 5), (3,)):
        expected = torch.normal(mean=0, std=0.7, size=shape, generator=noise)
        assert torch.equal(source.gaussian(shape, std=0.7, device=CPU), expected)
        assert torch.equal(source.bernoulli(50, 0.3), torch.rand(50, generator=sampling, dtype=torch.float64) < 0.3)


def test_what_is_drawn_of_one_does_not_change_the_other():
    one, two = SeededSource(3), SeededSource(3)
    one.bernoulli(7, 0.5)
    assert torch.equal(one.gaussian((9,), std=1.0, device=CPU), two.gaussian((9,), std=1.0, device=CPU))
    two.gaussian((2,), std=1.0, device=CPU)
    two.bernoulli(7, 0.5)
    assert torch.equal(one.bernoulli(40, 0.5), two.bernoulli(40, 0.5))


def test_another_seed_gives_another_stream():
    draws = [SeededSource(seed).gaussian((9,), std=1.0, device=CPU) for seed in (1, 2)]
    assert not torch.equal(*draws)
