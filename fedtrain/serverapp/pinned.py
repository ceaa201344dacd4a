"""The keys of a private run: pinned when it is opened, or one by one, where clients are asked when first drawn.

The second is for simulations on the local engine alone. There one process sends all messages and holds the folders of
all clients: it knows whom it has drawn, and who has spent anything before. A server whose clients are elsewhere knows
neither, and asks them all (docs/decisions/0059).
"""

from collections.abc import Mapping

from fedtrain.crypto import Identity, PublicIdentity
from fedtrain.errors import LedgerError
from fedtrain.ledger import ClientKey, Enrolled, FirstRecord, RunLog, enrolled_keys
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.trust import Roster


class PinnedKeys:
    """The keys that are pinned so far.

    Attributes:
        roster: they.
        when_drawn: whether clients are asked for theirs when they are first drawn.
    """

    def __init__(self, roster: Roster, *, when_drawn: bool = False) -> None:
        """Begin with some keys."""
        self.roster = roster
        self.when_drawn = when_drawn

    def enroll(self, keys: Mapping[int, PublicIdentity], log: RunLog) -> tuple[dict[int, PublicIdentity], list[int]]:
        """Pin further keys, durably, and return those that were, and the clients whose key is another's too.

        Raises:
            StorageError: the record cannot be written; then none is pinned.
        """
        holders = {self.roster.server.key, *(public.key for public in self.roster.clients.values())}
        new: dict[int, PublicIdentity] = {}
        for client, public in sorted(keys.items()):
            if public.key not in holders:
                holders.add(public.key)
                new[client] = public
        if new:
            log.append(Enrolled(keys=tuple(ClientKey(client=each, key=new[each].encode()) for each in sorted(new))))
            self.roster = Roster(server=self.roster.server, clients={**self.roster.clients, **new})
        return new, sorted(keys.keys() - new.keys())

    @classmethod
    def opened(cls, folder: RunFolder, identity: Identity, log: RunLog | None) -> "PinnedKeys":
        """Return the keys of a run whose clients are asked when they are first drawn: none yet, or those of its record.

        Raises:
            StorageError: the roster cannot be written.
        """
        roster = Roster(server=identity.public, clients=enrolled_keys(() if log is None else log.records))
        roster.write(folder.roster)
        return cls(roster, when_drawn=True)


def begun_when_drawn(first: FirstRecord, identity: Identity) -> bool:
    """Say whether a run was opened without any key of a client."""
    return first.roster == Roster(server=identity.public, clients={}).digest


def check_pinned(folder: RunFolder, identity: Identity, log: RunLog) -> None:
    """Refuse a run folder whose roster is not the one of its record.

    Where clients are asked when they are first drawn, it may be older than the record: it is written with each report.

    Raises:
        LedgerError: it is gone, or has other keys.
        KeyFileError: it cannot be read.
    """
    first, pinned = log.records[0], Roster.read(folder.roster) if folder.roster.exists() else None
    assert isinstance(first, FirstRecord)  # as the log verified
    if pinned is not None:
        if pinned.digest == first.roster:
            return
        known = enrolled_keys(log.records)
        older = pinned.server == identity.public and pinned.clients.items() <= known.items()
        if begun_when_drawn(first, identity) and older:
            return
    raise LedgerError(
        f"{folder.roster} is gone, or does not hold the keys that the run was opened with. Put it back, or begin "
        "another run"
    )
