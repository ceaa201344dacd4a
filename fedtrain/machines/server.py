"""The folder of a server: what the operator provisioned, and what its runs leave."""

from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Self

from fedtrain.errors import SiteError
from fedtrain.machines.federation import Federation, resolved

# Names the folder to the ServerApp. A run's configuration comes from its submitter, and names no keys.
SERVER_VARIABLE = "FEDTRAIN_SERVER"


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
        """The certificate of the federation's CA, PEM."""
        return self.path / "ca.pem"

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
