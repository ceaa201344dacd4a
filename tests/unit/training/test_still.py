"""What torch draws at random while it is held still."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedtrain.training.state import Still

DRAWS = {
    "rand": (lambda: torch.rand(3), [0.5, 0.5, 0.5]),
    "randn": (lambda: torch.randn(2), [0.5, 0.5]),
    "rand_like": (lambda: torch.rand_like(torch.zeros(2)), [0.5, 0.5]),
    "normal_": (lambda: torch.zeros(2).normal_(), [0.5, 0.5]),
    "uniform_": (lambda: torch.zeros(2).uniform_(), [0.5, 0.5]),
    "normal": (lambda: torch.normal(torch.zeros(2), torch.ones(2)), [0.5, 0.5]),
    "randint": (lambda: torch.randint(5, (2,)), [0, 0]),
    "multinomial": (lambda: torch.multinomial(torch.ones(3), 2), [0, 0]),
    "bernoulli of chances": (lambda: torch.bernoulli(torch.tensor([0.0, 0.2, 1.0])), [0, 1, 1]),
    "bernoulli_ of a chance": (lambda: torch.zeros(2).bernoulli_(0.3), [1, 1]),
    "bernoulli_ of chances": (lambda: torch.zeros(2).bernoulli_(torch.tensor([0.0, 0.9])), [0, 1]),
    "randperm": (lambda: torch.randperm(4), [3, 0, 1, 2]),
    "dropout": (lambda: functional.dropout(torch.ones(3), 0.8), [5, 5, 5]),
    "rrelu": (lambda: nn.RReLU(0.2, 0.4)(torch.tensor([-1.0, 2.0])), [-0.3, 2]),
    "rrelu_": (lambda: functional.rrelu_(torch.tensor([-1.0, 2.0]), 0.2, 0.4, training=True), [-0.3, 2]),
}


AT_THE_ENDS = {
    "rand": (lambda: torch.rand(2), [0.02, 0.02], [0.98, 0.98]),
    "randn": (lambda: torch.randn(1), [-2], [2]),
    "randint": (lambda: torch.randint(5, (1,)), [0], [4]),
    "randint between": (lambda: torch.randint(low=2, high=5, size=(1,)), [2], [4]),
    "random_": (lambda: torch.zeros(1).random_(2, 5), [2], [4]),
    "multinomial": (lambda: torch.multinomial(torch.ones(3), 1), [0], [2]),
    "bernoulli": (lambda: torch.bernoulli(torch.tensor([0.0, 0.2, 1.0])), [0, 1, 1], [0, 1, 1]),
    "Beta": (lambda: torch.distributions.Beta(0.4, 0.4).sample((2,)), [0.02, 0.02], [0.98, 0.98]),
    "Gamma": (lambda: torch.distributions.Gamma(0.4, 1.0).sample((1,)), [0.02], [0.98]),
    "dropout": (lambda: functional.dropout(torch.ones(2), 0.5), [2, 2], [2, 2]),
    "rrelu": (lambda: nn.RReLU(0.0, 1.0)(torch.tensor([-1.0, 2.0])), [-0.02, 2], [-0.98, 2]),
}


@pytest.mark.parametrize("name", AT_THE_ENDS)
def test_a_draw_at_an_end_of_its_range_is_allowed_by_the_range(name):
    draw, *ends = AT_THE_ENDS[name]
    for level, expected in zip(("low", "high"), ends, strict=True):
        with Still(level):
            assert draw().tolist() == pytest.approx(expected)


def test_a_coin_shows_zero_where_coins_do_and_it_may():
    with Still("zeros") as still:
        assert torch.bernoulli(torch.tensor([0.0, 0.2, 1.0])).tolist() == [0, 0, 1]
        assert still.others == {"zeros"}
        assert torch.rand(1).tolist() == [0.5]
        assert still.others == {"zeros", "low", "high"}
    with Still("low") as still:
        assert torch.bernoulli(torch.tensor([0.2])).tolist() == [1]
        assert still.others == {"low and zeros"}
    with Still("low and zeros"):
        assert torch.bernoulli(torch.tensor([0.2])).tolist() == [0]
        assert torch.rand(1).tolist() == [pytest.approx(0.02)]


@pytest.mark.parametrize("name", DRAWS)
def test_each_draw_is_a_constant(name):
    draw, expected = DRAWS[name]
    with Still() as still:
        assert not still.drew
        assert draw().tolist() == pytest.approx(expected)
        assert still.drew


def test_what_is_not_drawn_stays_and_what_a_named_generator_draws_if_it_is_to():
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(3, generator=torch.Generator().manual_seed(0))
    with Still() as still:
        assert torch.equal(torch.randn(3, generator=generator), expected)
        assert torch.ones(2).sum() == 2
        assert not still.drew
        still.named = True
        assert torch.randn(1, generator=generator).tolist() == [0.5]
        assert not still.drew
        assert still.others


def test_the_backward_pass_of_a_random_slope_has_the_slope_of_the_forward_pass():
    values = torch.tensor([-1.0, 2.0], requires_grad=True)
    with Still():
        nn.RReLU(0.2, 0.4)(values).sum().backward()
    assert values.grad.tolist() == pytest.approx([0.3, 1])
    with Still() as still:
        assert nn.RReLU(0.2, 0.4).eval()(torch.tensor([-1.0])).tolist() == pytest.approx([-0.3])
        assert not still.drew


def test_a_recurrent_layer_with_dropout_gives_a_record_in_a_batch_what_it_gives_alone():
    torch.manual_seed(0)
    layer, batch = nn.LSTM(3, 4, 2, dropout=0.5, batch_first=True), torch.randn(5, 6, 3)
    with Still() as still:
        together = layer(batch)[0]
        alone = torch.cat([layer(batch[row : row + 1])[0] for row in range(5)])
    assert still.drew
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(layer(batch)[0], layer(batch)[0])
