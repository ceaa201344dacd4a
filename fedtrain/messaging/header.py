"""What a message is bound to. It is no secret."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, Self

from fedtrain.crypto import canonical
from fedtrain.errors import TransportError

SCHEMA = "fedtrain.sealed/1"

_LONGEST_TEXT = 200
_LARGEST_NUMBER = 2**53 - 1
_LARGEST = 8192
_DIRECTIONS = ("to client", "to server")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a message is bound to; `fedtrain.messaging.sealed` says why.

    Attributes:
        run: id of the run.
        session: id of the session.
        config: digest of the configuration.
        phase: Flower's type of the message.
        round: the round that it is about; 0 if it is about none.
        direction: who sends: ``to client`` or ``to server``.
        sender: ``SERVER`` or the ``client_name`` of a client.
        recipient: the same.
        sequence: the number of the message, and of its answer, in the session.

    Raises:
        TransportError: a text is empty, longer than 200 letters or cannot be printed, or a number is negative or
            larger than 2**53 - 1.
    """

    run: str
    session: str
    config: str
    phase: str
    round: int
    direction: Literal["to client", "to server"]
    sender: str
    recipient: str
    sequence: int

    def __post_init__(self) -> None:
        for name in ("run", "session", "config", "phase", "sender", "recipient"):
            text = getattr(self, name)
            # What can be printed can be part of an error, and of a line of a log.
            if not (isinstance(text, str) and 0 < len(text) <= _LONGEST_TEXT and text.isprintable()):
                raise TransportError(f"{name} in a header is no printable text of at most {_LONGEST_TEXT} letters")
        for name in ("round", "sequence"):
            number = getattr(self, name)
            if type(number) is not int or not 0 <= number <= _LARGEST_NUMBER:
                raise TransportError(f"{name} in a header is no whole number from 0 to {_LARGEST_NUMBER}")
        if self.direction not in _DIRECTIONS:
            raise TransportError(f"direction in a header is none of {', '.join(_DIRECTIONS)}")

    def encode(self) -> bytes:
        """Return it as canonical JSON (RFC 8785)."""
        return canonical({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the header that ``encode`` wrote.

        Raises:
            TransportError: the bytes are anything else.
        """
        if len(data) > _LARGEST:
            raise TransportError(f"a header has {len(data)} bytes, and {_LARGEST} are allowed")
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise TransportError(f"a header is not JSON: {error}") from error
        names = {"schema", *cls.__dataclass_fields__}
        if not (isinstance(value, dict) and value.keys() == names):
            raise TransportError(f"a header is no object of {', '.join(sorted(names))}")
        if (schema := value.pop("schema")) != SCHEMA:
            raise TransportError(f"a header is of version {schema!r:.100}, and {SCHEMA!r} is expected")
        header = cls(**value)
        if header.encode() != data:
            raise TransportError("a header is not in canonical form (RFC 8785)")
        return header
