"""What clients and server of a protected app refuse of each other, and what stays with the client."""

import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedtrain.errors import (
    AggregationError,
    ConfigError,
    TransportError,
)
from fedtrain.flower import SecAgg, protect_client
from tests.unit.flower.protected import (
    ABORTED,
    CENTRAL,
    MARK,
    OPEN,
    PRIVATE,
    SEALED,
    SIZE,
    SUMMED,
    Curious,
    GridOf,
    World,
    model,
    plainly,
    request,
    start,
    train,
    wire,
)


@pytest.fixture
def make_world(tmp_path):
    return lambda protection, **facts: World(folder=tmp_path, protection=protection, **facts)


def test_results_are_revealed_where_both_were_told_so(make_world):
    world = make_world(replace(SUMMED, reveal_results=True))
    result, _ = start(world, Curious(fraction_evaluate=1.0))
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(MARK)
    assert str(MARK).encode() not in wire(world)


@pytest.mark.parametrize("protection", [SEALED, SUMMED, PRIVATE, CENTRAL])
@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_a_client_refuses_what_is_not_sealed(make_world, protection, kind):
    world = make_world(protection)
    reply = world.answer(request(kind=kind))
    assert "client-0 answers sealed messages only" in reply.reason
    assert world.asked == []


def test_a_client_that_sums_refuses_to_send_its_update(make_world):
    world = make_world(SUMMED)
    with world.protect() as grid:
        (reply,) = GridOf(grid).ask(request())
    assert "sends masked updates only" in reply.error.reason
    assert world.asked == []


def test_without_sealing_a_client_takes_part_and_clips(make_world):
    world = make_world(OPEN)
    reply = world.answer(request())
    assert list(reply.content) == ["arrays", "metrics"]
    assert dict(reply.content["metrics"]) == {"num-examples": 1.0}


def test_other_parameters_at_the_clients_are_refused(make_world, caplog):
    world = make_world(SUMMED, theirs=replace(SUMMED, secagg=SecAgg(minimum=3)))
    strategy = Curious()
    start(world, strategy)
    assert "the message is bound to config" in caplog.text
    assert world.asked == []


@pytest.mark.parametrize(
    ("messages", "error", "said"),
    [
        ([100, 100, 101], ConfigError, "asked twice"),
        ([100, 101], ConfigError, "cohort = 3"),
        ([100, 101, 999], ConfigError, "node 999 takes no part"),
    ],
)
def test_a_cohort_that_is_not_allowed_is_not_asked(make_world, messages, error, said):
    world = make_world(PRIVATE)
    with world.protect() as grid:
        with pytest.raises(error, match=said):
            grid.send_and_receive([request(node) for node in messages])
        assert grid.spent.participations == {}
    assert world.asked == []


def test_a_sum_of_too_few_is_not_asked_for(make_world):
    world = make_world(replace(SUMMED, secagg=SecAgg(minimum=3)))
    with world.protect() as grid, pytest.raises(ConfigError, match="asks 2 clients, and secagg"):
        grid.send_and_receive([request(100), request(101)])


def test_clients_are_asked_for_the_same_work(make_world):
    for protection in (SUMMED, CENTRAL):
        world = make_world(protection)
        world.folder = world.folder / str(protection.secagg is None)
        other = request(102, config=ConfigRecord({"server-round": 1, "lr": 9.0}))
        with world.protect() as grid, pytest.raises(AggregationError, match="different work"):
            grid.send_and_receive([request(100), request(101), other])
        assert world.asked == []


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"more": ConfigRecord({"who": 1})}, "one of arrays and one of settings"),
        ({"more": MetricRecord({"who": 1})}, "one of arrays and one of settings"),
        ({"more": model()}, "one of arrays and one of settings"),
        ({"config": MetricRecord({"who": 1})}, "one of arrays and one of settings"),
        ({"arrays": ArrayRecord({"z": Array(np.zeros(2, dtype=np.complex64))})}, "real numbers"),
        ({"arrays": ArrayRecord({"n": Array(np.zeros(2, dtype=np.int64))})}, "no floating numbers"),
    ],
)
def test_a_message_of_other_records_is_refused_on_both_sides(make_world, records, said):
    world = make_world(OPEN)  # sealing refuses complex numbers by itself
    with world.protect() as grid:
        with pytest.raises(TransportError, match=said):
            grid.send_and_receive([request(100 + client, **records) for client in range(SIZE)])
        (reply,) = GridOf(grid).ask(request(**records))
    assert said in reply.error.reason
    assert world.asked == []


def test_updates_are_not_pushed_and_types_are_not_mixed(make_world):
    world = make_world(replace(SUMMED, reveal_results=True))
    with world.protect() as grid:
        with pytest.raises(ConfigError, match="ask for them with send_and_receive"):
            grid.push_messages([request()])
        with pytest.raises(ConfigError, match="cannot be averaged"):
            grid.send_and_receive([request(100), request(101, kind="evaluate")])
        with pytest.raises(ConfigError, match="cannot be averaged"):
            grid.send_and_receive([request(100), request(101, kind="train.other")])
        assert list(grid.send_and_receive([])) == []


def test_messages_are_pushed_and_pulled_where_each_has_a_reply(make_world):
    world = make_world(SEALED)
    with world.protect() as grid:
        (reply,) = grid.pull_messages(grid.push_messages([request(kind="query")]))
        assert reply.content["answer"]["mark"] == MARK
    with pytest.raises(ConfigError, match="closed"):
        grid.push_messages([request(kind="query")])


def test_only_nodes_that_take_part_are_shown(make_world):
    world = make_world(SEALED)
    with world.protect() as grid:
        world.grid.nodes.append(200)
        assert list(grid.get_node_ids()) == [100, 101, 102]


def says(reply):
    return lambda client, content: reply(content)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda _: RecordDict({}), "0 records of arrays"),
        (lambda content: RecordDict({"a": content["arrays"], "b": model()}), "2 records of arrays"),
        (lambda content: RecordDict({"a": ArrayRecord({"weight": content["arrays"]["weight"]})}), "batches, bias"),
        (
            lambda content: RecordDict({"a": ArrayRecord({**content["arrays"], "bias": Array(np.zeros(2))})}),
            "the array bias came back as float64[2], not float64[5]",
        ),
        (
            lambda content: RecordDict({"a": ArrayRecord({**content["arrays"], "batches": Array(np.asarray(5))})}),
            "the array batches holds whole numbers and was changed",
        ),
    ],
)
def test_what_is_no_update_is_refused_by_the_client(make_world, reply, said, caplog):
    world, strategy = make_world(CENTRAL, train=says(reply)), Curious()
    start(world, strategy)
    assert said in caplog.text
    assert not strategy.given[0][0].has_error()  # the release is noise


def test_whole_numbers_stay_as_they_were_sent_in_a_sum(make_world):
    def count(client, content):
        return RecordDict({"arrays": ArrayRecord({**content["arrays"], "batches": Array(np.asarray(99))})})

    assert start(make_world(SUMMED, train=count))[0].arrays["batches"].numpy() == 4


def test_weights_are_asked_for_where_they_are_used(make_world, caplog):
    def weightless(client, content):
        return RecordDict({"arrays": content["arrays"]})

    start(make_world(replace(SUMMED, secagg=SecAgg(max_weight=5)), train=weightless))
    assert "no metric num-examples" in caplog.text


def raises(_client, _content):
    raise ValueError("record 17 says positive")


def leaves(_client, _content):
    sys.exit("record 17 says positive")


@pytest.mark.parametrize("train", [raises, leaves])
@pytest.mark.parametrize("protection", [SUMMED, PRIVATE, CENTRAL, OPEN])
def test_what_an_exception_says_of_records_stays_with_the_client(make_world, protection, train, caplog):
    world, strategy = make_world(protection, train=train), Curious()
    with caplog.at_level(logging.WARNING, "fedtrain.flower.grids.protected"):
        start(world, strategy)
    assert b"record 17" not in wire(world)
    told = [record.getMessage() for record in caplog.records if record.name == "fedtrain.flower.grids.protected"]
    assert told
    assert not any("record 17" in text for text in told)
    assert any("the application failed; why is in the log of this client's node alone" in text for text in told)
    if protection.secagg:
        assert strategy.given[0][0].error.reason == ABORTED


def not_finite(_client, content):
    arrays = content["arrays"]
    return RecordDict({"arrays": ArrayRecord({**arrays, "bias": Array(np.full(5, np.nan))})})


def by_name(_client, content):
    return RecordDict({"arrays": ArrayRecord({**content["arrays"], "record 17": Array(np.zeros(2))})})


def by_shape(_client, content):
    return RecordDict({"arrays": ArrayRecord({**content["arrays"], "bias": Array(np.zeros(1717))})})


@pytest.mark.parametrize(
    ("train", "kept", "failure"),
    [
        (not_finite, "the trained array bias is not finite", "the update cannot be summed"),
        (by_name, "the arrays record 17 of", "the application's reply is no update to send"),
        (by_shape, "came back as float64[1717]", "the application's reply is no update to send"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_wrong_with_an_update_stays_with_the_client(make_world, sealed, train, kept, failure, caplog):
    world, strategy = make_world(replace(SUMMED, sealed=sealed), train=train), Curious()
    start(world, strategy)
    assert kept in caplog.text
    server = [record.getMessage() for record in caplog.records if record.name == "fedtrain.flower.grids.protected"]
    assert any(f"{failure}; why is in the log of this client's node alone" in text for text in server)
    assert not any(word in text for text in server for word in ("finite", "record 17", "1717"))
    assert strategy.given[0][0].error.reason == ABORTED


def test_the_strategy_is_told_nothing_of_why_a_round_was_aborted(make_world, caplog):
    world, strategy = make_world(SUMMED), Curious()
    world.tamper = lambda message: (
        Error(code=9, reason="record 17 says positive") if message.metadata.message_type == "train" else message
    )
    start(world, strategy)
    ((reply,),) = strategy.given
    assert reply.error.reason == ABORTED
    assert "round 1 was aborted" in caplog.text


def test_an_error_that_the_application_returns_stays_with_it_too(make_world):
    world = make_world(CENTRAL)

    def failing(message, context, call_next):
        return Message(Error(code=9, reason="record 17 says positive"), reply_to=message)

    bare = ClientApp(mods=[failing])
    world.app = protect_client(bare, CENTRAL, folder=world.folder / "clients")
    bare.train()(lambda message, context: None)
    strategy = Curious()
    start(world, strategy)
    assert "record 17" not in str(strategy.given)
    assert b"record 17" not in wire(world)


def test_a_client_that_is_lost_is_made_up_for(make_world):
    world = make_world(replace(SUMMED, clients=4), size=4)
    world.tamper = lambda message: (
        None if message.metadata.message_type == "train" and message.metadata.dst_node_id == 103 else message
    )
    world.protection = replace(world.protection, deadline=1.0)
    world = make_world(world.protection, size=4, tamper=world.tamper)
    strategy = Curious()
    result, _ = start(world, strategy)
    assert strategy.given[0][0].content["metrics"]["num-examples"] == 3.0
    assert np.abs(result.arrays["bias"].numpy() - model()["bias"].numpy() - plainly([1, 1, 1])).max() < 1e-4


def test_an_app_still_has_the_records_that_it_keeps_when_its_update_was_masked(make_world):
    kept = []

    def keeping(client, content):
        received = ArrayRecord(dict(content["arrays"].items()))
        answer = train(client, content)
        kept.extend([received, content["arrays"], answer["arrays"]])
        return answer

    world = make_world(SUMMED, train=keeping)
    start(world)
    assert [list(record) for record in kept] == 3 * SIZE * [list(model())]
