import torch

from fedtrain.seeding import derive_seed, seeded_generator


def test_seeds_differ_by_label_and_are_stable():
    seeds = {derive_seed(*labels) for labels in [(0,), (1,), (0, "a"), (0, "a", 1), (0, "a1"), (0, "a", "1")]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "client", 3, 7) == 3882505189816762148


def test_generators_repeat():
    draws = [torch.rand(3, generator=seeded_generator(1, "x")) for _ in range(2)]
    assert torch.equal(*draws)
