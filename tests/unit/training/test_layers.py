"""What each kind of layer contributes, in odd shapes, against plain autograd of each record alone."""

from types import MethodType

import pytest
import torch
from torch import nn

from fedtrain.tasks import Records
from fedtrain.training.bookkeeping import bookkeeping
from fedtrain.training.contributions import Lookups, Products, unfolded
from fedtrain.training.gradients import NotRecordsError, by_loop, collate_alone
from fedtrain.training.perrecord import PerRecord
from tests.unit.training.mechanism import Classification

COUNT = 5


class Squares(Classification):
    """The loss is a sum of squares with weights, so that every value of an output has a gradient of its own."""

    def collate(self, records, generator):
        return {"inputs": records.features, "targets": records.targets}

    def losses(self, outputs, batch):
        flat = outputs.flatten(1)
        return (torch.linspace(0.5, 1.5, flat.shape[1], dtype=flat.dtype) * torch.tanh(flat).square()).sum(1)


def normal(*shape):
    return lambda: torch.randn(COUNT, *shape)


def words(*shape):
    return lambda: torch.randint(0, 5, (COUNT, *shape))


def doubled(layer):
    """Let a layer take twice what it is given, by a forward of this one layer."""
    layer.forward = MethodType(lambda self, inputs: type(self).forward(self, 2 * inputs), layer)
    return layer


LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), normal(7)),
    "linear without bias": (lambda: nn.Linear(7, 5, bias=False), normal(7)),
    "a short sequence of wide vectors": (lambda: nn.Linear(96, 80), normal(2, 96)),
    "a long sequence of narrow vectors": (lambda: nn.Linear(3, 2), normal(50, 3)),
    "a grid": (lambda: nn.Linear(4, 3), normal(5, 6, 4)),
    "no positions": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(3, 2)), normal(1, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), normal(3, 11)),
    "conv1d, causal by hand": (
        lambda: nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(2, 3, 3, dilation=2)),
        normal(2, 9),
    ),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), normal(3, 8, 7)),
    "conv2d without bias, with strides": (
        lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 2), bias=False),
        normal(3, 8, 7),
    ),
    "dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=(2, 1), padding=2), normal(2, 9, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), normal(4, 5, 6)),
    "depthwise": (lambda: nn.Conv2d(5, 10, 3, groups=5), normal(5, 6, 6)),
    "same": (lambda: nn.Conv2d(2, 3, (5, 3), padding="same"), normal(2, 6, 5)),
    "same with more at the end": (lambda: nn.Conv1d(2, 3, 4, padding="same", dilation=2), normal(2, 12)),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), normal(2, 6, 5)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), normal(2, 6, 5)),
    "wide channels, many positions": (lambda: nn.Conv2d(16, 16, 3, padding=1, stride=2), normal(16, 14, 14)),
    "wide channels in groups": (lambda: nn.Conv2d(32, 32, 3, groups=2, dilation=2), normal(32, 12, 12)),
    "wide channels, few positions": (lambda: nn.Conv2d(32, 48, 3), normal(32, 3, 4)),
    "wide channels, few positions, groups": (lambda: nn.Conv2d(64, 64, 3, groups=2), normal(64, 3, 4)),
    "many weights, many positions": (lambda: nn.Conv2d(64, 48, 3, padding=1), normal(64, 15, 15)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), padding=1), normal(2, 3, 5, 4)),
    "conv3d, wide": (lambda: nn.Conv3d(8, 8, 3, padding=1), normal(8, 5, 5, 5)),
    "embedding": (lambda: nn.Embedding(5, 4), words(6)),
    "embedding of one word": (lambda: nn.Embedding(5, 4), words()),
    "embedding of a grid": (lambda: nn.Embedding(5, 4), words(2, 3)),
    "padding_idx": (lambda: nn.Embedding(5, 4, padding_idx=-2), words(6)),
    "sparse": (lambda: nn.Embedding(5, 4, sparse=True), words(6)),
    "group norm": (lambda: nn.GroupNorm(2, 6), normal(6, 4, 3)),
    "group norm of vectors": (lambda: nn.GroupNorm(3, 6), normal(6)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), normal(4, 5, 3)),
    "layer norm": (lambda: nn.LayerNorm(6), normal(6)),
    "layer norm of images": (lambda: nn.LayerNorm((3, 4)), normal(2, 3, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(6, bias=False), normal(5, 6)),
    "RMS norm": (lambda: nn.RMSNorm(6), normal(5, 6)),
    "PReLU": (lambda: nn.PReLU(3), normal(3, 4)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2), normal(3, 4, 4)),
    "bilinear": (lambda: Pair(nn.Bilinear(4, 4, 3)), normal(4)),
    "a layer twice": (lambda: Twice(nn.Linear(6, 6)), normal(6)),
    "a convolution twice": (lambda: Twice(nn.Conv1d(2, 2, 3, padding=1)), normal(2, 6)),
    "a norm twice": (lambda: Twice(nn.LayerNorm(6)), normal(6)),
    "an embedding twice": (lambda: TwoTables(nn.Embedding(5, 4)), words(6)),
    "an embedding and a layer of one weight": (lambda: Tied(nn.Embedding(5, 4)), words(6)),
    "a forward of its own": (lambda: doubled(nn.Linear(4, 6)), normal(4)),
    "in place": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)), normal(4)),
}


class Attends(nn.Module):
    """Attends to its inputs, or to others made of them."""

    def __init__(self, layer, *, first=True, others=False, **options):
        super().__init__()
        self.layer, self.first, self.others, self.options = layer, first, others, options
        self.weigh = options.get("need_weights", True)

    def forward(self, inputs):
        query = inputs if self.first else inputs.transpose(0, 1)
        key, value = (
            (query[..., : self.layer.kdim].tanh(), query[..., : self.layer.vdim].sin()) if self.others else [query] * 2
        )
        options = dict(self.options)
        if options.pop("pad", False):
            # The first key is never padding, so that each query has one.
            options["key_padding_mask"] = (inputs[:, :, 0] < -0.3) & (torch.arange(inputs.shape[1]) > 0)
        result, weights = self.layer(query, key, value, **options)
        result = result if self.first else result.transpose(0, 1)
        return torch.cat([result.flatten(1), weights.flatten(1)], dim=1) if self.weigh else result


class Recurs(nn.Module):
    """Runs a recurrent layer, and uses its last states too."""

    def __init__(self, layer, *, start=False):
        super().__init__()
        self.layer, self.start = layer, start

    def forward(self, inputs):
        sequence = inputs if self.layer.batch_first else inputs.transpose(0, 1)
        count = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        state = inputs[:, :count, : self.layer.hidden_size].transpose(0, 1)
        output, (hidden, cell) = self.layer(sequence, (state, state.tanh()) if self.start else None)
        output = output if self.layer.batch_first else output.transpose(0, 1)
        return torch.cat([output.flatten(1), hidden.transpose(0, 1).flatten(1), cell.transpose(0, 1).flatten(1)], dim=1)


def attention(width=6, heads=2, **options):
    return nn.MultiheadAttention(width, heads, **({"batch_first": True} | options))


def lstm(*sizes, **options):
    return nn.LSTM(*sizes, **({"batch_first": True} | options))


CAUSAL = torch.ones(4, 4, dtype=torch.bool).triu(1)
LAYERS |= {
    "attention": (lambda: Attends(attention()), normal(4, 6)),
    "attention without biases": (lambda: Attends(attention(bias=False), need_weights=False), normal(4, 6)),
    "attention, sequence first": (lambda: Attends(attention(batch_first=False), first=False), normal(4, 6)),
    "attention to others": (lambda: Attends(attention(), others=True), normal(4, 6)),
    "attention to others of other widths": (
        lambda: Attends(attention(kdim=3, vdim=5), others=True, average_attn_weights=False),
        normal(4, 6),
    ),
    "attention with a mask": (lambda: Attends(attention(), attn_mask=CAUSAL, need_weights=False), normal(4, 6)),
    "attention with a hint": (
        lambda: Attends(attention(), attn_mask=CAUSAL, is_causal=True, need_weights=False),
        normal(4, 6),
    ),
    "attention with padding": (
        lambda: Attends(attention(), attn_mask=CAUSAL, pad=True, average_attn_weights=False),
        normal(4, 6),
    ),
    "an encoder of a transformer": (
        lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
        normal(4, 6),
    ),
    "a decoder of a transformer": (
        lambda: Pair(nn.TransformerDecoderLayer(6, 2, 8, dropout=0.0, batch_first=True)),
        normal(4, 6),
    ),
    "LSTM": (lambda: Recurs(lstm(3, 4)), normal(6, 3)),
    "LSTM from a start": (lambda: Recurs(lstm(3, 3), start=True), normal(6, 3)),
    "LSTM of several layers in both directions": (
        lambda: Recurs(lstm(3, 2, num_layers=2, bidirectional=True), start=True),
        normal(5, 3),
    ),
    "LSTM without biases, sequence first": (
        lambda: Recurs(lstm(3, 4, bias=False, batch_first=False)),
        normal(6, 3),
    ),
    "a wide LSTM of a short sequence": (lambda: Recurs(lstm(40, 32)), normal(2, 40)),
}


class Pair(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, inputs):
        return self.layer(inputs, torch.tanh(inputs))


class Twice(Pair):
    def forward(self, inputs):
        return self.layer(torch.tanh(self.layer(inputs)))


class TwoTables(Pair):
    def forward(self, inputs):
        return self.layer(inputs) * self.layer(inputs[:, :1])


class Tied(Pair):
    def __init__(self, layer):
        super().__init__(layer)
        self.head = nn.Linear(4, 5)
        self.head.weight = layer.weight

    def forward(self, inputs):
        return self.head(torch.tanh(self.layer(inputs)))


def built(name, dtype=torch.float64, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    make, draw = LAYERS[name]
    net, features = make().to(dtype), draw()
    if features.is_floating_point():
        features = features.to(dtype)
    if memory_format is torch.channels_last:
        net, features = net.to(memory_format=memory_format), features.to(memory_format=memory_format)
    return net, Records(features=features, targets=torch.zeros(COUNT, dtype=torch.long))


def found_and_right(net, data, task=None):
    task = task or Squares()
    _, right = by_loop(task, net, collate_alone(task, data, None))
    with bookkeeping(net) as book:
        _, found = book(task, task.collate(data, None))
    return found, right


def check(found, right, **allowed):
    torch.testing.assert_close(found.rows(slice(None)), right, **allowed)
    torch.testing.assert_close(found.rows([3, 1]), [each[[3, 1]] for each in right], **allowed)
    squares = sum(each.reshape(COUNT, -1).double().square().sum(1) for each in right)
    torch.testing.assert_close(found.squares(), squares, **allowed)
    factors = torch.linspace(0, 1, COUNT, dtype=torch.float64)
    expected = [torch.einsum("i,i...", factors.to(each), each) for each in right]
    torch.testing.assert_close(found.totals(factors), expected, **allowed)
    exact = [torch.einsum("i,i...", factors, each.double()) for each in right]
    torch.testing.assert_close(found.totals(factors, exact=True), exact, **({"rtol": 1e-5, "atol": 1e-5} | allowed))
    kept = torch.tensor([True, False, True, True, False])
    silenced = [part.silenced(kept).rows(slice(None)) for part in found.parts]
    expected = [torch.where(kept.reshape(-1, *(1 for _ in each.shape[1:])), each, 0.0) for each in right]
    torch.testing.assert_close(silenced, expected, **allowed)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_contributes_the_gradient_of_each_record_alone(name):
    check(*found_and_right(*built(name)))


@pytest.mark.parametrize("name", [name for name in LAYERS if "conv" in name or "positions" in name or "norm" in name])
def test_in_single_precision_too(name):
    check(*found_and_right(*built(name, torch.float32)), rtol=1e-3, atol=1e-4)


# In torch 2.13 the backward pass of group norms crashes with channels last.
IMAGES = [name for name, (make, _) in LAYERS.items() if isinstance(make(), (nn.Conv2d, nn.InstanceNorm2d))]


@pytest.mark.parametrize("name", IMAGES)
def test_with_channels_last_too(name):
    found, right = found_and_right(*built(name, memory_format=torch.channels_last))
    check(found, [each.contiguous() for each in right])


@pytest.mark.parametrize("name", LAYERS)
def test_views_of_a_record_are_averaged(name):
    net, data = built(name)
    # Five records of one view are one record of five views.
    found, right = found_and_right(net, data)
    averaged = found.averaged(COUNT)
    expected = [each.mean(0, keepdim=True) for each in right]
    torch.testing.assert_close(averaged.rows(slice(None)), expected)
    norm = torch.cat([each.flatten() for each in expected]).norm()
    torch.testing.assert_close(averaged.squares().sqrt(), norm.reshape(1))


@pytest.mark.parametrize("name", ["linear", "conv2d", "group norm", "layer norm", "embedding", "instance norm"])
@pytest.mark.parametrize("frozen", [["weight"], ["bias"]])
def test_frozen_weights_beside_trained_ones_have_no_part(name, frozen):
    net, data = built(name)
    head = nn.Sequential(net, nn.Flatten(), nn.LazyLinear(2, dtype=torch.float64))
    head(data.features)
    for each, parameter in net.named_parameters():
        parameter.requires_grad_(each not in frozen)
    found, right = found_and_right(head, data)
    assert len(found.parts) == len(right) < len(list(head.parameters())) + (name == "embedding")
    check(found, right)


def test_a_bound_of_rounding_is_added_where_positions_cancel():
    # The true norm is tiny beside the terms that it is the sum of.
    taken = torch.randn(1, 1, 1, 400, dtype=torch.float64).repeat(1, 1, 2, 1)
    made = 1e9 * torch.randn(1, 1, 1, 300, dtype=torch.float64).repeat(1, 1, 2, 1)
    made[:, :, 1] = -made[:, :, 0] * (1 - 1e-12)
    part = Products(taken=taken, made=made, fold=unfolded((300, 400)))
    true = part.rows([0]).norm()
    assert float(true) > 0
    assert float(part.squares()) >= float(true.square())
    # In single precision the factors are the same numbers, and squares are in double precision.
    half = Products(taken=taken.float(), made=made.float(), fold=part.fold)
    exact = Products(taken=taken.float().double(), made=made.float().double(), fold=part.fold)
    assert float(half.squares()) == float(exact.squares())


@pytest.mark.parametrize("positions", [16, 128])
@pytest.mark.parametrize("views", [1, 2])
def test_terms_of_one_word_that_cancel_leave_no_rounding_beyond_the_bound(positions, views):
    draw = torch.Generator().manual_seed(0)
    half = 1e7 * torch.randn(views, positions // 2, 4, generator=draw)
    order = torch.randperm(positions, generator=draw)
    made = torch.cat([half, -half * (1 + 3e-7)], dim=1)[:, order]
    part = Lookups(words=torch.zeros(views, positions, dtype=torch.int64), made=made, size=3)
    found = PerRecord([torch.zeros(3, 4)], [part], views).averaged(views)
    assert float(found.squares().sqrt()) > 2
    (total,) = found.clipped(1.0)
    assert float(total.double().norm()) <= 1 + 1e-6


def test_a_record_whose_positions_cancel_is_clipped_in_single_precision_too():
    class Change(Pair):
        def forward(self, inputs):
            outputs = self.layer(inputs)
            return outputs[:, 0] - (1 - 1e-4) * outputs[:, 1]

    class Sum(Squares):
        def losses(self, outputs, batch):
            return outputs.sum(1)

    torch.manual_seed(0)
    net, features = Change(nn.Linear(64, 64, bias=False)), 1e3 * torch.randn(1, 1, 64).repeat(1, 2, 1)
    with bookkeeping(net) as book:
        _, found = book(Sum(), {"inputs": features, "targets": torch.zeros(1)})
    assert isinstance(found.parts[0], Products)
    assert float(found.settled().clipped(1.0)[0].norm()) <= 1 + 1e-6


@pytest.mark.parametrize("clip", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("size", [1e30, 1e35, 3e37])
def test_a_gradient_that_is_hardly_a_number_is_within_the_bound(size, clip):
    found = PerRecord.of([torch.zeros(4)], [torch.full((1, 4), size)])
    assert float(found.clipped(clip)[0].double().norm()) <= clip * (1 + 1e-6)


def test_long_and_short_factors_do_not_hide_a_product():
    # In single precision the square of the output gradient is zero.
    part = Products(taken=torch.full((1, 1, 1, 4), 1e18), made=torch.full((1, 1, 1, 4), 1e-24), fold=unfolded((4, 4)))
    assert float(part.squares().sqrt()) == pytest.approx(4e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["linear", "a short sequence of wide vectors", "conv2d", "layer norm", "group norm"])
def test_a_record_that_is_not_finite_counts_as_zero(name, poison):
    net, data = built(name)
    clean = Records(features=data.features[1:], targets=data.targets[1:])
    sums = found_and_right(net, clean)[0].clipped(0.01)
    data.features.flatten(1)[0, 0] = poison
    torch.testing.assert_close(found_and_right(net, data)[0].clipped(0.01), sums)


@pytest.mark.parametrize(
    "name",
    ["linear", "a short sequence of wide vectors", "conv2d", "embedding", "an embedding and a layer of one weight"],
)
@pytest.mark.parametrize("bound", [1e-3, 1e3])
def test_no_record_moves_the_clipped_sum_by_more_than_the_bound(name, bound):
    net, data = built(name)
    whole = found_and_right(net, data)[0].clipped(bound)
    for row in range(COUNT):
        others = torch.arange(COUNT) != row
        rest = Records(features=data.features[others], targets=data.targets[others])
        without = found_and_right(net, rest)[0].clipped(bound)
        moved = torch.stack([(a - b).norm() for a, b in zip(whole, without, strict=True)]).norm()
        assert float(moved) <= bound * (1 + 1e-6)


def test_what_is_written_after_a_layer_took_it_is_noticed():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.PReLU()

        def forward(self, inputs):
            inputs = inputs.clone()
            result = self.layer(inputs)
            with torch.no_grad():
                inputs.add_(1)
            return result

    net, data = Writes().double(), built("linear")[1]
    with bookkeeping(net) as book, pytest.raises((NotRecordsError, RuntimeError)):
        book(Squares(), {"inputs": data.features, "targets": data.targets})


def test_a_forward_that_somebody_set_is_left():
    layer = doubled(nn.LSTM(2, 3))
    own, inputs = layer.forward, torch.randn(4, 1, 2)
    expected = layer(inputs)[0]
    with bookkeeping(layer):
        torch.testing.assert_close(layer(inputs)[0], expected)
    assert layer.forward is own


def test_inputs_are_taken_by_the_names_that_torch_gives_them():
    recurrent, attending, inputs = lstm(6, 3), attention(), torch.randn(4, 5, 6)
    expected = [recurrent(inputs)[0], attending(inputs, inputs, inputs)[0]]
    with bookkeeping(recurrent), bookkeeping(attending):
        found = [recurrent(input=inputs, hx=None)[0], attending(query=inputs, key=inputs, value=inputs)[0]]
    torch.testing.assert_close(found, expected)
