import pytest
from flwr.cli.typing import SuperLinkConnection
from flwr.cli.utils import init_http_client_from_connection

from fedtrain.flower.members import synchronize
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
