"""What this process has verified of ledgers, so that it verifies no line twice.

The very bytes are kept, and not a digest, a size or a time of the file: whoever changes a file can give it any size and
time. Nothing of this is written to a disk, and another process begins with nothing.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from fedtrain.crypto import Identity
from fedtrain.ledger.chain import Chain


@dataclass(kw_only=True)
class Known:
    """What was verified of a ledger.

    Attributes:
        lines: its lines, one after another. They only ever grow at their end.
        chain: what they say.
    """

    lines: bytearray = field(default_factory=bytearray)
    chain: Chain = field(default_factory=Chain)


class Memory:
    """What was verified of many ledgers. Those that were used longest ago are forgotten, and verified again."""

    def __init__(self, *, limit: int) -> None:
        """Begin with nothing.

        Args:
            limit: bytes of lines that are kept at most. What they say takes about three times as much.
        """
        self._limit = limit
        self._size = 0
        self._known: OrderedDict[tuple[Path, str], Known] = OrderedDict()

    def take(self, path: Path, identity: Identity) -> Known:
        """Give out what is known of a ledger, for whoever holds its lock: nobody else is given it meanwhile."""
        known = self._known.pop((path, identity.public.key_id), None)
        if known is None:
            return Known()
        self._size -= len(known.lines)
        return known

    def keep(self, path: Path, identity: Identity, known: Known) -> None:
        """Take back what is known of a ledger, or forget it if it is more than is kept."""
        self._known[path, identity.public.key_id] = known
        self._size += len(known.lines)
        while self._size > self._limit:
            _, forgotten = self._known.popitem(last=False)
            self._size -= len(forgotten.lines)
