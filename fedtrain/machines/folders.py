"""The folders of a node and of a server.

That of a node is the kit that the operator gave, and what the node adds to it and never shows; that of a server is what
the operator provisioned, and what its runs leave.
"""

import json
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Self

from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import SiteError
from fedtrain.files import write_atomic
from fedtrain.machines.federation import DIRECTIONS, Federation, resolved
from fedtrain.trust.membership import NAME

# In the configuration of a SuperNode: where its own folder is.
NODE = "fedtrain-node"

NODE_FILE = "node.json"
# Names the folder to the ServerApp. A run's configuration comes from its submitter, and names no keys.
SERVER_VARIABLE = "FEDTRAIN_SERVER"


@dataclass(frozen=True, kw_only=True)
class NodeFolder:
    """A node's own folder.

    Attributes:
        path: where it is.
        name: the node's name.
        client: its number as a client.
        federation: what it pins.
    """

    path: Path
    name: str
    client: int
    federation: Federation

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a kit, or the folder that a node made of it.

        Raises:
            SiteError: it is not one.
        """
        path = resolved(path, "node")
        file = path / NODE_FILE
        try:
            name, client = _name_and_number(json.loads(file.read_bytes()))
            return cls(path=path, name=name, client=client, federation=Federation.read(path))
        except OSError as error:
            raise SiteError(
                f"{path} is not the folder of a node: cannot read {file}: {error.strerror or error}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise SiteError(f"{file} cannot be used: {error}") from error

    def write(self) -> None:
        """Write what `open` reads, durably.

        Raises:
            StorageError: it cannot be written.
        """
        self.federation.write(self.path)
        value = {"name": self.name, "client": self.client}
        write_atomic(self.path / NODE_FILE, json.dumps(value, indent=2).encode() + b"\n")

    def write_request(self, envelope: SignedEnvelope) -> None:
        """Write the request to be admitted, durably.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomic(self.request, envelope.line())

    @property
    def ca(self) -> Path:
        """The certificates of the federation's CA, PEM. From the kit, then from the directions."""
        return self.path / "ca.pem"

    @property
    def directions(self) -> Path:
        """The newest signed directions that the node has, if there are any."""
        return self.path / DIRECTIONS

    @property
    def site(self) -> Path:
        """The site file. From the kit, edited by the site."""
        return self.path / "site.toml"

    @property
    def membership(self) -> Path:
        """The newest signed membership that the node has seen. From the kit at first."""
        return self.path / "membership.json"

    @property
    def identity(self) -> Path:
        """The identity key, made here. Secret."""
        return self.path / "identity.pem"

    @property
    def supernode_key(self) -> Path:
        """The key with which the SuperNode authenticates, made here. Secret."""
        return self.path / "supernode.pem"

    @property
    def request(self) -> Path:
        """The request to be admitted, for the operator."""
        return self.path / "request.json"

    @property
    def approved(self) -> Path:
        """The app bundles that the site allows."""
        return self.path / "approved.json"

    @property
    def rotation(self) -> Path:
        """A change of keys that is not finished (`fedtrain.machines.rotation`)."""
        return self.path / "rotation"

    @property
    def rotated(self) -> Path:
        """The old keys of a change that is done but for deleting them."""
        return self.path / ".rotated"

    def refuse_rotation(self) -> None:
        """Refuse to use keys that are half changed, or whose old ones are not deleted.

        A node that went on with old keys to delete would take its next change of keys for the end of this one.

        Raises:
            SiteError: they are.
        """
        if self.rotation.exists() or self.rotated.exists():
            raise SiteError(f"a change of keys was interrupted: finish it with fedtrain client rotate {self.path}")

    @property
    def logs(self) -> Path:
        """A folder of what the processes print."""
        return self.path / "logs"


def _name_and_number(value: object) -> tuple[str, int]:
    match value:
        case {"name": str(name), "client": int(client), **rest}:
            if not rest and not isinstance(client, bool) and client >= 0 and NAME.fullmatch(name):
                return name, client
    raise ValueError("it must be an object of name and client")


@dataclass(frozen=True, kw_only=True)
class ServerFolder:
    """A server's own folder.

    Attributes:
        path: where it is.
        federation: what it pins.
    """

    path: Path
    federation: Federation

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the folder that the operator provisioned.

        Raises:
            SiteError: it is not one.
        """
        path = resolved(path, "server")
        if (path / "operator.pem").exists():
            raise SiteError(f"{path} is the operator's folder, which stays offline; the server's is {path / 'server'}")
        return cls(path=path, federation=Federation.read(path))

    @classmethod
    def of_environment(cls) -> Self | None:
        """Return the folder that this process works for; ``None`` outside of a deployment.

        Raises:
            SiteError: there is no such folder.
        """
        named = environ.get(SERVER_VARIABLE)
        return cls.open(Path(named)) if named else None

    @property
    def ca(self) -> Path:
        """The certificates of the federation's CA, PEM: two while it is renewed."""
        return self.path / "ca.pem"

    @property
    def directions(self) -> Path:
        """The newest signed directions, if there are any."""
        return self.path / DIRECTIONS

    @property
    def certificate(self) -> Path:
        """The server's TLS certificate, PEM."""
        return self.path / "server.crt"

    @property
    def certificate_key(self) -> Path:
        """The key of the TLS certificate. Secret."""
        return self.path / "server.key"

    @property
    def identity(self) -> Path:
        """The server's identity key. Secret."""
        return self.path / "identity.pem"

    @property
    def membership(self) -> Path:
        """The signed membership."""
        return self.path / "membership.json"

    @property
    def database(self) -> Path:
        """The SuperLink's database."""
        return self.path / "superlink.db"

    @property
    def runs(self) -> Path:
        """The run folders."""
        return self.path / "runs"

    @property
    def logs(self) -> Path:
        """A folder of what the processes print."""
        return self.path / "logs"
