import re
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import make_message

from fedtrain.crypto import Identity
from fedtrain.errors import TransportError
from fedtrain.flower.grids.sealed import SealedGrid
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.sealed import Packed

from .conftest import CONFIG, RUN, SESSION, default_training, go, model, reasons, training


def sealed_grid(world, **session):
    opened, missing = world.session(**session)
    assert missing == {}
    world.seen.clear()
    return SealedGrid(world.grid, clients=world.nodes, session=opened)


def payload(message):
    parts = [value for record in message.content.array_records.values() for value in (a.data for a in record.values())]
    parts += [v for r in message.content.config_records.values() for v in r.values() if isinstance(v, bytes)]
    return b"".join(parts)


def test_the_application_sees_what_was_sent_and_the_server_what_was_answered(make_world):
    world = make_world()
    replies = go(sealed_grid(world), training(world, number=4))
    assert reasons(replies) == [None] * 3
    for client, reply in enumerate(replies):
        expected = default_training(client, RecordDict({protocol.ARRAYS: model()}))
        assert list(reply.content) == [protocol.ARRAYS, protocol.METRICS]
        assert dict(reply.content[protocol.METRICS]) == dict(expected[protocol.METRICS])
        for name, array in expected[protocol.ARRAYS].items():
            received = reply.content[protocol.ARRAYS][name]
            assert (received.dtype, received.shape) == (array.dtype, array.shape)
            assert np.array_equal(received.numpy(), array.numpy())
    assert [dict(content[protocol.CONFIG]) for content in world.asked] == [{protocol.ROUND: 4}] * 3
    assert [list(content) for content in world.asked] == [[protocol.ARRAYS, protocol.CONFIG]] * 3


def test_nothing_of_a_model_or_an_update_can_be_read_on_the_way_and_without_sealing_it_can(make_world):
    world = make_world()
    weights = model()["weight"].numpy().tobytes()[:24]
    updates = [(model()["weight"].numpy() + np.float32(0.01 * (c + 1))).tobytes()[:24] for c in range(3)]
    for grid, found in ((sealed_grid(world), False), (world.grid, True)):
        world.seen.clear()
        go(grid, training(world))
        wire = b"".join(map(payload, world.seen))
        assert all((needle in wire) == found for needle in [weights, *updates])


def test_a_model_is_encrypted_once_for_all_and_an_update_for_the_server_alone(make_world):
    world = make_world()
    go(sealed_grid(world), training(world))
    sent, answered = world.seen[::2], world.seen[1::2]
    bodies = [Packed.from_records(message.content).body for message in sent]
    assert bodies[0] == bodies[1] == bodies[2]
    assert len({Packed.from_records(message.content).sealed for message in sent}) == 3
    assert len({Packed.from_records(message.content).body for message in answered}) == 3


def test_what_a_failing_client_says_is_sealed_too(make_world):
    def fail(client, content):
        if client == 1:
            raise ValueError("record 17 is odd")
        return default_training(client, content)

    world = make_world(train=fail)
    replies = go(sealed_grid(world), training(world))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert "ValueError: record 17 is odd" in replies[1].error.reason
    assert all(b"17 is odd" not in payload(message) for message in world.seen)
    assert not any(message.has_error() for message in world.seen)


def test_an_error_reply_of_the_application_reaches_the_server(make_world):
    world = make_world(train=lambda client, content: Error(code=77, reason="not today"))
    replies = go(sealed_grid(world), training(world))
    assert [(reply.error.code, reply.error.reason) for reply in replies] == [(77, "not today")] * 3


def change(message, **changes):
    packed = Packed.from_records(message.content)
    facts = {"header": packed.header, "sealed": packed.sealed, "body": packed.body}
    return make_message(metadata=message.metadata, content=Packed(**(facts | changes)).to_records())


def flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("part", ["sealed", "body"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_message_that_was_changed_on_the_way_is_not_acted_upon(make_world, part, place):
    world = make_world()
    grid = sealed_grid(world)
    world.tamper = lambda message: change(
        message, **{part: flipped(getattr(Packed.from_records(message.content), part), place)}
    )
    with pytest.raises(TransportError, match=r"the message of server in round 1 \(train\) is refused"):
        go(grid, training(world))
    assert world.asked == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"config":"' + CONFIG.encode(), b'"config":"' + b"d" * 64, "bound to config 'dddd"),
        (b'"recipient":"client-0"', b'"recipient":"client-1"', "recipient 'client-1' instead of 'client-0'"),
        (b'"phase":"train"', b'"phase":"query"', "phase 'query' instead of 'train'"),
        (b'"round":1', b'"round":2', "it was changed, or sealed for another occasion"),
        (b'"sequence":1', b'"sequence":9', "it was changed, or sealed for another occasion"),
        (b'"session":"' + SESSION.encode(), b'"session":"ee', "no keys for session ee"),
        (b'"run":"' + RUN.encode(), b'"run":"ff', "no keys for session b2 of run ff"),
        (b'"run"', b'"ran"', "header"),
    ],
)
def test_a_header_that_was_changed_is_refused(make_world, old, new, reason):
    world = make_world()
    grid = sealed_grid(world)

    def tamper(message):
        header = Packed.from_records(message.content).header
        assert old in header
        return change(message, header=header.replace(old, new))

    world.tamper = tamper
    with pytest.raises(TransportError, match=re.escape(reason)):
        go(grid, training(world))
    assert world.asked == []


def test_a_message_that_was_sent_before_is_refused(make_world):
    world = make_world()
    grid = sealed_grid(world)
    go(grid, training(world))
    first = world.seen[0]
    with pytest.raises(TransportError, match="is a replay: message 1 was accepted"):
        world.apps[0](first, None)
    go(grid, training(world, number=2))
    with pytest.raises(TransportError, match="is a replay"):
        world.apps[0](first, None)


def test_a_message_to_another_client_is_refused(make_world):
    world = make_world()
    grid = sealed_grid(world)
    world.tamper = lambda message: None
    go(grid, training(world), timeout=0.2)
    with pytest.raises(TransportError, match="recipient 'client-0' instead of 'client-1'"):
        world.apps[1](world.seen[0], None)


def test_a_message_of_a_server_with_another_key_is_refused(make_world):
    world = make_world()
    opened, _ = world.session()
    forged = SealedGrid(world.grid, clients=world.nodes, session=replace(opened, identity=Identity.generate()))
    with pytest.raises(TransportError, match="the signature is not that of its pinned key"):
        go(forged, training(world))


def test_replies_that_are_exchanged_or_sent_again_are_error_replies(make_world):
    world = make_world()
    grid = sealed_grid(world)
    go(grid, training(world))
    old = {message.metadata.src_node_id: message.content for message in world.seen[1::2]}
    for content_of in (lambda node: old[node], lambda node: old[max(world.nodes) + min(world.nodes) - node]):
        world.grid._answer = lambda message, content_of=content_of: content_of(message.metadata.dst_node_id)
        replies = go(grid, training(world, number=2))
        assert all("it does not answer the message that it was sent for" in reason for reason in reasons(replies))


def test_a_reply_of_another_identity_is_an_error_reply(make_world):
    world = make_world()
    grid = sealed_grid(world)
    world.parties[1].__dict__["identity"] = Identity.generate()
    replies = go(grid, training(world))
    assert reasons(replies)[0] is reasons(replies)[2] is None
    assert "the reply of client 1 cannot be used" in reasons(replies)[1]
    assert "the signature is not that of its pinned key" in reasons(replies)[1]


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"sealed": ConfigRecord({"header": b"", "sealed": b""})}),
        RecordDict({"sealed": ConfigRecord({"header": b"", "sealed": b""}), "body": model()}),
        RecordDict(
            {"sealed": ConfigRecord({"header": "", "sealed": b""}), "body": ArrayRecord({"bytes": Array(np.ones(2))})}
        ),
        default_training(0, RecordDict({protocol.ARRAYS: model()})),
    ],
)
def test_a_reply_that_is_not_sealed_is_an_error_reply(make_world, content):
    world = make_world()
    grid = sealed_grid(world)
    world.grid._answer = lambda message: content
    assert all("cannot be used" in reason for reason in reasons(go(grid, training(world))))


def test_an_error_of_the_runtime_passes(make_world):
    world = make_world()
    grid = sealed_grid(world)
    world.grid._answer = lambda message: Error(code=3, reason="the node is gone")
    assert reasons(go(grid, training(world))) == ["the node is gone"] * 3


def test_replies_to_messages_of_others_are_left_out(make_world):
    world = make_world()
    grid = sealed_grid(world)
    ids = list(world.grid.push_messages(training(world)))
    assert list(grid.pull_messages(ids)) == []


def test_a_client_that_insists_on_sealing_answers_questions_alone_in_the_clear(make_world):
    world = make_world(sealed=True)
    with pytest.raises(TransportError, match=re.escape("client-0 answers sealed messages only")):
        go(world.grid, training(world))
    questions = [Message(RecordDict(), node, "query") for node in world.nodes]
    assert reasons(go(world.grid, questions)) == [None] * 3
    assert reasons(go(sealed_grid(world), training(world))) == [None] * 3


def test_a_client_that_insists_on_sealing_gives_no_shares_in_the_clear(make_world):
    world = make_world(sealed=True)
    question = Message(RecordDict({protocol.SECAGG: ConfigRecord()}), 100, "query")
    with pytest.raises(TransportError, match="answers sealed messages only"):
        go(world.grid, [question])


def test_models_are_not_kept_for_those_who_never_answer(make_world):
    world = make_world()
    grid = sealed_grid(world)
    world.grid._answer = lambda message: None
    go(grid, training(world), timeout=0.1)
    assert [len(message.content) for message, _ in grid._open.values()] == [0, 0, 0]


def test_a_client_without_a_folder_passes_what_is_not_sealed_and_is_no_party(make_world):
    world = make_world()
    grid = sealed_grid(world)
    world.parties = dict.fromkeys(world.parties)
    assert reasons(go(world.grid, training(world))) == [None] * 3
    with pytest.raises(TransportError, match=r"set federation\.sites, or output\.directory"):
        go(grid, training(world))


def test_a_new_session_ends_the_one_before(make_world):
    world = make_world()
    before = sealed_grid(world)
    after = sealed_grid(world, session="b3", start=2)
    assert reasons(go(after, training(world))) == [None] * 3
    with pytest.raises(TransportError, match="no keys for session b2"):
        go(before, training(world))


def test_arrays_that_are_not_numpy_arrays_cannot_be_sent(make_world):
    world = make_world()
    strange = ArrayRecord({"w": Array(dtype="float32", shape=(1,), stype="torch", data=b"1234")})
    with pytest.raises(TransportError, match="is in the format 'torch'"):
        go(sealed_grid(world), training(world, arrays=strange))
