import dataclasses
import itertools

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from torch import nn

from clients.app import app
from clients.training import client_number, train
from fedtrain.data import Partitions
from fedtrain.errors import BudgetError, ClientError, DataError, PrivacySpecError, TaskError
from fedtrain.flower import protocol
from fedtrain.flower.accounts import load_account, store_account
from fedtrain.privacy import Account, Charge
from tests.fakes import InProcessGrid


def bits(content):
    return {name: (array.dtype, array.shape, array.data) for name, array in content[protocol.ARRAYS].items()}


def run(node, content, site=None):
    return train(content, node.context, site or node.site)


class CountingPartitions(Partitions):
    """Counts how often the records of a client are looked up."""

    reads = 0

    def indices(self, client):
        type(self).reads += 1
        return super().indices(client)


@pytest.fixture
def counted():
    """Give a function that returns a site which counts reads, and a function that returns the count."""

    def make(site):
        CountingPartitions.reads = 0
        partitions = CountingPartitions(offsets=site.partitions.offsets, rows=site.partitions.rows)
        return dataclasses.replace(site, partitions=partitions), lambda: CountingPartitions.reads

    return make


def test_a_node_knows_its_client_from_its_partition(plain, node):
    for client in range(4):
        assert client_number(node(plain, client).context, 4) == client


@pytest.mark.parametrize("config", [{}, {"partition-id": 1}, {"num-partitions": 4}])
def test_a_node_outside_of_a_simulation_does_not_train(private, node, request_of, config):
    outside = node(private, 1, node_config=config)
    with pytest.raises(ClientError, match=r"not part of a simulation.*protects nobody outside"):
        run(outside, request_of(private))
    assert load_account(outside.context.state) == Account()


def test_another_number_of_nodes_than_clients_would_mix_up_the_data(plain, node, request_of):
    with pytest.raises(ClientError, match=r"the simulation has 5 nodes and federation.clients = 4; make them equal"):
        run(node(plain, 1, node_config={"partition-id": 1, "num-partitions": 5}), request_of(plain))


def test_a_client_beyond_the_last_has_no_data(plain, node, request_of):
    with pytest.raises(DataError, match="there is no client 4"):
        run(node(plain, 4), request_of(plain))


def test_a_plain_reply_holds_the_weights_the_loss_and_the_count(plain, node, request_of):
    client = node(plain, 2)
    content = request_of(plain)
    reply = run(client, content)
    assert list(reply) == [protocol.ARRAYS, "metrics"]
    assert list(reply[protocol.ARRAYS]) == list(content[protocol.ARRAYS])
    assert set(reply["metrics"]) == {protocol.WEIGHT, protocol.LOSS}
    assert reply["metrics"][protocol.WEIGHT] == len(client.site.records(2)) == 100
    assert 0 < reply["metrics"][protocol.LOSS] < 10
    for name, array in reply[protocol.ARRAYS].items():
        sent = content[protocol.ARRAYS][name]
        assert (array.dtype, array.shape) == (sent.dtype, sent.shape)
        assert array.data != sent.data
    assert load_account(client.context.state) == Account()


def test_a_private_reply_holds_weights_and_a_constant_and_nothing_else(private, node, request_of):
    client = node(private, 2)
    content = request_of(private)
    reply = run(client, content)
    assert list(reply) == [protocol.ARRAYS, "metrics"]
    assert reply["metrics"] == MetricRecord({protocol.WEIGHT: 1.0})
    assert list(reply[protocol.ARRAYS]) == list(content[protocol.ARRAYS])
    # No array but those of the model, of the same size to the byte, so that none carries more than its weights.
    for name, array in reply[protocol.ARRAYS].items():
        sent = content[protocol.ARRAYS][name]
        assert (array.dtype, array.shape, len(array.data)) == (sent.dtype, sent.shape, len(sent.data))
        assert array.data != sent.data


@pytest.mark.parametrize("kind", ["plain", "private"])
def test_the_same_request_gives_the_same_reply_to_the_bit(kind, request, node, request_of):
    experiment = request.getfixturevalue(kind)
    content = request_of(experiment)
    first = run(node(experiment, 1), content)
    torch.manual_seed(1234)
    # Other clients have trained in this process in between.
    run(node(experiment, 3), content)
    second = run(node(experiment, 1), content)
    assert bits(first) == bits(second)
    assert first["metrics"] == second["metrics"]


@pytest.mark.parametrize("kind", ["plain", "private"])
def test_clients_and_rounds_differ(kind, request, node, request_of):
    experiment = request.getfixturevalue(kind)
    replies = [
        bits(run(node(experiment, client), request_of(experiment, number)))
        for client, number in ((0, 1), (1, 1), (0, 2))
    ]
    for first, second in itertools.combinations(replies, 2):
        assert all(first[name] != second[name] for name in first)


def test_noise_is_added_to_every_weight(private, node, request_of):
    content = request_of(private)
    mild = bits(run(node(private, 0), content))
    content[protocol.CONFIG][protocol.NOISE_MULTIPLIER] *= 1.5
    strong = bits(run(node(private, 0), content))
    for name in mild:
        assert mild[name] != strong[name]


def test_a_charge_is_in_the_state_before_a_record_is_read(private, node, request_of):
    client = node(private, 0)
    seen = []

    class Watching(Partitions):
        def indices(self, number):
            seen.append(load_account(client.context.state))
            raise KeyboardInterrupt

    watched = dataclasses.replace(
        client.site, partitions=Watching(offsets=client.site.partitions.offsets, rows=client.site.partitions.rows)
    )
    with pytest.raises(KeyboardInterrupt):
        run(client, request_of(private), watched)
    (account,) = seen
    (charge,) = account.charges
    assert (charge.run, charge.round_number) == ("run", 1)
    assert charge.event.steps == 2
    # And it stays, though nothing came of it.
    assert load_account(client.context.state) == account


def test_a_spent_budget_is_refused_before_a_record_is_read(private, node, request_of, counted):
    client = node(private, 0)
    site, reads = counted(client.site)
    for number in (1, 2, 3):
        run(client, request_of(private, number), site)
    assert reads() == 3
    before = load_account(client.context.state)
    with pytest.raises(BudgetError, match=r"round 4 would bring epsilon from .* nothing was trained"):
        run(client, request_of(private, 4), site)
    assert reads() == 3
    assert load_account(client.context.state) == before


def test_what_other_runs_spent_counts(private, node, request_of, counted):
    client = node(private, 0)
    site, reads = counted(client.site)
    (event,) = [charge.event for charge in _charges(node, private, request_of)]
    others = tuple(Charge(run="other", round_number=number, model="m", event=event) for number in (1, 2, 3))
    store_account(client.context.state, Account(charges=others))
    with pytest.raises(BudgetError):
        run(client, request_of(private), site)
    assert reads() == 0


def _charges(node, private, request_of):
    fresh = node(private, 0)
    run(fresh, request_of(private))
    return load_account(fresh.context.state).charges


def test_the_same_round_again_is_not_charged_twice_and_tells_nothing_new(private, node, request_of):
    client = node(private, 0)
    first = run(client, request_of(private))
    spent = load_account(client.context.state)
    again = run(client, request_of(private))
    assert load_account(client.context.state) == spent
    assert bits(first) == bits(again)


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 0.05}, {"proximal_mu": 0.5}, {"run_digest": "other"}, {"server_round": 2}, {"anything": 1}],
)
def test_any_other_request_is_charged(private, node, request_of, change):
    # The same noise with another learning rate would show what the noise hides.
    client = node(private, 0)
    run(client, request_of(private))
    run(client, request_of(private, **change))
    assert len(load_account(client.context.state).charges) == 2


def test_another_model_is_charged(private, node, request_of):
    client = node(private, 0)
    first = run(client, request_of(private))
    content = request_of(private)
    content[protocol.ARRAYS] = first[protocol.ARRAYS]
    run(client, content)
    assert len(load_account(client.context.state).charges) == 2


@pytest.mark.parametrize("noise", [0.5, 0.3, 0.0, -1.0, float("nan"), float("inf")])
def test_noise_that_does_not_keep_the_budget_is_refused_by_the_client(private, node, request_of, counted, noise):
    client = node(private, 0)
    site, reads = counted(client.site)
    with pytest.raises(PrivacySpecError, match="noise multiplier"):
        run(client, request_of(private, noise_multiplier=noise), site)
    assert reads() == 0
    assert load_account(client.context.state) == Account()


def test_a_request_for_plain_training_does_not_turn_privacy_off(private, node, request_of):
    content = request_of(private)
    del content[protocol.CONFIG][protocol.NOISE_MULTIPLIER]
    with pytest.raises(KeyError):
        run(node(private, 0), content)


class Leaky(nn.Module):
    """Writes what it sees into a buffer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, features):
        self.seen += features.detach().flatten()[:3].abs().sum() + 1
        return self.inner(features)


def leaky(site, content):
    """Return the site with a leaky model, and a request for it."""
    model = Leaky(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    arrays = ArrayRecord(model.state_dict())
    return dataclasses.replace(site, model=model), RecordDict(dict(content.items()) | {protocol.ARRAYS: arrays})


def test_a_layer_that_writes_what_it_saw_is_refused_in_record_privacy(private, node, request_of):
    client = node(private, 0)
    site, content = leaky(client.site, request_of(private))
    with pytest.raises(TaskError, match="its buffer seen changes in the forward pass"):
        run(client, content, site)


def test_only_trained_weights_leave_a_private_client(private, node, request_of):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            self.inner[1].bias.requires_grad_(False)
            self.register_buffer("scale", torch.tensor([2.0]))
            # What it does after its records were seen is not checked: it must not matter.
            self.register_state_dict_post_hook(lambda _, state, prefix, __: state.update(scale=torch.tensor([9.0])))

        def forward(self, features):
            return self.inner(features) * self.scale

    client = node(private, 0)
    model, content = Fixed(), request_of(private)
    values = {"scale": [2.0], "inner.1.weight": np.zeros((10, 64)), "inner.1.bias": np.ones(10)}
    arrays = {name: Array(np.array(value, np.float32)) for name, value in values.items()}
    content[protocol.ARRAYS] = ArrayRecord(arrays)
    reply = run(client, content, dataclasses.replace(client.site, model=model))[protocol.ARRAYS]
    assert set(reply) == set(arrays)
    assert reply["scale"].data == arrays["scale"].data
    assert reply["inner.1.bias"].data == arrays["inner.1.bias"].data
    assert (reply["inner.1.weight"].numpy() != 0).all()


def test_buffers_are_part_of_a_plain_reply(plain, node, request_of):
    client = node(plain, 0)
    site, content = leaky(client.site, request_of(plain))
    assert (run(client, content, site)[protocol.ARRAYS]["seen"].numpy() > 0).all()


def test_batch_normalisation_is_refused_by_the_client_too(private, node, request_of, counted):
    client = node(private, 0)
    site, reads = counted(client.site)
    _, content = leaky(site, request_of(private))
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    content[protocol.ARRAYS] = ArrayRecord(model.state_dict())
    with pytest.raises(TaskError, match="BatchNorm1d"):
        run(client, content, dataclasses.replace(site, model=model))
    assert reads() == 0


def test_the_app_answers_messages(plain, node, request_of):
    InProcessGrid(None, [])  # sets who this process is
    client = node(plain, 2)
    message = Message(request_of(plain), 1002, "train")
    message.metadata.__dict__["_message_id"] = "m"
    reply = app(message, client.context)
    assert reply.metadata.reply_to_message_id == "m"
    assert bits(reply.content) == bits(run(client, request_of(plain)))
    answer = app(Message(RecordDict(), 1002, "query"), client.context)
    assert answer.content[protocol.CLIENT] == {protocol.CLIENT: 2}


def test_training_on_a_model_that_is_not_finite_harms_nobody(private, node, request_of):
    client = node(private, 0)
    content = request_of(private)
    name, array = next(iter(content[protocol.ARRAYS].items()))
    content[protocol.ARRAYS][name] = Array(np.full(array.shape, np.nan, np.float32))
    reply = run(client, content)
    assert len(load_account(client.context.state).charges) == 1
    assert np.isnan(reply[protocol.ARRAYS][name].numpy()).all()
