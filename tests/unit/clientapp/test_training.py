import copy
import dataclasses
import functools
import gc
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import nn

from clients.app import app
from fedtrain.clientapp import training
from fedtrain.clientapp.context import ClientContext, context_of
from fedtrain.clientapp.site import open_site
from fedtrain.clientapp.training import train
from fedtrain.config import to_flat
from fedtrain.crypto import commit
from fedtrain.engine.together import together
from fedtrain.errors import ClientError, DataError, LedgerError, TaskError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.ledger import read_statement
from fedtrain.privacy import SampledGaussian
from fedtrain.training.selfcheck import SpotCheck
from tests.fakes import InProcessGrid, digits_experiment, private_experiment


def bits(content):
    return {name: (array.dtype, array.shape, array.data) for name, array in content[protocol.ARRAYS].items()}


def run(node, content, site=None):
    return train(content, node.opened, site or node.site)


def ledger_of(node):
    """Return the entries of a client's ledger on the disk."""
    client = node.context.node_config["partition-id"]
    own = ClientContext(experiment=node.experiment, client=client)
    with own.open_ledger(own.dataset_of(node.site.records(client))) as ledger:
        return ledger.entries


def reserved(node):
    return [entry for entry in ledger_of(node) if entry.status == "reserved"]


def refusal(node, content, site=None):
    """Return why a client refuses. It sends no arrays then."""
    reply = run(node, content, site)
    assert list(reply) == [protocol.LEDGER]
    shown = ConsistencyProof.from_record(reply[protocol.LEDGER])
    return read_statement(shown.statement, shown.key).refusal


class Watching:
    """A task that says when records of a site are encoded, which is when they are trained on."""

    def __init__(self, task, watch, held):
        self._task, self._watch, self._held = task, watch, {bytes(record) for record in held}

    def __getattr__(self, name):
        return getattr(self._task, name)

    def collate(self, records, generator):
        # What is synthetic is nobody's.
        if any(bytes(record.numpy()) in self._held for record in records.features):
            self._watch()
        return self._task.collate(records, generator)


def watched(site, watch):
    return dataclasses.replace(site, task=Watching(site.task, watch, site.train.features))


def forbidden():
    pytest.fail("a record was trained on")


def test_a_node_knows_its_client_from_its_partition(plain, node):
    for client in range(4):
        assert node(plain, client).opened == ClientContext(experiment=plain, client=client)


@pytest.mark.parametrize("config", [{}, {"partition-id": 1}, {"num-partitions": 4}])
def test_a_node_outside_of_a_simulation_does_not_train(private, node, request_of, config):
    outside = node(private, 1, node_config=config)
    with pytest.raises(ClientError, match=r"not part of a simulation.*start it with fedtrain client up"):
        run(outside, request_of(private))


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


def test_a_private_reply_holds_weights_a_constant_and_the_ledger_and_nothing_else(private, node, request_of):
    client = node(private, 2)
    content = request_of(private)
    reply = run(client, content)
    assert list(reply) == [protocol.ARRAYS, protocol.METRICS, protocol.LEDGER]
    assert set(reply[protocol.LEDGER]) == {protocol.KEY, protocol.ENTRIES, protocol.STATEMENT, protocol.NONCE}
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


def grouped(experiment, node, content, clients):
    """Return the replies of clients whose messages a process has at once."""
    return together([functools.partial(run, node(experiment, client), content) for client in clients])


def test_a_client_that_trains_beside_others_replies_what_it_replies_alone(cache, node, request_of):
    experiment = digits_experiment(cache, training__stacked=4, task__model="mlp")
    site = open_site(to_flat(experiment))
    with torch.no_grad():  # what they are before a message is nobody's
        for value in site.model.parameters():
            value.fill_(torch.nan)
    content = request_of(experiment)
    replies = grouped(experiment, node, content, [2, 0, 1, 3])
    again = grouped(experiment, node, content, [2, 0, 1, 3])
    assert site.together.why_not == ""
    assert [bits(reply) for reply in again] == [bits(reply) for reply in replies]
    for client, reply in zip([2, 0, 1, 3], replies, strict=True):
        alone = run(node(experiment, client), content)
        assert reply["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)
        assert bits(reply) != bits(alone)  # or nothing was stacked
        for name, array in reply[protocol.ARRAYS].items():
            np.testing.assert_allclose(array.numpy(), alone[protocol.ARRAYS][name].numpy(), rtol=1e-3, atol=1e-5)


def test_private_clients_in_one_process_train_each_alone(private, node, request_of):
    content = request_of(private)
    for client, reply in zip([2, 0, 1], grouped(private, node, content, [2, 0, 1]), strict=True):
        # The ledger has another entry by now; what is drawn and added is that of the round.
        assert bits(reply) == bits(run(node(private, client), content))


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


def test_a_reservation_is_on_the_disk_before_a_record_is_trained_on(private, node, request_of):
    client = node(private, 0)
    seen = []

    def watch():
        seen.append(ledger_of(client))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(client, request_of(private), watched(client.site, watch))
    ((entry,),) = seen
    assert (entry.status, entry.run, entry.round, entry.event.steps) == ("reserved", "run", 1, 2)
    # And it stays, though nothing came of it.
    assert ledger_of(client) == (entry,)


def test_the_entry_of_an_update_names_what_was_received_and_what_is_sent(private, node, request_of):
    client, content = node(private, 0), request_of(private)
    reply = run(client, content)
    reservation, settled = ledger_of(client)
    assert (reservation.status, settled.status) == ("reserved", "settled")
    digest, shown = protocol.arrays_digest(reply[protocol.ARRAYS]), ConsistencyProof.from_record(reply[protocol.LEDGER])
    # A bare digest would confirm who guesses the records; the nonce opens it, and is for the server alone.
    assert settled.update == commit(digest, shown.nonce) != digest
    assert len(shown.nonce) == 32
    assert settled.model == protocol.request_digest(content[protocol.ARRAYS], content[protocol.CONFIG])
    assert (len(shown.entries), shown.statement) == (2, None)


def test_only_entries_that_the_server_does_not_know_are_shown(private, node, request_of):
    client = node(private, 0)
    run(client, request_of(private))
    content = request_of(private, 2)
    content[protocol.LEDGER][protocol.KNOWN] = 2
    shown = ConsistencyProof.from_record(run(client, content)[protocol.LEDGER])
    assert len(shown.entries) == 2
    assert len(ledger_of(client)) == 4


def test_what_other_runs_spent_counts(private, node, request_of):
    client = node(private, 0)
    for number in (1, 2, 3):
        run(client, request_of(private, number, run="other"))
    before = ledger_of(client)
    assert "budget" in refusal(client, request_of(private), watched(client.site, forbidden))
    assert ledger_of(client) == before


def test_another_name_of_the_same_records_does_not_reset_the_budget(private, node, request_of):
    client = node(private, 0)
    for number in (1, 2, 3):
        run(client, request_of(private, number, run="other"))
    site, order = client.site, torch.randperm(len(client.site.records(0)))

    class Shuffled(type(site)):
        def records(self, number):
            records = super().records(number)
            return dataclasses.replace(records, features=records.features[order], targets=records.targets[order])

    parts = {field.name: getattr(site, field.name) for field in dataclasses.fields(site)}
    assert "budget" in refusal(client, request_of(private), Shuffled(**parts))


def test_the_same_round_again_is_not_charged_twice_and_tells_nothing_new(private, node, request_of):
    client = node(private, 0)
    first = run(client, request_of(private))
    spent = ledger_of(client)
    again = run(client, request_of(private))
    assert ledger_of(client) == spent
    assert bits(first) == bits(again)


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 0.05}, {"proximal_mu": 0.5}, {"run": "other"}, {"server_round": 2}, {"anything": 1}],
)
def test_any_other_request_is_charged(private, node, request_of, change):
    # The same noise with another learning rate would show what the noise hides.
    client = node(private, 0)
    run(client, request_of(private))
    run(client, request_of(private, **change))
    assert len(reserved(client)) == 2


def test_secure_noise_is_never_repeated_and_each_attempt_is_charged(private, node, request_of, cache, tmp_path):
    secure = private_experiment(cache, privacy__noise="secure", federation__sites=str(tmp_path / "sites"))
    client = node(secure, 0)
    first, second = run(client, request_of(secure)), run(client, request_of(secure))
    assert len(reserved(client)) == 2
    for name, array in bits(first).items():
        assert bits(second)[name] != array


def test_with_correlated_noise_a_round_that_comes_too_soon_is_refused_before_a_record_is_touched(
    by_client, node, request_of
):
    banded = by_client.model_copy(
        update={
            "federation": by_client.federation.model_copy(update={"cohort": 1, "rounds": 9}),
            "privacy": by_client.privacy.model_copy(
                update={"mechanism": "banded", "separation": 3, "max_participations": None}
            ),
        }
    )
    client = node(banded, 1)
    assert protocol.ARRAYS in run(client, request_of(banded, 2))
    for number in (3, 4):
        reason = refusal(client, request_of(banded, number), watched(client.site, forbidden))
        assert f"round {number} is too near to round 2" in reason
    assert protocol.ARRAYS in run(client, request_of(banded, 5))
    assert [entry.round for entry in reserved(client)] == [2, 5]


def test_another_model_is_charged(private, node, request_of):
    client = node(private, 0)
    first = run(client, request_of(private))
    content = request_of(private)
    content[protocol.ARRAYS] = first[protocol.ARRAYS]
    run(client, content)
    assert len(reserved(client)) == 2


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_that_is_none_is_refused_as_malformed(private, node, request_of, noise):
    client = node(private, 0)
    with pytest.raises(TransportError, match=r"'noise-multiplier' in its record 'config' is .* a finite float above 0"):
        run(client, request_of(private, noise_multiplier=noise), watched(client.site, forbidden))
    assert ledger_of(client) == ()


@pytest.mark.parametrize("noise", [0.5, 0.3])
def test_noise_that_does_not_keep_the_budget_is_refused_by_the_client(private, node, request_of, noise):
    client = node(private, 0)
    reason = refusal(client, request_of(private, noise_multiplier=noise), watched(client.site, forbidden))
    assert "noise multiplier" in reason
    assert ledger_of(client) == ()


SITE = """
[budget]
epsilon = {epsilon}
delta = 1e-3

[policy]
minimum_noise = {noise}
modes = ["{mode}"]
"""


@pytest.mark.parametrize(
    ("epsilon", "noise", "mode", "reason"),
    [(0.5, 0, "record", "budget"), (50.0, 90.0, "record", "noise"), (50.0, 0, "client", "mode")],
)
def test_the_site_file_decides_and_not_the_experiment(private, node, request_of, epsilon, noise, mode, reason):
    folder = Path(private.federation.sites)
    folder.mkdir()
    (folder / "site.toml").write_text(SITE.format(epsilon=epsilon, noise=noise, mode=mode))
    client = node(private, 0)
    assert reason in refusal(client, request_of(private), watched(client.site, forbidden))
    # A client's own file goes before that of all.
    (folder / "client-0000").mkdir(exist_ok=True)
    (folder / "client-0000" / "site.toml").write_text(SITE.format(epsilon=50, noise=0, mode="record"))
    assert protocol.ARRAYS in run(client, request_of(private, 2))


def test_a_request_for_plain_training_does_not_turn_privacy_off(private, node, request_of):
    content = request_of(private)
    del content[protocol.CONFIG][protocol.NOISE_MULTIPLIER]
    with pytest.raises(TransportError, match="'noise-multiplier' in its record 'config' is missing"):
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
        run(client, content, watched(site, forbidden))
    # Synthetic records showed it, before anything was reserved.
    assert not ledger_of(client)


def test_what_was_checked_of_a_model_is_forgotten_with_it(cache, tmp_path, node, request_of):
    """Python gives another object the number of one that is gone. Another model has to be checked."""
    sites = str(tmp_path / "sites")
    shared = {"training__local_steps": 1, "privacy__trust": "distributed", "privacy__colluders": 0}
    experiment = private_experiment(cache, **shared, federation__cohort=4, federation__sites=sites)
    client = node(experiment, 0)
    site = dataclasses.replace(client.site, model=copy.deepcopy(client.site.model))
    before = len(training._UNCHECKED)
    run(client, request_of(experiment), site)
    assert len(training._UNCHECKED) == before + 1
    del site
    gc.collect()
    assert len(training._UNCHECKED) == before


SHARED = {"training__local_steps": 1, "privacy__trust": "distributed", "privacy__colluders": 0}


def of_rounds(cache, tmp_path, rounds, **settings):
    sites = str(tmp_path / "sites")
    common = {"federation__cohort": 4, "federation__rounds": rounds, "federation__sites": sites}
    return private_experiment(cache, **common, **settings)


def checks_of(monkeypatch):
    """Return the list to which each check of records with themselves alone is added."""
    compare, checks = SpotCheck.compare, []

    def seen(self, *given):
        checks.append(self)
        return compare(self, *given)

    monkeypatch.setattr(SpotCheck, "compare", seen)
    return checks


@pytest.mark.parametrize(
    ("settings", "rounds", "expected"),
    [
        ({"training__local_steps": 12}, 3, [1, 2, 3]),
        ({"training__local_steps": 1}, 3, [1, 2, 3]),
        (SHARED, 34, [1, 33]),
    ],
)
def test_rounds_are_checked_and_single_steps_with_shared_noise_once_in_32(
    cache, tmp_path, node, request_of, monkeypatch, settings, rounds, expected
):
    experiment, checks = of_rounds(cache, tmp_path, rounds, **settings), checks_of(monkeypatch)
    first, second = node(experiment, 0), node(experiment, 1)
    site = dataclasses.replace(first.site, model=copy.deepcopy(first.site.model))
    for client in (first, second):
        checked = []
        for number in range(1, rounds + 1):
            checks.clear()
            assert protocol.ARRAYS in run(client, request_of(experiment, number), site)
            checked += [number] * bool(checks)
        assert checked == expected


def test_a_batch_without_records_is_no_check(cache, tmp_path, node, request_of):
    experiment = of_rounds(cache, tmp_path, 2, **SHARED, privacy__sampling_rate=1e-6, privacy__delta=1e-9)
    client = node(experiment, 0)
    site = dataclasses.replace(client.site, model=copy.deepcopy(client.site.model))
    assert protocol.ARRAYS in run(client, request_of(experiment, noise_multiplier=1.0), site)
    assert training._UNCHECKED[site.model] == {}


class Mixing(nn.Module):
    """Mixes records, if it is to."""

    mixes = False

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, features):
        found = self.inner(features.flatten(1))
        return found - found.mean(0) if Mixing.mixes else found


@pytest.mark.parametrize("settings", [{"training__local_steps": 2}, SHARED])
def test_a_model_that_mixed_records_once_is_refused_by_the_process_for_all_clients(
    cache, tmp_path, node, request_of, monkeypatch, settings
):
    experiment = of_rounds(cache, tmp_path, 3, **settings)
    first, second = node(experiment, 0), node(experiment, 1)
    site = dataclasses.replace(first.site, model=Mixing())
    arrays = ArrayRecord(site.model.state_dict())

    def asked(number):
        return RecordDict(dict(request_of(experiment, number).items()) | {protocol.ARRAYS: arrays})

    # As a branch that no synthetic record takes: it mixes what is encoded as records of the site are.
    mixing = watched(site, lambda: monkeypatch.setattr(Mixing, "mixes", True))
    with pytest.raises(TaskError, match="is not that of the record alone"):
        run(first, asked(1), mixing)
    monkeypatch.setattr(Mixing, "mixes", False)
    for client in (first, second):
        with pytest.raises(TaskError, match="is not that of the record alone"):
            run(client, asked(2), site)


@pytest.mark.parametrize("settings", [{"training__local_steps": 3}, SHARED])
def test_a_seeded_round_is_the_same_whether_there_was_a_check_or_not(
    cache, tmp_path, node, request_of, monkeypatch, settings
):
    experiment = of_rounds(cache, tmp_path, 3, **settings, privacy__noise="seeded")
    client = node(experiment, 0)
    drawn = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    found = []
    for unchecked in (0, 31):
        monkeypatch.setattr(training, "_UNCHECKED_STEPS", unchecked)
        site = dataclasses.replace(client.site, model=copy.deepcopy(drawn))
        rounds = []
        for number in (1, 2, 3):
            content = request_of(experiment, number)
            content[protocol.ARRAYS] = ArrayRecord(drawn.state_dict())
            rounds.append(bits(run(client, content, site)))
        found.append(rounds)
    assert found[0] == found[1]


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


def test_what_a_task_does_not_share_stays_as_received_without_privacy_too(plain, node, request_of):
    client, content = node(plain, 0), request_of(plain)
    received = bits(content)
    first, *own = dict(client.site.model.named_parameters())

    class Personal(type(client.site.task)):
        def shared(self, model):
            return frozenset({first})

    task = Personal.__new__(Personal)
    vars(task).update(vars(client.site.task))
    sent = bits(run(client, content, dataclasses.replace(client.site, task=task)))
    assert own
    assert [sent[name] for name in own] == [received[name] for name in own]
    assert sent[first] != received[first]


@pytest.mark.parametrize("kind", ["private", "by_client"])
def test_batch_normalisation_is_refused_by_the_client_too(kind, request, node, request_of):
    private = request.getfixturevalue(kind)
    client = node(private, 0)
    site = watched(client.site, forbidden)
    _, content = leaky(site, request_of(private))
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    content[protocol.ARRAYS] = ArrayRecord(model.state_dict())
    with pytest.raises(TaskError, match="BatchNorm1d"):
        run(client, content, dataclasses.replace(site, model=model))


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
    assert len(reserved(client)) == 1
    assert np.isnan(reply[protocol.ARRAYS][name].numpy()).all()


def test_an_update_in_client_privacy_is_clipped_as_a_whole(by_client, node, request_of):
    client, content = node(by_client, 0), request_of(by_client)
    reply = run(client, content)
    assert reply[protocol.METRICS] == MetricRecord({protocol.WEIGHT: 1.0, protocol.WITHIN_CLIP: 0.0})
    moved = [
        array.numpy().astype(np.float64) - content[protocol.ARRAYS][name].numpy()
        for name, array in reply[protocol.ARRAYS].items()
    ]
    norm = np.sqrt(sum(float((change**2).sum()) for change in moved))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_a_fixed_clipping_norm_is_not_the_servers_to_raise(by_client, node, request_of):
    lax = run(node(by_client, 0), request_of(by_client, clip_norm=1000.0))
    strict = run(node(by_client, 0), request_of(by_client))
    assert bits(lax) == bits(strict)


def test_a_capped_client_counts_its_own_participations(by_client, node, request_of):
    client = node(by_client, 0)
    for number in (1, 2):
        run(client, request_of(by_client, number))
    assert {entry.event for entry in reserved(client)} == {
        SampledGaussian(
            sampling_rate=1.0,
            noise_multiplier=request_of(by_client)[protocol.CONFIG][protocol.NOISE_MULTIPLIER],
            steps=1,
        )
    }
    assert "has taken part in this run 2 times" in refusal(
        client, request_of(by_client, 3), watched(client.site, forbidden)
    )


def test_a_client_trains_in_no_more_rounds_than_the_noise_is_calibrated_for(cache, node, request_of, tmp_path):
    sites = tmp_path / "sites"
    sites.mkdir()
    (sites / "site.toml").write_text(SITE.format(epsilon=50.0, noise=0, mode="record"))
    settings = {"federation__sites": str(sites), "federation__rounds": 3, "privacy__max_participations": 2}
    capped = private_experiment(cache, **settings)
    client = node(capped, 0)
    for number in (1, 2):
        run(client, request_of(capped, number))
    reason = refusal(client, request_of(capped, 3), watched(client.site, forbidden))
    assert "has taken part in this run 2 times" in reason
    # Nor in a round that the experiment does not have.
    assert "is not one of the 3 rounds" in refusal(node(capped, 1), request_of(capped, 4))


def test_what_a_client_has_stated_binds_it(private, node, request_of):
    client = node(private, 0)
    own = ClientContext(experiment=private, client=0)
    with own.open_ledger(own.dataset_of(client.site.records(0))) as ledger:
        ledger.statement(run="run", round_number=1, policy=own.limits)
    with pytest.raises(LedgerError, match="stated"):
        run(client, request_of(private, 1), watched(client.site, forbidden))
    assert protocol.ARRAYS in run(client, request_of(private, 2))


def test_with_secret_cohorts_a_client_that_has_not_reserved_the_run_says_nothing(cache, node, request_of, tmp_path):
    settings = {"privacy__mode": "client", "privacy__delta": 1e-2, "federation__sites": str(tmp_path / "sites")}
    secret = digits_experiment(cache, **settings)
    client = node(secret, 0)
    with pytest.raises(ClientError, match="has not reserved the run"):
        run(client, request_of(secret), watched(client.site, forbidden))
    assert ledger_of(client) == ()


@pytest.mark.parametrize("name", [protocol.RUN, protocol.NOISE_MULTIPLIER, protocol.CLIP_NORM])
def test_a_request_without_the_terms_of_a_private_run_is_refused_before_anything_is_reserved(
    private, node, request_of, name
):
    client, content = node(private, 0), request_of(private)
    del content[protocol.CONFIG][name]
    with pytest.raises(TransportError, match="the request for training cannot be used: "):
        run(client, content)
    assert ledger_of(client) == ()


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


@pytest.mark.parametrize(
    "sharing", [{}, {"privacy__trust": "distributed", "privacy__colluders": 1}], ids=["local", "distributed"]
)
def test_weights_of_the_server_make_no_client_refuse_by_its_records(cache, tmp_path, node, request_of, sharing):
    """Sums that cancel up to rounding, in another order than for a record alone: it tells who has ink there."""
    sharing |= {"training__local_steps": 1}
    settings = {"federation__cohort": 4, "task__model": "mlp", "federation__sites": str(tmp_path / "sites")}
    experiment = private_experiment(cache, **sharing, **settings)
    content = request_of(experiment)
    first, bias, last, _ = content[protocol.ARRAYS]
    generator = np.random.default_rng(0)
    ink, values = np.arange(18, 46), generator.uniform(0.5, 1.5, 28).astype(np.float32)
    weights = {name: array.numpy().copy() for name, array in content[protocol.ARRAYS].items()}
    weights[first][:3], weights[bias][:3], weights[last][:, :3] = 0, 0, 0
    weights[first][0, ink] = values
    weights[first][1, ink[:14]], weights[first][2, ink[14:]] = values[:14], values[14:]
    weights[last][0, :3] = 1e10, -1e10, -1e10
    content[protocol.ARRAYS] = ArrayRecord({name: Array(value) for name, value in weights.items()})
    for client in range(4):
        assert protocol.ARRAYS in run(node(experiment, client), content)
