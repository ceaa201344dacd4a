"""Who takes part in a round, as a client verifies it: nothing that the server says about keys is believed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from fedtrain.crypto import PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError, TransportError
from fedtrain.trust import Roster, SessionKeys, client_name

_REMEMBERED: Final = 4096  # announcements, of about a kilobyte


@dataclass(frozen=True, kw_only=True)
class Announced:
    """A client's session keys, as it announced them.

    Attributes:
        client: its number.
        keys: the keys.
        digest: hex SHA-256 of the line of its announcement.
    """

    client: int
    keys: SessionKeys
    digest: str


class Announcements:
    """Verifies announcements of one session, each signature once in a process: its members see the same ones."""

    def __init__(self, roster: Roster, client: int, announcement: SignedEnvelope) -> None:
        """Begin with the announcement of one's own client, which says what the session is.

        Raises:
            TransportError: it is not one of the client, or of a federation with another roster.
        """
        self._roster = roster
        self._clients = {public.key_id: number for number, public in roster.clients.items()}
        self._verified: dict[bytes, Announced] = {}
        self._line = announcement.line()
        own = self._open(self._line)
        if own.client != client:
            raise TransportError(f"the announcement of client {client} is signed by client {own.client}")
        if own.keys.roster != roster.digest:
            raise TransportError(f"the announcement of client {client} is for another roster")
        self.own = own
        self._verified[self._line] = own

    def cohort(self, lines: tuple[bytes, ...]) -> Mapping[int, Announced]:
        """Return the announced keys of a cohort by client, in order.

        Raises:
            TransportError: an announcement is forged, has a key of low order, or is of another run, session, roster or
                party; a client is there twice or out of order; or one's own announcement is missing or another.
        """
        cohort: dict[int, Announced] = {}
        last = -1
        for line in lines:
            announced = self._verified.get(line) or self._verify(line)
            if announced.client in cohort:
                raise TransportError(f"client {announced.client} is in the cohort twice")
            if announced.client < last:
                raise TransportError(f"the cohort is not in order: client {announced.client} follows client {last}")
            last = announced.client
            cohort[last] = announced
        if self.own.client not in cohort:
            raise TransportError(f"client {self.own.client} is asked to take part, and is not in the cohort")
        if self._line not in lines:
            raise TransportError(f"the cohort has keys of client {self.own.client} that it did not announce last")
        return cohort

    def _verify(self, line: bytes) -> Announced:
        announced = self._open(line)
        for name in ("run", "session", "roster"):
            theirs, ours = getattr(announced.keys, name), getattr(self.own.keys, name)
            if theirs != ours:
                raise TransportError(f"client {announced.client} announced keys for another {name}: {theirs!r}")
        if announced.client != self.own.client:  # of one's own there is one
            self._verified[line] = announced
        return announced

    def _open(self, line: bytes) -> Announced:
        try:
            envelope = _read(line)
        except ForgeryError as error:
            raise TransportError(f"an announcement of session keys is refused: {error}") from error
        client = self._clients.get(envelope.key_id)
        if client is None:
            raise TransportError(f"an announcement is signed with key {envelope.key_id[:16]}: not in the roster")
        try:
            keys = _signed(envelope, self._roster.clients[client])
        except ForgeryError as error:
            raise TransportError(f"an announcement of client {client} is refused: {error}") from error
        if keys.party != client_name(client):
            raise TransportError(f"client {client} announced keys as {keys.party!r}, and is {client_name(client)!r}")
        return Announced(client=client, keys=keys, digest=envelope.digest)


@lru_cache(maxsize=_REMEMBERED)
def _read(line: bytes) -> SignedEnvelope:
    """Return the envelope of a line; an error is not remembered.

    Raises:
        ForgeryError: as `SignedEnvelope.from_line`.
    """
    return SignedEnvelope.from_line(line)


@lru_cache(maxsize=_REMEMBERED)
def _signed(envelope: SignedEnvelope, public: PublicIdentity) -> SessionKeys:
    """Return what an identity announced with this very envelope; an error is not remembered.

    Raises:
        ForgeryError: as `SessionKeys.verify`.
    """
    return SessionKeys.verify(envelope, public)
