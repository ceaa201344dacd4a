"""What a client knows and insists on when it talks to a server: nothing of it comes from a message."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from flwr.app import ArrayRecord, ConfigRecord, Context

from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.errors import ClientError, ForgeryError, KeyFileError, StorageError, TransportError
from fedtrain.flower.messages.protocol import request_digest
from fedtrain.flower.summing import Summing
from fedtrain.machines import NodeFolder, read_membership, write_membership
from fedtrain.messaging import NodeSessions
from fedtrain.trust import Membership, Roster, client_name

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A client as an endpoint of sessions.

    Attributes:
        client: its number.
        folder: its own folder.
        config: digest of the configuration that it was given, which is the server's too.
        sealed: whether it answers sealed messages only.
        secagg: whether it sends masked updates only.
        minimum: the least number of clients whose sum it is part of.
        summing: how it sums updates, by its own configuration.
        node: what its machine pins; ``None`` in a simulation.
        digest: returns the digest of a request, of its model and its settings.
    """

    client: int
    folder: Path
    config: str
    sealed: bool
    secagg: bool
    minimum: int
    summing: Summing
    node: NodeFolder | None = None
    digest: Callable[[ArrayRecord, ConfigRecord], str] = field(default=request_digest, compare=False)

    @property
    def name(self) -> str:
        """Its name in headers and announcements."""
        return client_name(self.client)

    @cached_property
    def identity(self) -> Identity:
        """Its identity; in a simulation it is made at the first time.

        Raises:
            KeyFileError: the key file cannot be used.
            StorageError: it cannot be written.
        """
        if self.node is not None:
            return Identity.load(self.node.identity)
        return Identity.load_or_create(self.folder / "identity.pem")

    @property
    def sessions(self) -> NodeSessions:
        """The files of its sessions."""
        return NodeSessions(self.folder / "sessions")

    def accept(self, roster: Roster, membership: SignedEnvelope | None = None) -> None:
        """Pin the identities of a session, if they are those that the operator gave this client, and its own.

        On a machine of its own that is the roster of a membership that the operator signed, of no older version than
        one that was seen before; a newer one is kept. In a simulation it is the ``roster.json`` in the client's folder,
        or without one the identities that it is shown first in a session.

        Raises:
            TransportError: they are not.
            SiteError: the membership on this machine cannot be read.
            KeyFileError: the roster in the client's folder cannot be read.
            StorageError: the identities cannot be written.
        """
        if self.node is not None:
            self._accept_membership(self.node, roster, membership)
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
                raise StorageError(
                    f"cannot make {self._pinned(roster.digest).parent}: {error.strerror or error}"
                ) from error
            roster.write(self._pinned(roster.digest))

    def _accept_membership(self, node: NodeFolder, roster: Roster, envelope: SignedEnvelope | None) -> None:
        if envelope is None:
            raise TransportError("the server shows no membership that the operator signed")
        try:
            membership = Membership.verify(envelope, node.federation.operator)
        except ForgeryError as error:
            raise TransportError(f"the membership that the server shows is not the operator's: {error}") from error
        if membership.federation != node.federation.id:
            raise TransportError(f"the server shows the membership of another federation, {membership.federation}")
        if membership.roster.digest != roster.digest:
            raise TransportError("the server names other identities than the membership that it shows")
        # Two offers at once must not both be compared with the same version, and the older one be written last.
        with _only_one(node.path / ".membership.lock"):
            known, signed = read_membership(node.membership, node.federation)
            if membership.version == known.version and signed != envelope:
                raise TransportError(
                    f"the server shows another membership than {self.name} has seen, of the same version "
                    f"{known.version}: the operator has signed two, as with a folder put back from an older copy"
                )
            if membership.version < known.version:
                raise TransportError(
                    f"the server shows version {membership.version} of the membership, and {self.name} has seen "
                    f"version {known.version}: give the server the newest one"
                )
            if membership.version > known.version:
                write_membership(node.membership, envelope)

    def roster(self, *, run: str, session: str) -> Roster:
        """Return the identities that are pinned for a session.

        On a machine of its own they are no more than its newest membership allows: a server whose key the operator has
        replaced has no session any more.

        Raises:
            TransportError: there is no such session, or the operator has given the server another key since.
            SiteError: the membership on this machine cannot be read.
            KeyFileError: the identities cannot be read, or are not those that were pinned.
        """
        digest = self.sessions.roster(run=run, session=session)
        roster = Roster.read(self._pinned(digest))
        if roster.digest != digest:
            raise KeyFileError(f"{self._pinned(digest)} was changed: it has other identities than the session's")
        if self.node is not None:
            newest, _ = read_membership(self.node.membership, self.node.federation)
            if newest.roster.server != roster.server:
                raise TransportError("the operator has given the server another key since this session began")
        return roster

    def _pinned(self, digest: str) -> Path:
        """Return the file of some identities. Simulated clients have one: each of them holds the digest itself.

        It names them all, and thousands of clients would each write and keep a line for each of the others.
        """
        folder = self.folder.parent if self.node is None else self.folder
        return folder / "rosters" / f"{digest}.json"


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        raise StorageError(f"cannot lock {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


# A client without a folder of its own is ``None``: it insists on nothing, and can be no endpoint of a session.
OpenEndpoint = Callable[[Context], Endpoint | None]


def required(endpoint: Endpoint | None) -> Endpoint:
    """Return an endpoint that has to be there.

    Raises:
        TransportError: the client has no folder of its own.
    """
    if endpoint is None:
        raise TransportError(
            "the keys of a client need a place that outlasts the run: set federation.sites, or output.directory (--out)"
        )
    return endpoint


def kept_here(work: Callable[[], _T], failure: str) -> _T:
    """Return what work on records or an update gives. What an exception says of them is for the log of this node.

    Raises:
        ClientError: the work failed; it says ``failure``, and nothing of why.
    """
    try:
        return work()
    except BaseException:  # noqa: BLE001 - an application may raise anything, or leave by sys.exit
        _log.exception("%s", failure)
    # Raised here and not above, where it would carry the first exception along.
    raise ClientError(f"{failure}; why is in the log of this client's node alone")
