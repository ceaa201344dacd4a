"""Models and losses that people write, and what they are to be to private training.

Each takes records of six numbers, and puts them into three classes.
"""

import random
import warnings

import numpy as np
import torch
from opacus.layers import DPLSTM
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fedtrain.data import ClassTarget, Columns, DataInfo
from tests.unit.training.mechanism import Classification

WIDTH = 6
INFO = DataInfo(features=Columns(shape=(WIDTH,)), target=ClassTarget(names=("a", "b", "c")))


class Model(nn.Module):
    """Layers and a function of them."""

    def __init__(self, function, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def forward(self, features):
        return self.function(self, features)


class Built(Classification):
    """A task with a model and a loss of its own."""

    def __init__(self, make, loss=None):
        self.make, self.loss = make, loss

    def model(self):
        torch.manual_seed(0)
        return self.make()

    def losses(self, outputs, batch):
        return self.loss(outputs, batch["targets"]) if self.loss else super().losses(outputs, batch)


def tokens(features):
    return (features > 0).long()


def plain():
    return Model(lambda s, x: s.last(torch.tanh(s.first(x))), first=nn.Linear(WIDTH, 8), last=nn.Linear(8, 3))


# A. Rows that are not records.


def packed(s, x):
    words = tokens(x)
    lengths = words.sum(1).clamp(min=1).cpu()
    sequence = nn.utils.rnn.pack_padded_sequence(s.words(words), lengths, batch_first=True, enforce_sorted=False)
    return s.last(s.layer(sequence)[1][0][-1])


def sorted_and_back(s, x):
    order = x[:, 0].argsort()
    return s.last(torch.tanh(s.first(x[order])[order.argsort()]))


def again_where_needed(s, x):
    before = s.first(x)
    after, needed = before.clone(), before[:, 0] > 0
    after[needed] = s.again(before[needed])
    return s.last(s.again(torch.tanh(after)))


def sequence_first(s, x):
    return s.last(s.layer(s.first(x.T.unsqueeze(-1)))[0][-1])


def with_positions(s, x):
    return s.last(torch.tanh(s.first(x.unsqueeze(-1)) + s.position(torch.arange(WIDTH))).mean(1))


def prototypes():
    model = Model(lambda s, x: s.first(x) @ s.first(s.classes).T, first=nn.Linear(WIDTH, 8))
    model.register_buffer("classes", torch.randn(3, WIDTH))
    return model


# D. Another gradient than the loss's.


class Twice(nn.Module):
    """Has two inputs, and weights of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 8))

    def forward(self, one, other=0.0):
        return one @ self.weight + (other * one) @ self.weight


def convolution(mode):
    return lambda: Model(
        lambda s, x: s.last(s.layer(x.unsqueeze(1)).flatten(1)),
        layer=nn.Conv1d(1, 2, 3, padding=1, padding_mode=mode),
        last=nn.Linear(2 * WIDTH, 3),
    )


def embedding(**options):
    return lambda: Model(
        lambda s, x: s.last(s.words(tokens(x)).mean(1)), words=nn.Embedding(3, 4, **options), last=nn.Linear(4, 3)
    )


def bag_with_offsets(s, x):
    words = tokens(x).flatten()
    return s.last(s.words(words, torch.arange(0, len(words), WIDTH)))


# E. What Opacus has no hooks for.


class TwoOutputs(Twice):
    def forward(self, one):
        return one @ self.weight, torch.tanh(one @ self.weight)


class DropsOut(Twice):
    def forward(self, one):
        return functional.dropout(one @ self.weight, 0.3, self.training)


class Masked(nn.Linear):
    def __init__(self):
        super().__init__(WIDTH, 8)
        self.register_buffer("mask", (torch.arange(8 * WIDTH).reshape(8, WIDTH) % 3 > 0).to(self.weight.dtype))

    def forward(self, features):
        return functional.linear(features, self.weight * self.mask, self.bias)


def recurrent(layer):
    return lambda: Model(
        lambda s, x: s.last(s.layer(x.unsqueeze(-1))[0][:, -1]),
        layer=layer(1, 5, batch_first=True),
        last=nn.Linear(5, 3),
    )


def attention(**options):
    return lambda: Model(
        lambda s, x: s.last(s.layer(*[s.first(x.unsqueeze(-1))] * 3)[0].mean(1)),
        first=nn.Linear(1, 4),
        layer=nn.MultiheadAttention(4, 2, batch_first=True, **options),
        last=nn.Linear(4, 3),
    )


def two(function, first, width=8):
    return lambda: Model(function, first=first(), last=nn.Linear(width, 3))


def zeroed(model):
    nn.init.zeros_(model[-1].weight)
    return model


def storing(model):
    def function(s, x):
        s.seen = s.first(x)
        return s.last(torch.tanh(s.seen))

    model.function, model.seen = function, None
    return model


def caching():
    def function(s, x):
        if s.mask is None:
            s.mask = torch.tril(torch.ones(WIDTH, WIDTH, dtype=x.dtype))
        return s.last(x @ s.mask)

    model = Model(function, last=nn.Linear(WIDTH, 3))
    model.mask = None
    return model


def sorted_now_and_then(s, x):
    return sorted_and_back(s, x) if torch.rand(()) < 0.3 else s.last(torch.tanh(s.first(x)))


def beta_of_each_record(s, x):
    shares = torch.distributions.Beta(0.4, 0.4).sample((len(x), 1)).to(x)
    return s.last(shares * torch.tanh(s.first(x)))


def straight_through(s, x):
    made = s.first(x)
    code = s.codes(torch.cdist(made, s.codes.weight).argmin(1))
    return s.last(made + (code - made).detach()) + (code - made.detach()).square().sum(1, keepdim=True) * torch.arange(
        3
    )


def experts_of_each_token(s, x):
    token = x.reshape(-1, 1)
    chances, chosen = s.first(token).softmax(1).topk(2, 1)
    made = torch.zeros(len(token), 4, dtype=x.dtype)
    for number, expert in enumerate(s.experts):
        row, place = (chosen == number).nonzero(as_tuple=True)
        made = made.index_add(0, row, expert(token[row]) * chances[row, place, None])
    return s.last(made.reshape(len(x), WIDTH, 4).mean(1))


def of_two_names():
    """One layer under two names, another whose weight is used outside of it, and two layers with one weight."""
    made = Model(
        lambda s, x: functional.linear(s.same(torch.tanh(s.first(x))), s.last.weight) + s.tied(x) + s.last(x),
        first=nn.Linear(WIDTH, WIDTH),
        last=nn.Linear(WIDTH, 3),
        tied=nn.Linear(WIDTH, 3),
    )
    made.same = made.first
    made.tied.weight = made.last.weight
    return made


TRAINED = {
    # name: (model, whether book-keeping is right)
    "plain": (plain, True),
    "a layer of two names, and a weight of two layers": (of_two_names, False),
    "packed sequences of unsorted lengths": (
        lambda: Model(packed, words=nn.Embedding(3, 4), layer=DPLSTM(4, 5, batch_first=True), last=nn.Linear(5, 3)),
        False,
    ),
    "sorted, through a layer, and back": (two(sorted_and_back, lambda: nn.Linear(WIDTH, 8)), False),
    "a layer again for some": (
        lambda: Model(again_where_needed, first=nn.Linear(WIDTH, 8), again=nn.Linear(8, 8), last=nn.Linear(8, 3)),
        False,
    ),
    "one layer for records and constants": (prototypes, False),
    "positions": (
        lambda: Model(with_positions, first=nn.Linear(1, 4), position=nn.Embedding(WIDTH, 4), last=nn.Linear(4, 3)),
        False,
    ),
    "the sequence first": (
        lambda: Model(sequence_first, first=nn.Linear(1, 4), layer=DPLSTM(4, 5), last=nn.Linear(5, 3)),
        False,
    ),
    "patches as rows": (
        lambda: Model(lambda s, x: s.last(x.reshape(-1, 1)).reshape(len(x), WIDTH, 3).mean(1), last=nn.Linear(1, 3)),
        False,
    ),
    "weights of a layer beside it": (
        lambda: Model(
            lambda s, x: functional.linear(s.words(tokens(x)).mean(1), s.words.weight), words=nn.Embedding(3, 4)
        ),
        False,
    ),
    "circular padding": (convolution("circular"), True),
    "reflected padding": (convolution("reflect"), True),
    "replicated padding": (convolution("replicate"), True),
    "padding of zeros": (convolution("zeros"), True),
    "a bag with offsets": (lambda: Model(bag_with_offsets, words=nn.EmbeddingBag(3, 4), last=nn.Linear(4, 3)), False),
    "a second input": (two(lambda s, x: s.last(s.first(x, torch.tanh(x))), Twice), True),
    "a keyword input": (two(lambda s, x: s.last(s.first(x, other=torch.tanh(x))), Twice), True),
    "layers by keyword": (two(lambda s, x: s.last(input=s.first(input=x)), lambda: nn.Linear(WIDTH, 8)), True),
    "embedding": (embedding(), True),
    "padding_idx": (embedding(padding_idx=0), True),
    "scale_grad_by_freq": (embedding(scale_grad_by_freq=True), False),
    "sparse": (embedding(sparse=True), True),
    "GRUCell": (two(lambda s, x: s.last(s.first(x)), lambda: nn.GRUCell(WIDTH, 8)), False),
    "RNN": (recurrent(nn.RNN), False),
    "LSTM": (recurrent(nn.LSTM), True),
    "GRU": (recurrent(nn.GRU), False),
    "Bilinear": (two(lambda s, x: s.last(s.first(x, x)), lambda: nn.Bilinear(WIDTH, WIDTH, 8)), True),
    "weight_norm without bias": (
        two(
            lambda s, x: s.last(s.first(x)),
            lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, 8, bias=False)),
        ),
        False,
    ),
    "LayerNorm without bias": (
        two(lambda s, x: s.last(s.first(x)), lambda: nn.LayerNorm(WIDTH, bias=False), WIDTH),
        True,
    ),
    "two outputs": (two(lambda s, x: s.last(sum(s.first(x))), TwoOutputs), True),
    "dropout in a layer of one's own": (two(lambda s, x: s.last(s.first(x)), DropsOut), False),
    "dropout": (lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Dropout(0.5), nn.Linear(8, 3)), True),
    "much dropout": (lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Dropout(0.8), nn.Linear(8, 3)), True),
    "RReLU": (lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.RReLU(), nn.Linear(8, 3)), True),
    "checkpointing": (
        two(lambda s, x: s.last(checkpoint(s.first, x, use_reentrant=False)), lambda: nn.Linear(WIDTH, 8)),
        True,
    ),
    "a masked layer": (two(lambda s, x: s.last(s.first(x)), Masked), True),
    "add_bias_kv": (attention(add_bias_kv=True), False),
    "attention with dropout": (attention(dropout=0.1), True),
    "in place": (lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)), True),
    "unused weights": (two(lambda s, x: s.last(x), lambda: nn.Linear(WIDTH, 8), WIDTH), False),
    "a first layer twice": (
        two(lambda s, x: s.last(s.first(torch.tanh(s.first(x)))), lambda: nn.Linear(WIDTH, WIDTH), WIDTH),
        True,
    ),
    "a head of zeros": (lambda: zeroed(nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 3))), True),
    "sorted for some draws": (two(sorted_now_and_then, lambda: nn.Linear(WIDTH, 8)), False),
    "Beta of each record": (two(beta_of_each_record, lambda: nn.Linear(WIDTH, 8)), True),
    "straight through": (
        lambda: Model(straight_through, first=nn.Linear(WIDTH, 4), codes=nn.Embedding(2, 4), last=nn.Linear(4, 3)),
        True,
    ),
    "experts of each token": (
        lambda: Model(
            experts_of_each_token,
            first=nn.Linear(1, 3),
            experts=nn.ModuleList(nn.Linear(1, 4) for _ in range(3)),
            last=nn.Linear(4, 3),
        ),
        False,
    ),
    "words by number": (
        lambda: Model(lambda s, x: s.last(s.words(x.long()).mean(1)), words=nn.Embedding(9, 4), last=nn.Linear(4, 3)),
        True,
    ),
    "the last activations kept": (lambda: storing(plain()), True),
    "a mask made at the first call": (caching, True),
}


# B and C. Records that meet, and what the forward pass writes.


def attending(s, x):
    hidden = s.first(x)
    return s.last(torch.softmax(hidden @ hidden.T, 1) @ hidden)


def mixing(s, x):
    return s.last(0.7 * x + 0.3 * x[torch.randperm(len(x))])


def mixed_if(drawn):
    return two(
        lambda s, x: s.last(torch.tanh(s.first(0.6 * x + 0.4 * x.flip(0) if drawn() else x))),
        lambda: nn.Linear(WIDTH, 8),
    )


def hook_on_a_gradient():
    model = plain()
    model.last.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))
    return model


def keeping(start, function):
    def make():
        model = plain()
        model.function, model.kept = function, start()
        return model

    return make


def running_mean(s, x):
    hidden = s.first(x)
    s.kept = 0.9 * s.kept + 0.1 * hidden.detach().mean(0)
    return s.last(hidden - s.kept)


def queue(s, x):
    hidden = s.first(x)
    near = hidden @ torch.stack(s.kept[-3:]).T if len(s.kept) > 2 else 0.0
    s.kept.append(hidden.detach().mean(0))
    return s.last(hidden) + near


def recurrent_state(s, x):
    hidden = s.first(x) + (0.0 if s.kept is None else s.kept[0])
    s.kept = (hidden.detach().mean(0),)
    return s.last(hidden)


def started_from_data(s, x):
    if s.kept is None:
        s.kept = x.detach().mean(0)
    return s.last(torch.tanh(s.first(x - s.kept)))


def counter(s, x):
    s.kept += 1
    return s.last(torch.tanh(s.first(x)) * s.kept)


def frozen_mean():
    def function(s, x):
        with torch.no_grad():
            s.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return s.last(x - s.mean)

    model = Model(function, last=nn.Linear(WIDTH, 3))
    model.mean = nn.Parameter(torch.zeros(WIDTH), requires_grad=False)
    return model


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


def of_jit(function, layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return function(layer)


def plain_sequence():
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 3))


def compiled(function):
    return lambda: nn.Sequential(nn.Linear(WIDTH, 8), of_jit(function, nn.Linear(8, 8)), nn.Linear(8, 3))


BEFORE_FIRST = r"records meet before its layer first \(Linear\)"

REFUSED = {
    # name: (model, what the refusal names)
    "x - x.mean(0)": (
        two(lambda s, x: s.last(torch.tanh(s.first(x - x.mean(0)))), lambda: nn.Linear(WIDTH, 8)),
        r"records meet before its layer first \(Linear\)",
    ),
    "attention over the batch": (
        two(attending, lambda: nn.Linear(WIDTH, 8)),
        r"records meet before its layer last \(Linear\)",
    ),
    "records mixed at random": (
        lambda: Model(mixing, last=nn.Linear(WIDTH, 3)),
        r"records meet before its layer last \(Linear\)",
    ),
    "records mixed if a number is low": (mixed_if(lambda: torch.rand(()) < 0.1), BEFORE_FIRST),
    "records mixed if a number is high": (mixed_if(lambda: torch.rand(1).item() > 0.9), BEFORE_FIRST),
    "records mixed if a Gaussian is negative": (mixed_if(lambda: torch.randn(()) < 0), BEFORE_FIRST),
    "records mixed if a coin shows 0": (mixed_if(lambda: not torch.bernoulli(torch.tensor(0.9))), BEFORE_FIRST),
    "records mixed if a number is the last": (mixed_if(lambda: torch.randint(2, 9, (1,)) == 8), BEFORE_FIRST),
    "records mixed by Python's draws": (
        mixed_if(lambda: random.random() < 0.01),
        r"draws by Python's random, .*torch\.rand",
    ),
    "records mixed by NumPy's draws": (
        mixed_if(lambda: np.random.rand() < 0.01),  # noqa: NPY002 -- as people do
        r"draws by numpy\.random, .*torch\.rand",
    ),
    "functional batch norm": (
        two(
            lambda s, x: s.last(functional.batch_norm(s.first(x), None, None, training=True)),
            lambda: nn.Linear(WIDTH, 8),
        ),
        "called on one synthetic record .* Expected more than 1 value per channel",
    ),
    "functional batch norm of images": (
        two(
            lambda s, x: s.last(functional.batch_norm(s.first(x.unsqueeze(1)), None, None, training=True).mean(2)),
            lambda: nn.Conv1d(1, 8, 1),
        ),
        r"records meet before its layer last \(Linear\)",
    ),
    "logits over the batch": (
        two(lambda s, x: s.last(s.first(x)) - s.last(s.first(x)).mean(0), lambda: nn.Linear(WIDTH, 8)),
        "records meet in forward, after its last layer",
    ),
    "max_norm": (embedding(max_norm=1.0), r"its layer words, Embedding with max_norm, .* functional\.normalize"),
    "max_norm of the function": (
        lambda: Model(
            lambda s, x: s.last(functional.embedding(tokens(x), s.words.weight, max_norm=0.1).mean(1)),
            words=nn.Embedding(3, 4),
            last=nn.Linear(4, 3),
        ),
        r"its parameter words\.weight changes in the forward pass",
    ),
    "a hook on a gradient": (hook_on_a_gradient, r"its parameter last\.weight has a hook on its gradient"),
    "a frozen parameter": (frozen_mean, "its parameter mean changes in the forward pass"),
    "a running mean": (keeping(lambda: torch.zeros(8), running_mean), "writes the attribute kept and reads it again"),
    "a queue": (keeping(list, queue), r"writes the attribute kept\.\d+ and reads it again"),
    "a state": (keeping(lambda: None, recurrent_state), r"writes the attribute kept\.0 and reads it again"),
    "started from data": (keeping(lambda: None, started_from_data), "writes the attribute kept and reads it again"),
    "a counter": (keeping(lambda: 0, counter), "writes the attribute kept and reads it again"),
    "outputs without gradients": (
        two(lambda s, x: s.last(s.first(x)).detach(), lambda: nn.Linear(WIDTH, 8)),
        "the losses do not depend on the model's weights",
    ),
    "BatchNorm": (lambda: nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), "1: BatchNorm1d"),
    "nothing to train": (lambda: nn.Linear(WIDTH, 3).requires_grad_(False), "no trainable parameter"),
    "weight_norm of old": (
        lambda: nn.Sequential(old_weight_norm(nn.Linear(WIDTH, 3))),
        r"a copy of it cannot be made .* use nn\.utils\.parametrizations\.weight_norm",
    ),
    "a scripted layer": (compiled(torch.jit.script), r"its layer 1 is compiled by torch\.jit, .* use the module"),
    "a traced layer": (
        compiled(lambda layer: torch.jit.trace(layer, torch.randn(2, 8))),
        r"its layer 1 is compiled by torch\.jit",
    ),
    "a scripted model": (lambda: of_jit(torch.jit.script, plain_sequence()), r"it is compiled by torch\.jit"),
    "an error": (lambda: nn.Linear(WIDTH + 1, 3), "called on one synthetic record .* mat1 and mat2 shapes"),
}

CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


def weighted(outputs, targets):
    return functional.cross_entropy(outputs, targets, weight=CLASS_WEIGHTS.to(outputs), reduction="none")


def ignored(outputs, targets):
    return functional.cross_entropy(outputs, targets, ignore_index=1, reduction="none")


def over_the_batch_of_weights(outputs, targets):
    return weighted(outputs, targets) / CLASS_WEIGHTS[targets].sum()


def over_what_counts(outputs, targets):
    return ignored(outputs, targets) / (targets != 1).sum().clamp(min=1)


def hardest_half(outputs, targets):
    each = functional.cross_entropy(outputs, targets, reduction="none")
    return each * (each >= each.median())


def in_batch_negatives(outputs, targets):
    return functional.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")


TRAINED_LOSSES = {"class weights": weighted, "ignore_index": ignored}
REFUSED_LOSSES = {
    "class weights over the batch": over_the_batch_of_weights,
    "ignore_index over the batch": over_what_counts,
    "the hardest half": hardest_half,
    "in-batch negatives": in_batch_negatives,
}
