"""Folders of nodes and servers, as provisioning and the nodes themselves make them."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedtrain.crypto import Identity
from fedtrain.machines import Federation, NodeFolder, ServerFolder, write_membership
from fedtrain.machines.request import make_keys
from fedtrain.trust import Membership, Roster
from tests.unit.health import pki

NAMES = {0: "site-a", 1: "site-b"}
ID = "ab" * 16

SITE = """
[budget]
epsilon = 1.0
delta = 1e-5
[policy]
noise = ["secure"]
modes = ["record"]
"""


@dataclass(frozen=True, kw_only=True)
class Members:
    """A federation of two clients, and all its secrets."""

    operator: Identity
    server: Identity
    identities: dict
    supernodes: dict

    @classmethod
    def make(cls):
        return cls(
            operator=Identity.generate(),
            server=Identity.generate(),
            identities={client: Identity.generate() for client in NAMES},
            supernodes={client: ec.generate_private_key(ec.SECP384R1()) for client in NAMES},
        )

    def federation(self, address):
        return Federation(id=ID, address=address, operator=self.operator.public)

    def membership(self, *, version=2, clients=tuple(NAMES), federation=ID):
        return Membership(
            federation=federation,
            version=version,
            names={client: NAMES[client] for client in clients},
            supernodes={client: line(self.supernodes[client]) for client in clients},
            roster=Roster(
                server=self.server.public, clients={client: self.identities[client].public for client in clients}
            ),
        )


def line(key):
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def ssh_key(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def pem_key(identity):
    return identity._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def secret(path, data):
    path.write_bytes(data)
    path.chmod(0o600)


def node_folder(folder, members, ca, *, address="127.0.0.1:9443", client=0, site=SITE):
    folder.mkdir(mode=0o700)
    node = NodeFolder(path=folder, name=NAMES[client], client=client, federation=members.federation(address))
    node.write()
    ca.write(node.ca)
    secret(node.identity, pem_key(members.identities[client]))
    secret(node.supernode_key, ssh_key(members.supernodes[client]))
    write_membership(node.membership, members.membership().sign(members.operator))
    node.site.write_text(site)
    make_keys(node)
    return node


def server_folder(folder, members, ca, issued=None, *, address="127.0.0.1:9443"):
    folder.mkdir(mode=0o700)
    server = ServerFolder(path=folder, federation=members.federation(address))
    server.federation.write(folder)
    ca.write(server.ca)
    issued = issued or pki.certificate_of(ca, server.federation.host, "127.0.0.1", "localhost")
    issued.write(server.certificate, server.certificate_key)
    secret(server.identity, pem_key(members.server))
    write_membership(server.membership, members.membership().sign(members.operator))
    return server
