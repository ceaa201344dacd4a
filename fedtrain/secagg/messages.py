"""The messages of a round, and their fields: flat, of plain types, each read within bounds before anything is made.

They are to travel signed and sealed (`fedtrain.messaging`): nothing here says who sent a message. Every key and secret
of a round is bound to its binding, so that none of them means anything elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedtrain.crypto import canonical
from fedtrain.crypto.symmetric import TAG_BYTES
from fedtrain.errors import TransportError
from fedtrain.secagg.fields import Reader, Value
from fedtrain.secagg.parameters import MOST_MEMBERS, Parameters
from fedtrain.secagg.shamir import MOST_HOLDERS

SEED_BYTES = 32
"""Of a self-mask."""

PAIR_BYTES = 16
"""Of the mask of a pair. It is split by both ends and decides the traffic; 128 bits are as strong as X25519."""

DIGEST_BYTES = 32

_COMMITMENT = b"fedtrain secagg commitment v1\n"
_LONGEST_ANNOUNCEMENT = 8192
_MOST_PAIRS = MOST_HOLDERS - 1


def binding_of(
    *, run: str, session: str, number: int, parameters: Parameters, work: str, announcements: Sequence[str]
) -> str:
    """Return the hex SHA-256 that stands for a round: all its members hold the same, or nothing they make fits.

    Args:
        run: id of the run.
        session: id of the session.
        number: of the round.
        parameters: of the round.
        work: hex SHA-256 of all that the members are asked to do.
        announcements: digests of the announcements of the cohort, in order of client.
    """
    named = ["fedtrain secagg round v1", run, session, number, parameters.to_fields(), work, list(announcements)]
    return sha256(canonical(named)).hexdigest()


def order_seed(*, run: str, session: str, number: int, announcements: Sequence[str]) -> bytes:
    """Return the 32 bytes that decide who is whose neighbour.

    Parameters and work, which can be varied at will, have no say. The session and the round have, and a server that
    does not follow the protocol can try several (`fedtrain.secagg.graph`).
    """
    return sha256(canonical(["fedtrain secagg order v1", run, session, number, list(announcements)])).digest()


def commitment(binding: str, owner: int, peer: int, secret: bytes) -> bytes:
    """Return the 32 bytes by which a secret that was put together from shares is known to be right.

    Args:
        binding: of the round.
        owner: the client that split it.
        peer: the client that it makes a mask with; the owner for its self-mask.
        secret: random bytes that cannot be guessed, so that their hash says nothing about them.
    """
    return sha256(_COMMITMENT + bytes.fromhex(binding) + b"%d %d\n" % (owner, peer) + secret).digest()


def bundle_bytes(neighbours: int) -> int:
    """Return the length of an encrypted bundle: a share of each secret of a client, and a tag."""
    return SEED_BYTES + PAIR_BYTES * neighbours + TAG_BYTES


@dataclass(frozen=True, kw_only=True)
class MaskRequest:
    """Exchange 1, the same to each client of a cohort: take part in a round.

    Attributes:
        round: its number, larger than those before it in the session.
        parameters: of the round.
        work: hex SHA-256 of all that the members are asked to do (model, settings, and the configuration that each was
            given). The receiver of the request compares it with the digest of what came with it: members that are asked
            for other work have other masks.
        announcements: lines of the envelopes in which the cohort announced its session keys, in order of client.
    """

    round: int
    parameters: Parameters
    work: str
    announcements: tuple[bytes, ...]

    def to_fields(self) -> dict[str, Value]:
        """Return the fields of the message."""
        return {
            **self.parameters.to_fields(),
            "round": self.round,
            "work": self.work,
            "announcements": list(self.announcements),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Self:
        """Return the message that ``to_fields`` wrote.

        Raises:
            TransportError: the fields are others, or the parameters are not safe.
        """
        reader = Reader("the request for a masked vector", fields)
        number, work = reader.whole("round"), reader.hexadecimal("work", DIGEST_BYTES)
        announcements = reader.all_data("announcements", MOST_MEMBERS, _LONGEST_ANNOUNCEMENT)
        parameters = Parameters.from_fields(reader.rest())
        return cls(round=number, parameters=parameters, work=work, announcements=announcements)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedVector:
    """The answer to it.

    Attributes:
        words: uint8, shape (length * width,): the low bytes of the words of the masked vector, lowest first.
        bundles: for each holder of the client's secrets, in order, its shares, encrypted to it.
        commitments: 32 bytes for the self-mask and for each neighbour in order.
    """

    words: NDArray[np.uint8]
    bundles: tuple[bytes, ...]
    commitments: bytes

    def to_fields(self) -> dict[str, Value]:
        """Return the fields of the message without the words, which travel beside them as an array."""
        return {"bundles": list(self.bundles), "commitments": self.commitments}

    @classmethod
    def from_fields(cls, fields: Mapping[str, object], words: object) -> Self:
        """Return the message that ``to_fields`` wrote.

        Raises:
            TransportError: the fields are others, or the words are not bytes in an array of one dimension.
        """
        reader = Reader("the masked vector", fields)
        bundles = reader.all_data("bundles", MOST_HOLDERS, bundle_bytes(_MOST_PAIRS))
        commitments = reader.data("commitments", DIGEST_BYTES * MOST_HOLDERS)
        reader.end()
        if not isinstance(words, np.ndarray) or words.dtype != np.uint8 or words.ndim != 1:
            raise TransportError("the masked vector cannot be used: its words are not uint8 of one dimension")
        return cls(words=words, bundles=bundles, commitments=commitments)


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest:
    """Exchange 2, to each client whose masked vector arrived: help to take off what does not cancel.

    Attributes:
        round: its number.
        binding: hex SHA-256 that stands for the round.
        survivors: clients whose vectors were added up, in order.
        dropped: the other clients of the cohort, in order.
        bundles: for each survivor of whose secrets the client is a holder, in order, the bundle addressed to it.
    """

    round: int
    binding: str
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    bundles: tuple[bytes, ...]

    def to_fields(self) -> dict[str, Value]:
        """Return the fields of the message."""
        return {
            "round": self.round,
            "binding": self.binding,
            "survivors": list(self.survivors),
            "dropped": list(self.dropped),
            "bundles": list(self.bundles),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Self:
        """Return the message that ``to_fields`` wrote.

        Raises:
            TransportError: the fields are others.
        """
        reader = Reader("the request for shares", fields)
        message = cls(
            round=reader.whole("round"),
            binding=reader.hexadecimal("binding", DIGEST_BYTES),
            survivors=reader.clients("survivors", MOST_MEMBERS),
            dropped=reader.clients("dropped", MOST_MEMBERS),
            bundles=reader.all_data("bundles", MOST_HOLDERS, bundle_bytes(_MOST_PAIRS)),
        )
        reader.end()
        return message


@dataclass(frozen=True, kw_only=True)
class UnmaskedShares:
    """The answer to it. What it prints as shows no share.

    Attributes:
        own: for each survivor that the client is a holder of and whose bundle it could open, in order, 32 bytes: its
            share of the self-mask.
        pairs: for each of those survivors, and each of its neighbours that dropped out, in order, 16 bytes: the share
            of the mask of the two.
        unreadable: the survivors whose bundles did not open, in order: the client has no shares of theirs.
    """

    own: bytes = field(repr=False)
    pairs: bytes = field(repr=False)
    unreadable: tuple[int, ...]

    def to_fields(self) -> dict[str, Value]:
        """Return the fields of the message."""
        return {"own": self.own, "pairs": self.pairs, "unreadable": list(self.unreadable)}

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Self:
        """Return the message that ``to_fields`` wrote.

        Raises:
            TransportError: the fields are others.
        """
        reader = Reader("the shares", fields)
        own = reader.data("own", SEED_BYTES * MOST_HOLDERS)
        pairs = reader.data("pairs", PAIR_BYTES * MOST_HOLDERS * _MOST_PAIRS)
        unreadable = reader.clients("unreadable", MOST_HOLDERS)
        reader.end()
        return cls(own=own, pairs=pairs, unreadable=unreadable)
