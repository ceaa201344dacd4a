import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.privacy.noise import SecureSource, SeededSource

CPU = torch.device("cpu")
shapes = st.lists(st.integers(0, 7), max_size=4)


@given(shape=shapes, std=st.floats(0, 1e6), seed=st.integers(0, 2**63 - 1))
def test_gaussians_of_any_shape_and_scale_are_finite(shape, std, seed):
    for source in (SeededSource(seed), SecureSource()):
        drawn = source.gaussian(shape, std=std, device=CPU)
        assert drawn.shape == torch.Size(shape)
        assert bool(drawn.isfinite().all())
        assert float(drawn.abs().sum()) <= 18 * std * drawn.numel()


@given(count=st.integers(0, 300), probability=st.floats(0, 1))
def test_masks_of_any_rate(count, probability):
    for source in (SeededSource(0), SecureSource()):
        assert source.bernoulli(count, probability).shape == (count,)
        assert int(source.bernoulli(count, 0.0).sum()) == 0
        assert int(source.bernoulli(count, 1.0).sum()) == count


@given(seed=st.integers(0, 2**63 - 1), counts=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_a_seed_repeats_its_stream(seed, counts):
    one, two = SeededSource(seed), SeededSource(seed)
    for count in counts:
        assert torch.equal(one.gaussian((count,), std=1.0, device=CPU), two.gaussian((count,), std=1.0, device=CPU))
