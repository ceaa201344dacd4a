from dataclasses import replace

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from fedtrain.crypto import Identity, canonical
from fedtrain.errors import ForgeryError, KeyFileError, TransportError
from fedtrain.flower.grids.base import collect
from fedtrain.flower.grids.sealed import SealedGrid
from fedtrain.flower.sessions import end_session
from fedtrain.messaging import PROTOCOL, SessionOffer
from fedtrain.trust import Roster, SessionKeys

from .conftest import RUN, SESSION

RECORD = "fedtrain.session"


def offer(world, *, signer=None, roster=None, shown=None, run=RUN):
    roster = roster or world.roster
    signed = SessionOffer(run=run, session=SESSION, roster=roster.digest, start=1).sign(signer or world.server)
    fields = {"offer": signed.line(), "roster": canonical((shown or roster).as_json())}
    return Message(RecordDict({RECORD: ConfigRecord(fields)}), min(world.nodes), "query")


def ask(world, message):
    return collect(world.grid, [message], timeout=5)[0]


def test_every_client_announces_keys_that_its_identity_signed(make_world):
    world = make_world()
    session, missing = world.session()
    assert missing == {}
    for client in range(3):
        keys = SessionKeys.verify(session.announcements[client], world.parties[client].identity.public)
        assert (keys.run, keys.session, keys.roster) == (RUN, SESSION, world.roster.digest)
        assert keys.party == f"client-{client}"
        assert session.sealing[client].digest == keys.sealing


def test_keys_are_made_anew_for_each_session_and_kept_within_it(make_world):
    world = make_world()
    first, again, other = world.session()[0], world.session()[0], world.session(session="b3", start=2)[0]
    assert first.sealing == again.sealing
    assert first.sealing[0] != other.sealing[0]


def test_a_session_says_who_is_missing_and_why(make_world):
    world = make_world()
    whole = world.grid._answer
    answers = {
        100: whole,
        101: lambda message: Error(code=1, reason="out of order"),
        102: lambda message: None,
    }
    world.grid._answer = lambda message: answers[message.metadata.dst_node_id](message)
    session, missing = world.session(timeout=0.2)
    assert set(session.announcements) == set(session.sealing) == {0}
    assert missing == {1: "out of order", 2: "no answer"}


def test_an_error_of_the_superlink_itself_is_no_answer_of_any_client(make_world):
    world = make_world()
    whole = world.grid._answer

    def answer(message):
        if message.metadata.dst_node_id != 101:
            return whole(message)
        reply = Message(Error(code=4, reason="node unavailable"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return reply

    world.grid._answer = answer
    session, missing = world.session()
    assert set(session.announcements) == {0, 2}
    assert missing == {1: "no answer"}


def another(key):
    return key[:-1] + bytes([key[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: {}, "malformed"),
        (lambda fields: fields | {"keys": "text"}, "malformed"),
        (lambda fields: fields | {"keys": b"{}\n"}, "not an envelope"),
        (lambda fields: fields | {"protocol": PROTOCOL + 1}, f"it speaks protocol {PROTOCOL + 1}, and this server"),
        (lambda fields: {name: fields[name] for name in ("keys", "sealing")}, "it speaks protocol None"),
        (lambda fields: fields | {"sealing": fields["sealing"][:-1]}, "1216 bytes"),
        (lambda fields: fields | {"sealing": another(fields["sealing"])}, "not the one that it signed"),
    ],
)
def test_an_announcement_that_does_not_hold_is_not_one(make_world, change, reason):
    world = make_world()
    whole = world.grid._answer

    def answer(message):
        reply = whole(message)
        fields = change(dict(reply.content[RECORD]))
        return Message(RecordDict({RECORD: ConfigRecord(fields)}), reply_to=message)

    world.grid._answer = answer
    session, missing = world.session()
    assert session.announcements == {}
    assert all(reason in text for text in missing.values())


def test_keys_that_were_announced_for_another_occasion_or_by_another_are_none(make_world):
    world = make_world()
    whole = world.grid._answer
    recorded = {}

    def record(message):
        recorded[message.metadata.dst_node_id] = whole(message)
        return recorded[message.metadata.dst_node_id]

    world.grid._answer = record
    world.session()
    world.grid._answer = lambda message: recorded[message.metadata.dst_node_id].content
    assert all("for another session" in reason for reason in world.session(session="b9", start=2)[1].values())
    world.grid._answer = lambda message: recorded[202 - message.metadata.dst_node_id].content
    session, missing = world.session()
    assert list(session.announcements) == [1]
    assert all("it is signed with key" in reason for reason in missing.values())


def test_a_client_takes_part_in_no_session_that_its_server_did_not_offer(make_world):
    world = make_world()
    with pytest.raises(ForgeryError, match="it is signed with key"):
        ask(world, offer(world, signer=Identity.generate()))


def test_a_client_that_was_given_identities_takes_part_with_no_others(make_world):
    world = make_world()
    clients = {client: endpoint.identity.public for client, endpoint in world.parties.items()}
    intruder = Identity.generate()
    other = Roster(server=intruder.public, clients=clients)
    assert not ask(world, offer(world, signer=intruder, roster=other)).has_error()
    with pytest.raises(TransportError, match="roster"):
        ask(world, offer(world))
    world.roster.write(world.parties[0].folder / "roster.json")
    with pytest.raises(TransportError, match="names other identities than"):
        ask(world, offer(world, signer=intruder, roster=other, run="a2"))
    assert not ask(world, offer(world, run="a2")).has_error()
    pinned = world.parties[0].folder / "roster.json"
    pinned.write_text("{}")
    with pytest.raises(KeyFileError, match="cannot be used as a roster"):
        ask(world, offer(world, run="a2"))
    pinned.unlink()
    pinned.symlink_to("nowhere")
    with pytest.raises(KeyFileError, match="cannot read the roster"):
        ask(world, offer(world, run="a2"))


def test_a_client_that_is_not_in_the_roster_takes_no_part(make_world):
    world = make_world()
    strangers = {client: Identity.generate().public for client in range(3)}
    with pytest.raises(TransportError, match="does not hold the key of client-0"):
        ask(world, offer(world, roster=Roster(server=world.server.public, clients=strangers)))


def test_the_roster_that_is_shown_is_the_one_that_is_offered(make_world):
    world = make_world()
    other = Roster(server=world.server.public, clients={0: world.parties[0].identity.public})
    with pytest.raises(TransportError, match="for other identities than those that it shows"):
        ask(world, offer(world, shown=other))


@pytest.mark.parametrize("sealed", [False, True])
def test_when_a_session_ends_its_keys_are_gone(make_world, sealed):
    world = make_world()
    session, _ = world.session()
    grid = SealedGrid(world.grid, clients=world.nodes, session=session) if sealed else world.grid
    folders = [endpoint.folder / "sessions" / RUN for endpoint in world.parties.values()]
    assert all((folder / SESSION / "secret").is_file() for folder in folders)
    end_session(grid, world.nodes, session, timeout=5)
    assert not any(file.name == "secret" for folder in folders for file in folder.rglob("*"))
    assert world.session(session="b3", start=2)[1] == {}


def test_an_old_offer_does_not_end_the_session_that_came_after(make_world):
    world = make_world()
    world.session()
    old = next(message for message in world.seen if message.metadata.dst_node_id == 100)
    session, _ = world.session(session="b3", start=2)
    with pytest.raises(TransportError, match="start"):
        world.apps[0](old, None)
    assert (world.parties[0].folder / "sessions" / RUN / session.session / "secret").is_file()


def test_those_who_do_not_confirm_the_end_are_named(make_world):
    world = make_world()
    session, _ = world.session()
    whole = world.answer
    world.grid._answer = lambda message: whole(message) if message.metadata.dst_node_id != 101 else Error(code=1)
    assert end_session(world.grid, world.nodes, session, timeout=5) == (1,)


def test_nobody_else_ends_a_session(make_world):
    world = make_world()
    session, _ = world.session()
    intruder = Identity.generate()
    clients = {client: endpoint.identity.public for client, endpoint in world.parties.items()}
    other = Roster(server=intruder.public, clients=clients)
    for forged, error in (
        (replace(session, identity=intruder), ForgeryError),
        (replace(session, identity=intruder, roster=other), TransportError),
    ):
        with pytest.raises(error):
            end_session(world.grid, world.nodes, forged, timeout=5)
    with pytest.raises(TransportError, match="no keys for session b9"):
        end_session(world.grid, world.nodes, replace(session, session="b9"), timeout=5)
    assert (world.parties[0].folder / "sessions" / RUN / SESSION / "secret").is_file()


@pytest.mark.parametrize("run", ["../../etc", "", "a" * 65, "A1", "a/b"])
def test_a_run_that_is_no_id_is_refused_before_it_is_a_path(make_world, run):
    world = make_world()
    with pytest.raises(TransportError, match="is no id of a run or session"):
        ask(world, offer(world, run=run))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"offer": b"{}\n", "roster": "text"},
        {"offer": b"nothing", "roster": b"[1]"},
        {"offer": b"{}\n", "roster": b"[" * 5000},
        {"offer": b"{}\n", "roster": b"\xff"},
    ],
)
def test_a_malformed_offer_is_refused(make_world, fields):
    message = Message(RecordDict({RECORD: ConfigRecord(fields)}), 100, "query")
    with pytest.raises((TransportError, ForgeryError)):
        ask(make_world(), message)
