"""Whatever weights of a model are tied, and however: each is clipped, noised and sent once, and they stay tied."""

import copy
from itertools import pairwise

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedtrain.flower.client_dp import clip_reply, release_round
from fedtrain.flower.messages import protocol
from fedtrain.privacy.noise import SeededSource
from fedtrain.tasks import build_model, load_weights, shared_names, weights_of
from tests.fakes import InProcessGrid
from tests.plans import capped_plan
from tests.tied import TiedDigits

LAYERS, CLIP = 5, 0.1
PLAN = capped_plan(3, clip_norm=CLIP, noise_multiplier=1.0)


class Drawn(TiedDigits):
    """A task with the model that a test drew."""

    def __init__(self, model):
        self._model = model

    def model(self):
        return self._model


class Counting(SeededSource):
    """Counts the numbers that are drawn."""

    drawn = 0

    def gaussian(self, shape, **settings):
        self.drawn += torch.Size(shape).numel()
        return super().gaussian(shape, **settings)


@st.composite
def ties(draw):
    """Return groups of layers whose weights are one tensor, and for each member whether by name or by memory."""
    order = draw(st.permutations(range(LAYERS)))
    cuts = sorted({0, *draw(st.sets(st.integers(1, LAYERS - 1))), LAYERS})
    groups = [order[start:end] for start, end in pairwise(cuts)]
    return [[(layer, draw(st.booleans())) for layer in sorted(group)] for group in groups]


@given(ties(), st.booleans(), st.integers(0, 1000))
def test_each_weight_is_one(groups, biases, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(*(nn.Linear(3, 3, bias=biases) for _ in range(LAYERS)))
    for (first, _), *others in groups:
        for layer, by_memory in others:
            weight = net[first].weight
            net[layer].weight = nn.Parameter(weight.data) if by_memory else weight
    task = Drawn(net)
    model = copy.deepcopy(build_model(task))
    received, shared = ArrayRecord(weights_of(model)), shared_names(task, model)
    assert set(received) == shared == {name for name, _ in model.named_parameters()}
    trained = ArrayRecord({name: value + torch.randn_like(value) for name, value in weights_of(model).items()})

    sent, _ = clip_reply(received=received, trained=trained, trainable=shared, clip_norm=CLIP)
    square = sum(((sent[name].numpy() - received[name].numpy()) ** 2).sum() for name in sent)
    assert CLIP * (1 - 1e-5) <= square**0.5 <= CLIP * (1 + 1e-5)

    InProcessGrid(lambda _: None, [])
    request = Message(RecordDict({protocol.ARRAYS: received}), 5, "train")
    reply = Message(
        RecordDict({protocol.ARRAYS: sent, protocol.METRICS: MetricRecord({protocol.WEIGHT: 1.0})}), reply_to=request
    )
    source = Counting(seed)
    (released,), _ = release_round([reply], sent=received, trainable=shared, plan=PLAN, clip_norm=CLIP, source=source)
    assert source.drawn == 9 * len(groups) + 3 * LAYERS * biases
    load_weights(model, released.content[protocol.ARRAYS].to_torch_state_dict())
    for group in groups:
        assert len({model[layer].weight.data_ptr() for layer, _ in group}) == 1
        assert not torch.equal(model[group[0][0]].weight, net[group[0][0]].weight)
