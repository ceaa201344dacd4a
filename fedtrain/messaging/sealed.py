"""One message, signed by its sender and encrypted for one recipient.

A message has a header that all can read, a body that may go to many recipients (the model), and a part that is the
recipient's own. The body is encrypted once, under a fresh key (`Body`); the own part, the body's key and the digest of
its ciphertext are signed with the sender's identity and then sealed to the recipient's key. So n recipients cost one
pass over the model and n small seals.

The rules:
- What the header says is bound twice: it is part of what is signed, and the context of the seal. The receiver does not
  believe a header, it says which one it expects.
  - ``run`` and ``session``: a message of another run, or from before a restart of the server, is none of this session.
  - ``config``: both sides run with the same configuration, so the same clipping, noise and minimum cohort.
  - ``phase`` and ``round``: an answer to one question is not taken for the answer to another.
  - ``direction``, ``sender`` and ``recipient``: a message is not sent back to who wrote it, nor passed on to a third.
  - ``sequence``: a replay. Each message of a server has a higher number than those before it, and a client takes none
    that is not higher than the last (`fedtrain.messaging.NodeSessions.advance`); an answer has the number of what it
    answers, of which the server takes one.
- The signature is over the header and SHA-256 of the own part, the key and the body's digest: it says who wrote them.
- The digest of the body's ciphertext is signed: a recipient, who knows the body's key, could make another body that
  decrypts under it, but not one that another recipient accepts.
- The identity key signs; the sealing key, of one session, opens; the body key encrypts one body. None does anything
  else.
- It is opened in this order: the seal, the signature by the pinned identity, the digest of the body, the body. Nothing
  is returned unless all hold. A body that lies elsewhere is read once: what is hashed is what is decrypted.
"""

import hmac
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Literal, Protocol, Self

from fedtrain.crypto import (
    Identity,
    PublicIdentity,
    PublicSealingKey,
    SealingKey,
    canonical,
    decrypt_parts,
    encrypt_parts,
)
from fedtrain.crypto.asymmetric import OVERHEAD_BYTES
from fedtrain.crypto.envelope import pre_authentication
from fedtrain.crypto.symmetric import KEY_BYTES, TAG_BYTES
from fedtrain.errors import TransportError
from fedtrain.messaging.codec import LARGEST

SCHEMA = "fedtrain.sealed/1"

_LONGEST_TEXT = 200
_LARGEST_NUMBER = 2**53 - 1
_LARGEST = 8192
_DIRECTIONS = ("to client", "to server")
PAYLOAD_TYPE = "application/vnd.fedtrain.sealed.v1"
_BODY = b"fedtrain body v1"
_SIGNATURE_BYTES = 64
_DIGEST_BYTES = 32
_FIXED_BYTES = _SIGNATURE_BYTES + KEY_BYTES + _DIGEST_BYTES
_LARGEST_OWN = 2**27
_PART = 2**20  # bytes of a body that are hashed and then decrypted, while a processor's cache has them


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a message is bound to; the rules above say why. It is no secret.

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


class InParts(Protocol):
    """Bytes that lie elsewhere, as in a file, and are read in parts."""

    def __len__(self) -> int:
        """Return how many they are."""
        ...

    def parts(self) -> Iterator[bytes]:
        """Read them, one part after the other."""
        ...


Ciphertext = bytes | memoryview | InParts
"""The body of a message as it came."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """The part of a message that several recipients share, encrypted.

    Attributes:
        key: 32 bytes that opened nothing else, and open this for anyone who has them.
        ciphertext: what is sent.
        digest: SHA-256 of the ciphertext.
    """

    key: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)
    digest: bytes

    @classmethod
    def encrypt(
        cls, content: bytes | Sequence[bytes | memoryview], *, random: Callable[[int], bytes] = os.urandom
    ) -> Self:
        """Encrypt a content under a fresh key.

        Args:
            content: at most `LARGEST` bytes, whole or in parts.
            random: returns that many secret bytes that were never used.

        Raises:
            TransportError: the content is too large.
        """
        parts = [content] if isinstance(content, bytes) else content
        if (length := sum(map(len, parts))) > LARGEST:
            raise TransportError(f"the body of a message has {length} bytes, and {LARGEST} are allowed")
        key = random(KEY_BYTES)
        ciphertext = encrypt_parts(key, parts, _BODY)
        return cls(key=key, ciphertext=ciphertext, digest=sha256(ciphertext).digest())


def seal(header: Header, *, body: Body, own: bytes, identity: Identity, recipient: PublicSealingKey) -> bytes:
    """Return what lets one recipient, and nobody else, open a body, and its own part.

    Args:
        header: what the message is bound to.
        body: the part that recipients share.
        own: the recipient's own part, at most 128 MiB.
        identity: the sender's.
        recipient: the recipient's key for this session, known to be its own.

    Raises:
        TransportError: the own part is too large.
    """
    if len(own) > _LARGEST_OWN:
        raise TransportError(f"the recipient's own part has {len(own)} bytes, and {_LARGEST_OWN} are allowed")
    inner = body.key + body.digest + own
    bound = header.encode()
    return recipient.seal(identity.sign(_signed(bound, inner)) + inner, bound)


def open_sealed(
    sealed: bytes, ciphertext: Ciphertext, *, header: Header, key: SealingKey, sender: PublicIdentity
) -> tuple[bytes, memoryview]:
    """Return the recipient's own part and the content of the body.

    Args:
        sealed: what ``seal`` returned.
        ciphertext: the body's.
        header: what the message has to be bound to.
        key: the recipient's, of this session.
        sender: the pinned identity of the sender.

    Raises:
        TransportError: the message is not that of this sender on this occasion, or was changed; the reason names
            sender, round and phase.
    """
    try:
        return _opened(sealed, ciphertext, header.encode(), key, sender)
    except TransportError as error:
        raise TransportError(
            f"the message of {header.sender} in round {header.round} ({header.phase}) is refused: {error}"
        ) from error


def _opened(
    sealed: bytes, ciphertext: Ciphertext, bound: bytes, key: SealingKey, sender: PublicIdentity
) -> tuple[bytes, memoryview]:
    if len(sealed) > OVERHEAD_BYTES + _FIXED_BYTES + _LARGEST_OWN or len(ciphertext) > LARGEST + TAG_BYTES:
        raise TransportError(f"it is larger than any message: {len(sealed)} and {len(ciphertext)} bytes")
    opened = key.open(sealed, bound)
    if len(opened) < _FIXED_BYTES:
        raise TransportError("it is shorter than any message")
    signature, inner = opened[:_SIGNATURE_BYTES], opened[_SIGNATURE_BYTES:]
    if not sender.signed(_signed(bound, inner), signature):
        raise TransportError(f"the signature is not that of its pinned key {sender.key_id[:16]}")
    body_key, rest = inner[:KEY_BYTES], inner[KEY_BYTES:]
    digest, own = rest[:_DIGEST_BYTES], rest[_DIGEST_BYTES:]
    return own, _body(body_key, ciphertext, digest)


def _body(key: bytes, ciphertext: Ciphertext, signed: bytes) -> memoryview:
    """Decrypt a body, of which the digest was signed."""
    digest = sha256()

    def hashed() -> Iterator[bytes | memoryview]:
        for part in _parts(ciphertext):
            digest.update(part)
            yield part

    def check() -> None:
        if not hmac.compare_digest(digest.digest(), signed):
            raise TransportError("its body is not the one that was signed")

    return decrypt_parts(key, hashed(), len(ciphertext), _BODY, check=check)


def _parts(ciphertext: Ciphertext) -> Iterator[bytes | memoryview]:
    if not isinstance(ciphertext, bytes | memoryview):
        yield from ciphertext.parts()
        return
    for start in range(0, len(ciphertext), _PART):
        yield memoryview(ciphertext)[start : start + _PART]


def _signed(bound: bytes, inner: bytes) -> bytes:
    return pre_authentication(PAYLOAD_TYPE, sha256(inner).digest() + bound)
