import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from torch import nn

from fedtrain.clientapp.context import context_of
from fedtrain.clientapp.site import open_site
from fedtrain.clientapp.training import train
from fedtrain.config import to_flat
from fedtrain.flower.messages import protocol
from tests.fakes import digits_experiment


class Counting(nn.Module):
    """Keeps in an attribute how often it was called, which no state dict has."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, features):
        self.calls += 1
        return self.inner(features) * self.calls


def test_what_a_layer_keeps_does_not_reach_the_next_client(tmp_path, monkeypatch):
    run_config = to_flat(digits_experiment(tmp_path))
    site = open_site(run_config)
    monkeypatch.setitem(site.__dict__, "model", Counting(site.model))
    start = ArrayRecord(site.model.state_dict())

    def update():
        context = Context(1, 1, {"partition-id": 0, "num-partitions": 4}, RecordDict(), run_config)
        settings = ConfigRecord({protocol.ROUND: 1, protocol.LEARNING_RATE: 0.1})
        reply = train(RecordDict({protocol.ARRAYS: start, protocol.CONFIG: settings}), context_of(context), site)
        return reply[protocol.ARRAYS].to_torch_state_dict()

    first, second = update(), update()
    assert all(torch.equal(first[name], second[name]) for name in first)
