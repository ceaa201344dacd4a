"""A federation with real keys: the folders of its server and of its nodes, as an operator provisions them."""

from dataclasses import dataclass
from pathlib import Path

from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.machines import Federation, NodeFolder, ServerFolder, write_membership
from fedtrain.trust import Membership, Roster

ID = "0123456789abcdef" * 2
SITE = """
[data]
source = "npz"
path = "records.npz"
classes = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"

[budget]
epsilon = 8.0
delta = 1e-3

[policy]
modes = ["none", "record", "client"]
noise = ["secure"]
"""


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """A federation, as its operator sees it."""

    path: Path
    operator: Identity
    federation: Federation
    server: ServerFolder
    nodes: tuple[NodeFolder, ...]

    def sign(self, *, version, left_out=(), signer=None, federation=ID, server=None) -> SignedEnvelope:
        """Return a membership of the nodes, as somebody signs it."""
        members = [node for node in self.nodes if node.name not in left_out]
        server = Identity.load(self.server.identity).public if server is None else server
        return Membership(
            federation=federation,
            version=version,
            names={node.client: node.name for node in members},
            supernodes={node.client: f"key of {node.name}" for node in members},
            roster=Roster(
                server=server, clients={node.client: Identity.load(node.identity).public for node in members}
            ),
        ).sign(signer or self.operator)


def provisioned(path, numbers=(0, 1, 2), *, site=SITE) -> Provisioned:
    """Make a federation whose clients have these numbers."""
    operator = Identity.generate()
    federation = Federation(id=ID, address="127.0.0.1:9443", operator=operator.public)
    nodes = tuple(
        NodeFolder(path=path / f"node-{number}", name=f"node-{number}", client=number, federation=federation)
        for number in numbers
    )
    server = ServerFolder(path=path / "server", federation=federation)
    for folder in (server, *nodes):
        folder.path.mkdir(parents=True)
        Identity.load_or_create(folder.identity)
    federation.write(server.path)
    made = Provisioned(path=path, operator=operator, federation=federation, server=server, nodes=nodes)
    for node in nodes:
        node.write()
        node.site.write_text(site)
    for folder in (server, *nodes):
        write_membership(folder.membership, made.sign(version=1))
    return made
