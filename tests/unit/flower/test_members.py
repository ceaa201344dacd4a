from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.typing import SuperLinkConnection
from flwr.cli.utils import init_http_client_from_connection
from flwr.proto.node_pb2 import NodeInfo

from fedtrain.crypto import Identity
from fedtrain.flower import members as following
from fedtrain.flower.members import known_nodes, node_states
from fedtrain.machines.nodes import NodeState, changes, numbered
from fedtrain.trust import Membership, Roster
from tests.unit.health import folders, superlinks


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    with superlinks.superlink(tmp_path_factory.mktemp("superlink")) as found:
        yield found


@pytest.fixture
def client(link):
    connection = SuperLinkConnection(
        name="here", address=link.address, root_certificates=str(link.database.with_name("ca.pem"))
    )
    with init_http_client_from_connection(connection) as found:
        yield found


def synchronize(client, membership):
    return following.synchronize(client, known_nodes(client), membership)


def test_the_superlink_knows_the_members_and_nobody_else(link, client):
    members = folders.Members.make()
    done, refused = synchronize(client, members.membership())
    assert (sorted(done), refused) == (["registered site-a", "registered site-b"], [])
    assert synchronize(client, members.membership()) == ([], [])
    done, refused = synchronize(client, members.membership(version=3, clients=(1,)))
    assert (len(done), refused) == (1, [])
    assert done[0].startswith("unregistered node ")
    assert synchronize(client, members.membership(version=3, clients=(1,))) == ([], [])

    # Other keys for a member, and a node that is no member's, whoever registered it.
    rotated = folders.Members.make()
    (first, second), refused = synchronize(client, rotated.membership(version=4, clients=(1,)))
    assert first.startswith("unregistered node ")
    assert (second, refused) == ("registered site-b", [])

    # Flower takes a key once. That keeps nobody else out.
    members.supernodes[1] = rotated.supernodes[1]
    assert synchronize(client, members.membership(version=5)) == ([], ["site-a"])
    fresh = folders.Members.make()
    fresh.supernodes[0] = members.supernodes[0]
    done, refused = synchronize(client, fresh.membership(version=6))
    assert (sorted(line.split()[0] for line in done), refused) == (["registered", "unregistered"], ["site-a"])
    statuses = link.status_of_nodes()
    assert statuses.count("unregistered") == len(statuses) - 1


NODES = 200


def large(count):
    """Return a membership of so many clients."""
    keys = {client: ec.generate_private_key(ec.SECP384R1()) for client in range(count)}
    identities = {client: Identity.generate().public for client in keys}
    return Membership(
        federation=folders.ID,
        version=9,
        names={client: f"site-{client:03d}" for client in keys},
        supernodes={client: folders.line(key) for client, key in keys.items()},
        roster=Roster(server=Identity.generate().public, clients=identities),
    )


class Counting:
    """Passes questions on to the SuperLink, and counts those for its nodes."""

    def __init__(self, client):
        self._client, self.asked = client, 0

    def ListNodes(self, request):  # noqa: N802 - as Flower calls it
        self.asked += 1
        return self._client.ListNodes(request)

    def __getattr__(self, name):
        return getattr(self._client, name)


def test_two_hundred_nodes_are_seen_by_one_question(client):
    membership, counting = large(NODES), Counting(client)
    done, refused = synchronize(client, membership)
    assert (sum(line.startswith("registered") for line in done), refused) == (NODES, [])
    states = node_states(known_nodes(counting), membership)
    assert counting.asked == 1
    assert [(state.name, state.state) for state in states] == [
        (name, "never connected") for _, name in sorted(membership.names.items())
    ]


@pytest.mark.parametrize(
    ("status", "values", "expected"),
    [
        ("online", {"last_activated_at": "2026-11-30T08:00:00+00:00", "online_until": 160.0}, ("connected", 100.0)),
        ("offline", {"last_deactivated_at": "2026-11-30T08:00:00+00:00", "online_until": 160.0}, ("away", 100.0)),
        ("registered", {}, ("never connected", None)),
        ("unregistered", {}, ("never connected", None)),
    ],
)
def test_how_a_node_stands_is_what_the_superlink_says(status, values, expected):
    membership = large(1)
    key = following._key(membership.supernodes[0])
    found = NodeInfo(public_key=key, node_id=2**63 + 5, status=status, heartbeat_interval=30.0, **values)
    (state,) = node_states([found], membership)
    assert (state.state, state.seen) == expected
    assert numbered([state]) == ({2**63 + 5: state.name} if values else {})
    assert state.since == (datetime(2026, 11, 30, 8, tzinfo=UTC).timestamp() if values else None)


def test_who_came_and_who_went_is_told_once():
    def node(state):
        return NodeState(name="site-a", client=0, state=state)

    assert changes({}, [node("never connected")]) == []
    assert changes({}, [node("connected")]) == ["site-a is connected"]
    assert changes({"site-a": "connected"}, [node("connected")]) == []
    assert changes({"site-a": "connected"}, [node("away")]) == ["site-a is not connected any more"]
    assert changes({"site-a": "away"}, [node("connected")]) == ["site-a is connected"]
