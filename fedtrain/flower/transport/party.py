"""What a client knows and insists on when it talks to a server: nothing of it comes from a message."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flwr.app import Context

from fedtrain.crypto import Identity, Roster, client_name
from fedtrain.errors import StorageError, TransportError
from fedtrain.flower.transport.summing import Summing
from fedtrain.transport import NodeSessions


@dataclass(frozen=True, kw_only=True)
class Party:
    """A client as a party of sessions.

    Attributes:
        client: its number.
        folder: its own folder.
        config: digest of the configuration that it was given, which is the server's too.
        sealed: whether it answers sealed messages only.
        secagg: whether it sends masked updates only.
        minimum: the least number of clients whose sum it is part of.
        summing: how it sums updates, by its own configuration.
    """

    client: int
    folder: Path
    config: str
    sealed: bool
    secagg: bool
    minimum: int
    summing: Summing

    @property
    def name(self) -> str:
        """Its name in headers and announcements."""
        return client_name(self.client)

    @cached_property
    def identity(self) -> Identity:
        """Its identity, made at the first time.

        Raises:
            KeyFileError: the key file cannot be used.
            StorageError: it cannot be written.
        """
        return Identity.load_or_create(self.folder / "identity.pem")

    @property
    def sessions(self) -> NodeSessions:
        """The files of its sessions."""
        return NodeSessions(self.folder / "sessions")

    def accept(self, roster: Roster) -> None:
        """Pin the identities of a session, if they are those that the operator gave this client, and its own.

        A client without a ``roster.json`` in its folder, as in a simulation, takes the identities that it is shown
        first in a session.

        Raises:
            TransportError: they are not.
            KeyFileError: the roster in the client's folder cannot be read.
            StorageError: the identities cannot be written.
        """
        pinned = self.folder / "roster.json"
        # A link to nothing is a roster that is gone, and not one that was never given.
        if (pinned.is_symlink() or pinned.exists()) and Roster.read(pinned).digest != roster.digest:
            raise TransportError(
                f"the server names other identities than {pinned}, which the operator gave {self.name}"
            )
        if roster.clients.get(self.client) != self.identity.public:
            raise TransportError(f"the server's roster does not hold the key of {self.name}")
        if not self._pinned(roster.digest).exists():
            try:
                self._pinned(roster.digest).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"cannot make a folder in {self.folder}: {error.strerror or error}") from error
            roster.write(self._pinned(roster.digest))

    def roster(self, *, run: str, session: str) -> Roster:
        """Return the identities that are pinned for a session.

        Raises:
            TransportError: there is no such session.
            KeyFileError: the identities cannot be read.
        """
        return Roster.read(self._pinned(self.sessions.roster(run=run, session=session)))

    def _pinned(self, digest: str) -> Path:
        return self.folder / "rosters" / f"{digest}.json"


# A client without a folder of its own is ``None``: it insists on nothing, and can be no party of a session.
OpenParty = Callable[[Context], Party | None]


def required(party: Party | None) -> Party:
    """Return a party that has to be there.

    Raises:
        TransportError: the client has no folder of its own.
    """
    if party is None:
        raise TransportError(
            "the keys of a client need a place that outlasts the run: set federation.sites, or output.directory (--out)"
        )
    return party
