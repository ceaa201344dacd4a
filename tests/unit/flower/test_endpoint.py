from dataclasses import replace
from threading import Thread

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedtrain.crypto import Identity
from fedtrain.errors import KeyFileError, SiteError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.mods.endpoint import Endpoint
from fedtrain.machines import read_membership, write_membership
from fedtrain.trust import Membership, Roster
from tests.federations import provisioned

from .conftest import go, summing


@pytest.fixture
def made(tmp_path):
    return provisioned(tmp_path)


def party_of(node, **changes):
    facts = {
        "client": node.client,
        "folder": node.path,
        "config": "c" * 64,
        "sealed": True,
        "secagg": True,
        "minimum": 2,
        "summing": summing(),
        "node": node,
    }
    return Endpoint(**(facts | changes))


def accept(made, envelope, *, client=0, roster=None):
    node = made.nodes[client]
    if roster is None:
        roster = Membership.verify(envelope, made.operator.public).roster
    party_of(node).accept(roster, envelope)
    return read_membership(node.membership, node.federation)[0].version


def test_the_membership_that_was_provisioned_is_accepted_again_and_again(made):
    envelope = made.sign(version=1)
    assert accept(made, envelope) == accept(made, envelope) == 1


def simulated(folder):
    """Return two simulated clients, the identities of both, and those with a stranger in the place of the second."""
    clients = [
        Endpoint(
            client=client,
            folder=folder / f"client-{client:04d}",
            config="c" * 64,
            sealed=True,
            secagg=True,
            minimum=2,
            summing=summing(),
        )
        for client in range(2)
    ]
    server, stranger = Identity.generate().public, Identity.generate().public
    keys = {client.client: client.identity.public for client in clients}
    return clients, Roster(server=server, clients=keys), Roster(server=server, clients={**keys, 1: stranger})


def test_simulated_clients_have_one_file_of_their_identities(tmp_path):
    clients, roster, _ = simulated(tmp_path)
    for client in clients:
        client.accept(roster)
        client.sessions.begin(run="aa", session="bb", roster=roster.digest, start=1)
    assert [
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json") if path.parent.name == "rosters"
    ] == [f"rosters/{roster.digest}.json"]
    assert [client.roster(run="aa", session="bb") for client in clients] == [roster, roster]


def test_another_roster_in_that_file_is_no_clients(tmp_path):
    (client, _), roster, other = simulated(tmp_path)
    client.accept(roster)
    client.sessions.begin(run="aa", session="bb", roster=roster.digest, start=1)
    other.write(tmp_path / "rosters" / f"{roster.digest}.json")
    with pytest.raises(KeyFileError, match=r"was changed: it has other identities than the session's"):
        client.roster(run="aa", session="bb")


def test_a_newer_membership_replaces_the_one_before_and_is_not_taken_back(made):
    old, new = made.sign(version=1), made.sign(version=2, left_out=["node-2"])
    assert accept(made, new) == 2
    with pytest.raises(TransportError, match=r"shows version 1 .* client-0 has seen version 2"):
        accept(made, old)
    assert accept(made, new) == 2
    # A node that has not seen it yet is asked with either.
    assert accept(made, old, client=1) == 1


def test_a_client_that_was_revoked_takes_no_part(made):
    with pytest.raises(TransportError, match="does not hold the key of client-2"):
        accept(made, made.sign(version=2, left_out=["node-2"]), client=2)


def test_two_memberships_of_one_version_are_not_the_operators(made):
    with pytest.raises(
        TransportError, match=r"client-0 has seen, of the same version 1: the operator has signed two.*older copy"
    ):
        accept(made, made.sign(version=1, left_out=["node-2"]))


def test_nobody_but_the_operator_says_who_belongs_to_the_federation(made):
    forged = made.sign(version=2, signer=Identity.load(made.server.identity))
    roster = Membership.verify(made.sign(version=2), made.operator.public).roster
    with pytest.raises(TransportError, match="is not the operator's: it is signed with key"):
        accept(made, forged, roster=roster)
    with pytest.raises(TransportError, match="shows no membership"):
        party_of(made.nodes[0]).accept(roster, None)
    with pytest.raises(TransportError, match="of another federation"):
        accept(made, made.sign(version=2, federation="f" * 32))


def test_a_server_cannot_add_a_client_to_the_roster_of_a_membership(made):
    envelope = made.sign(version=1)
    roster = Membership.verify(envelope, made.operator.public).roster
    more = Roster(server=roster.server, clients={**roster.clients, 7: Identity.generate().public})
    with pytest.raises(TransportError, match="names other identities than the membership"):
        accept(made, envelope, roster=more)


def test_a_node_without_its_own_key_takes_no_part_and_makes_none(made):
    node = made.nodes[0]
    node.identity.unlink()
    with pytest.raises(KeyFileError, match="there is no key file"):
        accept(made, replace(made, nodes=made.nodes[1:]).sign(version=2))
    assert not node.identity.exists()


def test_a_membership_on_the_node_that_is_damaged_stops_it(made):
    node = made.nodes[0]
    write_membership(node.membership, made.sign(version=1, signer=Identity.generate()))
    with pytest.raises(SiteError, match="cannot be used: it is signed with key"):
        accept(made, made.sign(version=1))
    node.membership.unlink()
    with pytest.raises(SiteError, match="cannot read"):
        accept(made, made.sign(version=1))


def test_a_session_ends_for_a_node_that_knows_another_key_of_the_server(made):
    endpoint = party_of(made.nodes[0])
    envelope = made.sign(version=1)
    roster = Membership.verify(envelope, made.operator.public).roster
    endpoint.accept(roster, envelope)
    endpoint.sessions.begin(run="a1", session="b2", roster=roster.digest, start=1)
    assert endpoint.roster(run="a1", session="b2") == roster
    write_membership(made.nodes[0].membership, made.sign(version=2, left_out=["node-2"]))
    assert endpoint.roster(run="a1", session="b2") == roster  # a run goes on with the members that it began with
    write_membership(made.nodes[0].membership, made.sign(version=3, server=Identity.generate().public))
    with pytest.raises(TransportError, match="has given the server another key"):
        endpoint.roster(run="a1", session="b2")


def test_two_memberships_at_once_leave_the_newer(made, monkeypatch):
    old, new = made.sign(version=2), made.sign(version=3)
    roster = Membership.verify(old, made.operator.public).roster
    endpoint, write, threads = party_of(made.nodes[0]), write_membership, []

    def slowly(path, envelope):
        if envelope == old:  # the newer one is offered meanwhile, and has to wait
            threads.append(Thread(target=endpoint.accept, args=(roster, new)))
            threads[0].start()
            threads[0].join(timeout=0.5)
        write(path, envelope)

    monkeypatch.setattr("fedtrain.flower.mods.endpoint.write_membership", slowly)
    endpoint.accept(roster, old)
    threads[0].join()
    assert read_membership(made.nodes[0].membership, made.nodes[0].federation)[0].version == 3


OF_A_SESSION = "fedtrain.session"
ODD = {
    "metrics": {OF_A_SESSION: MetricRecord({"x": 1})},
    "arrays": {OF_A_SESSION: ArrayRecord()},
    "more": {OF_A_SESSION: ConfigRecord(), protocol.LEDGER: ConfigRecord({protocol.KNOWN: 0})},
    "metrics and more": {OF_A_SESSION: MetricRecord({"x": 1}), protocol.CONFIG: ConfigRecord()},
    "shares": {OF_A_SESSION: ConfigRecord(), protocol.SECAGG: ConfigRecord()},
    "nothing": {},
    "a model": {protocol.ARRAYS: ArrayRecord()},
}


@pytest.mark.parametrize("kind", ["query", "train"])
@pytest.mark.parametrize("content", [*ODD, "alone"])
@pytest.mark.parametrize("insists", [True, False])
def test_what_calls_itself_a_message_about_a_session_does_not_reach_the_application(
    made, make_world, kind, content, insists
):
    records = ODD.get(content, {OF_A_SESSION: ConfigRecord()})
    if not insists and OF_A_SESSION not in records:
        return  # answered, as its site allows
    if (content, kind) == ("alone", "query"):
        return  # a message about a session indeed
    world = make_world()
    world.parties[0] = replace(world.parties[0], node=made.nodes[0], sealed=insists)
    node = min(world.nodes)
    with pytest.raises(TransportError, match=r"about a session is malformed|answers sealed messages only"):
        go(world.grid, [Message(RecordDict(records), node, kind)])
    assert world.asked == []
