import itertools
import math
import re
import traceback

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from fedtrain.errors import AggregationError, ClientError, ConfigError, TransportError
from fedtrain.flower.collectors import SecureSum
from fedtrain.flower.grids.sealed import SealedGrid
from fedtrain.flower.messages import protocol
from fedtrain.flower.summing import Layout
from fedtrain.flower.totals import from_total
from fedtrain.secagg import Parameters

from .conftest import World, cohort_request, default_training, go, model, reasons, summing, training

UNSUMMED = "the update cannot be summed; why is in the log of this client's node alone"


class Summed:
    """The server's collector of a test, with what became of its latest round and whom it heard of."""

    def __init__(self, collector):
        self.collector = collector
        self.outcome = None
        self.told = []

    def collect(self, messages, number=1):
        asked = cohort_request(messages, number=number)
        collected = self.collector.collect(asked, on_reply=self.told.append)
        self.outcome = collected.outcome
        return collected.replies


def secure_sum(world, *, sealed=False, session="b2", start=1, server=None):
    """Return the server's collector, which sums as the clients do unless the server is told otherwise."""
    opened, missing = world.session(session=session, start=start)
    assert missing == {}
    world.seen.clear()
    inner = SealedGrid(world.grid, clients=world.nodes, session=opened) if sealed else world.grid
    return Summed(SecureSum(inner, clients=world.nodes, session=opened, summing=server or world.summing or summing()))


def mean(clients, name):
    """Return the average of what the clients train to, as the default training of the tests does it."""
    trained = [default_training(client, RecordDict({protocol.ARRAYS: model()})) for client in clients]
    return np.mean([content[protocol.ARRAYS][name].numpy() for content in trained], axis=0)


@pytest.mark.parametrize("sealed", [False, True])
def test_the_strategy_gets_one_reply_with_the_average_and_the_weight_of_all(make_world, sealed):
    world = make_world(size=5)
    server = secure_sum(world, sealed=sealed)
    (reply,) = server.collect(training(world, number=3))
    assert list(reply.content) == [protocol.ARRAYS, protocol.METRICS]
    assert dict(reply.content[protocol.METRICS]) == {protocol.WEIGHT: 5.0}
    step = 1 / (2**15 - 1)
    for name, sent in model().items():
        received = reply.content[protocol.ARRAYS][name]
        assert (received.dtype, received.shape) == (sent.dtype, sent.shape)
        if name != "batches":
            assert np.abs(received.numpy() - mean(range(5), name)).max() < step
    assert server.outcome.masked == (0, 1, 2, 3, 4)
    assert (dict(server.outcome.dropped), server.outcome.silent) == ({}, ())


@pytest.mark.parametrize("sealed", [False, True])
def test_a_client_lets_go_of_both_models_once_their_difference_is_masked(make_world, sealed):
    held = []

    def train(client, content):
        reply = default_training(client, content)
        held.append((content[protocol.ARRAYS], reply[protocol.ARRAYS]))
        assert all(held[-1])
        return reply

    world = make_world(size=3, train=train)
    sent = training(world)
    (reply,) = secure_sum(world, sealed=sealed).collect(sent)
    assert not reply.has_error()
    assert [(dict(received), dict(trained)) for received, trained in held] == [({}, {})] * 3
    assert list(sent[0].content[protocol.ARRAYS]) == list(model())


def test_integer_arrays_stay_as_they_were_sent(make_world):
    def train(client, content):
        reply = default_training(client, content)
        reply[protocol.ARRAYS]["batches"] = Array(np.asarray(99))
        return reply

    (reply,) = secure_sum(make_world(train=train)).collect(training(make_world()))
    assert reply.content[protocol.ARRAYS]["batches"].numpy() == 4


def test_what_did_not_change_is_exactly_as_it_was(make_world):
    world = make_world(
        train=lambda client, content: RecordDict(
            {protocol.ARRAYS: content[protocol.ARRAYS], protocol.METRICS: MetricRecord({protocol.WEIGHT: 1.0})}
        )
    )
    (reply,) = secure_sum(world).collect(training(world))
    for name, sent in model().items():
        assert reply.content[protocol.ARRAYS][name].numpy().tobytes() == sent.numpy().tobytes()


def test_no_reply_holds_an_update_or_a_metric(make_world):
    world = make_world()
    secure_sum(world).collect(training(world))
    answers = world.seen[1:6:2]
    for client, answer in enumerate(answers):
        trained = default_training(client, RecordDict({protocol.ARRAYS: model()}))[protocol.ARRAYS]
        change = trained["weight"].numpy() - model()["weight"].numpy()
        wire = b"".join(array.data for record in answer.content.array_records.values() for array in record.values())
        assert len(answer.content.metric_records) == 0
        assert trained["weight"].numpy().tobytes()[:16] not in wire
        assert change.tobytes()[:16] not in wire


def test_the_application_knows_that_its_update_is_masked(make_world):
    world = make_world()
    secure_sum(world).collect(training(world))
    assert [list(content) for content in world.asked] == [[protocol.ARRAYS, protocol.CONFIG, protocol.SECAGG]] * 3


def test_other_records_of_a_reply_pass(make_world):
    def train(client, content):
        return RecordDict({**default_training(client, content), "ledger": ConfigRecord({"client": client})})

    world = make_world(train=train)
    secure_sum(world).collect(training(world))
    assert [answer.content["ledger"]["client"] for answer in world.seen[1:6:2]] == [0, 1, 2]


def lose(world, *, masking=(), unmasking=(), error=None):
    """Let clients be silent in one of the two exchanges."""
    whole = world.answer

    def answer(message):
        lost = unmasking if message.metadata.message_type == "query" else masking
        return error if world.nodes[message.metadata.dst_node_id] in lost else whole(message)

    world.grid._answer = answer


def test_a_client_that_is_lost_before_it_masks_is_not_in_the_average(make_world):
    world = make_world(size=10)
    server = secure_sum(world)
    lose(world, masking=(3, 7, 8), error=Error(code=1, reason="gone"))
    (reply,) = server.collect(training(world))
    left = [0, 1, 2, 4, 5, 6, 9]
    assert np.abs(reply.content[protocol.ARRAYS]["weight"].numpy() - mean(left, "weight")).max() < 1e-4
    assert reply.content[protocol.METRICS][protocol.WEIGHT] == 7
    assert server.outcome.dropped == {3: "gone", 7: "gone", 8: "gone"}
    assert (server.outcome.masked, server.outcome.silent) == (tuple(left), ())


def test_a_client_that_is_lost_before_it_unmasks_is_in_the_average(make_world):
    world = make_world(size=10)
    server = secure_sum(world)
    lose(world, masking=(2,), unmasking=(3, 7), error=Error(code=1, reason="gone"))
    (reply,) = server.collect(training(world))
    left = [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert np.abs(reply.content[protocol.ARRAYS]["weight"].numpy() - mean(left, "weight")).max() < 1e-4
    assert (server.outcome.masked, server.outcome.silent) == (tuple(left), (3, 7))


def test_who_does_not_answer_in_time_is_lost_in_either_exchange(make_world):
    world = make_world(size=10, summing=summing(deadline=0.3))
    server = secure_sum(world)
    lose(world, masking=(2,), unmasking=(3,))
    (reply,) = server.collect(training(world))
    assert not reply.has_error()
    assert server.outcome.dropped == {2: "no masked update within 0.3 seconds"}
    assert server.outcome.silent == (3,)


@pytest.mark.parametrize(("masking", "unmasking"), [((0, 1, 2, 3), ()), ((0, 1), (2, 3))])
def test_with_too_few_left_the_round_is_aborted_by_name_and_the_next_one_works(make_world, masking, unmasking):
    world = make_world(size=10)
    server = secure_sum(world)
    lose(world, masking=masking, unmasking=unmasking, error=Error(code=1, reason="gone"))
    (reply,) = server.collect(training(world))
    missing = unmasking or masking
    assert all(str(client) in reply.error.reason.splitlines()[0] for client in missing)
    assert reply.error.reason.splitlines()[1:] == [f"client {client}: gone" for client in masking + unmasking]
    assert server.outcome.total is None
    lose(world)
    (reply,) = server.collect(training(world, number=2))
    assert not reply.has_error()


def test_a_server_that_starts_again_sets_up_a_session_and_goes_on(make_world):
    world = make_world()
    secure_sum(world).collect(training(world))
    (reply,) = secure_sum(world, session="b3", start=2).collect(training(world))
    assert not reply.has_error()


def test_a_round_in_which_everyone_is_lost_is_aborted(make_world):
    world = make_world()
    server = secure_sum(world)
    lose(world, masking=(0, 1, 2), error=Error(code=1, reason="gone"))
    (reply,) = server.collect(training(world))
    assert reply.has_error()
    assert server.outcome.masked == ()


def test_an_application_that_refuses_is_lost_and_its_answer_passes_inside(make_world):
    def train(client, content):
        if client == 1:
            return RecordDict({"ledger": ConfigRecord({"refusal": "spent"})})
        return default_training(client, content)

    world = make_world(size=5, train=train)
    server = secure_sum(world)
    (reply,) = server.collect(training(world))
    assert not reply.has_error()
    assert server.outcome.dropped == {1: "unusable masked update: the reply has no masked update"}


def test_progress_is_told_for_each_client(make_world):
    world = make_world(size=5)
    server = secure_sum(world)
    lose(world, masking=(1,), error=Error(code=1, reason="gone"))
    server.collect(training(world))
    assert sorted(server.told) == sorted(world.nodes)


def test_weights_are_summed_and_no_single_one_is_told(make_world):
    layout = Layout(counters=(protocol.WEIGHT,), weight=protocol.WEIGHT, heaviest=4)
    world = make_world(size=6, summing=summing(layout=layout, bits=24))
    (reply,) = secure_sum(world).collect(training(world))
    weights = np.minimum(np.arange(1, 7), 4)
    changes = 0.01 * np.arange(1, 7)
    moved = reply.content[protocol.ARRAYS]["bias"].numpy() - model()["bias"].numpy()
    assert reply.content[protocol.METRICS][protocol.WEIGHT] == weights.sum()
    assert np.abs(moved - (weights * changes).sum() / weights.sum()).max() < 1e-6


def test_counters_are_summed(make_world):
    def train(client, content):
        reply = default_training(client, content)
        reply[protocol.METRICS] = MetricRecord({protocol.WITHIN_CLIP: float(client % 2)})
        return reply

    world = make_world(size=5, train=train, summing=COUNTING)
    server = secure_sum(world)
    (reply,) = server.collect(training(world))
    assert server.outcome.total.counters == {protocol.WITHIN_CLIP: 2}
    assert reply.content[protocol.METRICS][protocol.WEIGHT] == 5


COUNTING = summing(layout=Layout(counters=(protocol.WITHIN_CLIP,)))


@pytest.mark.parametrize("value", [0.12345, -1, 40000, math.nan, [1]])
def test_a_counter_that_is_no_small_whole_number_is_not_sent_nor_told(make_world, value, caplog):
    def train(client, content):
        reply = default_training(client, content)
        reply[protocol.METRICS] = MetricRecord({protocol.WITHIN_CLIP: value})
        return reply

    world = make_world(train=train, summing=COUNTING)
    with pytest.raises(ClientError) as caught:
        secure_sum(world).collect(training(world))
    assert str(caught.value) == UNSUMMED
    assert f"the metric within-clip is {value}" in caplog.text


def test_a_weight_beyond_the_heaviest_counts_as_that_whatever_the_bits_hold(make_world):
    def train(client, content):
        reply = default_training(client, content)
        reply[protocol.METRICS] = MetricRecord({protocol.WEIGHT: 50000.0})
        return reply

    layout = Layout(counters=(protocol.WEIGHT,), weight=protocol.WEIGHT, heaviest=100)
    world = make_world(train=train, summing=summing(layout=layout, bits=8))
    (reply,) = secure_sum(world).collect(training(world))
    assert reply.content[protocol.METRICS][protocol.WEIGHT] == 300


def test_weights_that_nobody_can_have_abort_the_round(make_world):
    layout = Layout(counters=(protocol.WEIGHT,), weight=protocol.WEIGHT, heaviest=100)
    server = secure_sum(make_world(summing=summing(layout=layout)))
    parameters = Parameters.plan(members=2, length=1, bits=16, bound=1.0)
    for weight in (0, 1, 201, 2**32 - 5):
        with pytest.raises(AggregationError, match="the weights of 2 clients sum to"):
            from_total(layout, parameters, words=np.array([weight], np.uint32), clients=2, sent=ArrayRecord())
    assert server.outcome is None


def test_the_clipping_norm_bounds_what_enters_the_sum_rounding_included(make_world):
    norm, size = 0.5, 20_000
    sent = ArrayRecord({"w": Array(np.zeros(size, np.float32))})

    def train(client, content):
        values = np.random.default_rng(client).normal(size=size).astype(np.float32)
        return RecordDict({protocol.ARRAYS: ArrayRecord({"w": Array(values)}), protocol.METRICS: MetricRecord()})

    world = make_world(size=2, train=train, summing=summing(adaptive=True))
    server = secure_sum(world)
    messages = training(world, arrays=sent, **{protocol.CLIP_NORM: norm})
    server.collect(messages)
    both = server.outcome.total.update["w"]
    # The two are nearly orthogonal, and each just below the norm.
    assert norm * 1.2 < np.linalg.norm(both) < norm * 1.5
    alone = [
        np.random.default_rng(client).normal(size=size)
        / np.linalg.norm(np.random.default_rng(client).normal(size=size))
        for client in range(2)
    ]
    margin = norm / (2**15 - 1) * math.sqrt(size)
    assert np.linalg.norm(both - (norm - margin) * sum(alone)) < 2 * margin


def test_a_grid_that_is_too_coarse_for_the_norm_is_refused(make_world):
    world = make_world(summing=summing(adaptive=True, bits=3))
    server = secure_sum(world)
    with pytest.raises(TransportError, match=r"raise transport\.secagg\.bits"):
        server.collect(training(world, **{protocol.CLIP_NORM: 1.0}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda arrays: {"weight": arrays["weight"]}, "are missing or were not sent"),
        (lambda arrays: {**arrays, "other": arrays["bias"]}, "are missing or were not sent"),
        (lambda arrays: {**arrays, "bias": Array(np.zeros(4))}, "has the shape (4,), not (5,)"),
        (lambda arrays: {**arrays, "bias": Array(np.full(5, np.nan))}, "is not finite"),
        (lambda arrays: {**arrays, "bias": Array(np.full(5, np.inf))}, "is not finite"),
    ],
)
def test_an_update_that_cannot_be_summed_is_not_sent_and_why_stays_with_the_client(make_world, change, reason, caplog):
    def train(client, content):
        return RecordDict({protocol.ARRAYS: ArrayRecord(change(dict(content[protocol.ARRAYS])))})

    world = make_world(train=train)
    with pytest.raises(ClientError) as caught:
        secure_sum(world).collect(training(world))
    # Nothing of it is in a traceback either, which may be sent.
    assert str(caught.value) == UNSUMMED
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "summing.py" not in "".join(traceback.format_exception(caught.value))
    assert reason in caplog.text


def test_two_array_records_cannot_be_summed(make_world, caplog):
    def train(client, content):
        return RecordDict({**default_training(client, content), "more": model()})

    world = make_world(train=train)
    with pytest.raises(ClientError, match=UNSUMMED):
        secure_sum(world).collect(training(world))
    assert "the update has 2 array records, and one can be summed" in caplog.text


def test_a_client_refuses_a_cohort_below_its_minimum_before_it_trains(make_world):
    world = make_world(minimum=4)
    with pytest.raises(TransportError, match="this site's minimum is 4"):
        secure_sum(world).collect(training(world))
    assert world.asked == []


def test_a_client_that_insists_on_masks_sends_nothing_else(make_world):
    world = make_world(secagg=True)
    with pytest.raises(TransportError, match=re.escape("client-0 sends masked updates only, and none is asked for")):
        go(world.grid, training(world))
    (reply,) = secure_sum(world).collect(training(world))
    assert not reply.has_error()


def change_fields(name, change):
    def tamper(message):
        if name in message.content.config_records:
            message.content[name] = ConfigRecord(change(dict(message.content[name])))
        return message

    return tamper


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("secagg.session", lambda fields: {}, "does not say of which run and session"),
        ("secagg.session", lambda fields: fields | {"session": "b9"}, "no keys for session b9"),
        (protocol.SECAGG, lambda fields: fields | {"more": 1}, "cannot be used"),
        (protocol.SECAGG, lambda fields: fields | {"threshold": 1}, "refused"),
        (protocol.SECAGG, lambda fields: fields | {"threshold": 3}, "and this client's configuration says"),
        (protocol.SECAGG, lambda fields: fields | {"bits": 2}, "and this client's configuration says"),
        (protocol.SECAGG, lambda fields: fields | {"bound": 30.0}, "and this client's configuration says"),
        (protocol.SECAGG, lambda fields: fields | {"length": 41}, "and this client's configuration says"),
        (protocol.SECAGG, lambda fields: fields | {"work": "0" * 64}, "asked for other work than this client"),
        (protocol.CONFIG, lambda fields: fields | {"learning-rate": 0.0}, "asked for other work than this client"),
    ],
)
def test_a_request_that_does_not_hold_is_refused_before_anything_is_trained(make_world, name, change, reason):
    world = make_world()
    server = secure_sum(world)
    world.tamper = change_fields(name, change)
    with pytest.raises(TransportError, match=re.escape(reason)):
        server.collect(training(world))
    assert world.asked == []


def test_a_client_answers_a_round_once_also_after_a_restart(make_world):
    world = make_world()
    secure_sum(world).collect(training(world))
    asked = {message.metadata.message_type: message for message in world.seen if message.metadata.dst_node_id == 100}
    world.apps[0] = world.app(0)
    with pytest.raises(TransportError, match="round 1 is refused"):
        world.apps[0](asked["train"], None)
    with pytest.raises(TransportError, match="they were given once"):
        world.apps[0](asked["query"], None)


@pytest.mark.parametrize(
    "content",
    [RecordDict(), RecordDict({"masked": model()}), RecordDict({"masked": model(), "secagg": ConfigRecord()})],
)
def test_a_masked_update_that_does_not_hold_is_a_lost_client(make_world, content):
    world = make_world(size=5)
    server = secure_sum(world)
    whole = world.answer
    world.grid._answer = lambda message: content if message.metadata.dst_node_id == 103 else whole(message)
    (reply,) = server.collect(training(world))
    assert not reply.has_error()
    assert list(server.outcome.dropped) == [3]


def test_shares_that_cannot_be_read_are_as_if_there_were_none(make_world):
    world = make_world(size=5)
    server = secure_sum(world)
    whole = world.answer

    def answer(message):
        if message.metadata.dst_node_id == 103 and message.metadata.message_type == "query":
            return RecordDict({"secagg": ConfigRecord({"own": b"", "pairs": b""})})
        return whole(message)

    world.grid._answer = answer
    (reply,) = server.collect(training(world))
    assert not reply.has_error()
    assert server.outcome.silent == (3,)


def test_a_cohort_that_no_parameters_are_safe_for_is_refused(make_world):
    world = make_world()
    with pytest.raises(ConfigError):
        secure_sum(world, server=summing(bits=31)).collect(training(world))
    with pytest.raises(ConfigError):
        secure_sum(world).collect(training(world, nodes=[100]))


def test_a_message_that_cannot_be_sent_is_a_lost_client(make_world):
    world = make_world(size=5)
    server = secure_sum(world)
    push = world.grid.push_messages
    world.grid.push_messages = lambda messages: [
        None if message.metadata.dst_node_id == 102 else message_id
        for message, message_id in zip(messages, push(messages), strict=True)
    ]
    (reply,) = server.collect(training(world))
    assert not reply.has_error()
    assert server.outcome.dropped == {2: "the message could not be sent"}


def test_rounding_repeats_with_the_seed_and_the_round(tmp_path):
    folders = (tmp_path / str(number) for number in itertools.count())

    def once(seed, number):
        world = World(folder=next(folders), summing=summing(seed=seed))
        (reply,) = secure_sum(world).collect(training(world, number=number))
        assert reasons([reply]) == [None]
        return reply.content[protocol.ARRAYS]["weight"].numpy().tobytes()

    first = once(5, 1)
    assert once(5, 1) == first
    assert once(6, 1) != first
    assert once(5, 2) != first


def test_members_are_asked_for_the_same_work_or_nothing(make_world):
    world = make_world()
    server = secure_sum(world)
    messages = training(world)
    messages[1] = training(world, nodes=[101], **{"learning-rate": 0.0})[0]
    with pytest.raises(AggregationError, match="to be asked for different work"):
        server.collect(messages)
    assert world.asked == []


def test_a_member_with_another_configuration_is_in_no_sum(make_world):
    """One of the same bits and threshold may mean another grid, smaller shares of noise, or no noise at all."""
    world = make_world(size=4)
    server = secure_sum(world)
    world.parties[1] = world.endpoint(1, config="d" * 64)
    whole = world.answer

    def answer(message):
        try:
            return whole(message)
        except TransportError as error:
            return Error(code=1, reason=str(error))

    world.grid._answer = answer
    server.collect(training(world))
    assert list(server.outcome.dropped) == [1]
    assert "or have another configuration" in server.outcome.dropped[1]
    assert len(world.asked) == 3


@pytest.mark.parametrize("norm", [None, 0.0, math.nan, math.inf, 1])
def test_an_adaptive_norm_that_cannot_be_one_is_refused(make_world, norm):
    world = make_world(summing=summing(adaptive=True))
    settings = {} if norm is None else {protocol.CLIP_NORM: norm}
    with pytest.raises(TransportError, match="the clipping norm of the round is"):
        secure_sum(world).collect(training(world, **settings))


def test_a_reply_that_comes_twice_counts_once(make_world):
    world = make_world(size=5)
    server = secure_sum(world)
    pull = world.grid.pull_messages
    world.grid.pull_messages = lambda ids: [reply for reply in pull(ids) for _ in range(2)]
    (reply,) = server.collect(training(world))
    assert not reply.has_error()
    assert (dict(server.outcome.dropped), server.outcome.silent) == ({}, ())


def test_a_client_that_gives_wrong_shares_is_named_and_the_average_is_right(make_world, caplog):
    world = make_world(size=10)
    server = secure_sum(world)
    whole = world.answer

    def answer(message):
        reply = whole(message)
        if message.metadata.dst_node_id == 104 and message.metadata.message_type == "query":
            fields = dict(reply.content["secagg"])
            fields["own"] = bytes(byte ^ 1 for byte in fields["own"])
            return RecordDict({"secagg": ConfigRecord(fields)})
        return reply

    world.grid._answer = answer
    (reply,) = server.collect(training(world))
    assert np.abs(reply.content[protocol.ARRAYS]["weight"].numpy() - mean(range(10), "weight")).max() < 1e-4
    assert "the share of client 0's secrets that client 4 has is wrong, or could not be opened" in caplog.text
