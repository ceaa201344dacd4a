"""What every key and secret of a round is bound to, so that none of them means anything elsewhere."""

from collections.abc import Sequence
from hashlib import sha256

from fedtrain.crypto import canonical
from fedtrain.secagg.parameters import Parameters

SEED_BYTES = 32
"""Of a self-mask."""

PAIR_BYTES = 16
"""Of the mask of a pair. It is split by both ends and decides the traffic; 128 bits are as strong as X25519."""

DIGEST_BYTES = 32

_COMMITMENT = b"fedtrain secagg commitment v1\n"


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
