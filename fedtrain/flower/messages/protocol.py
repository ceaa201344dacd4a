"""The names that server and clients use in their messages."""

from collections.abc import Iterable
from hashlib import sha256

from flwr.app import ArrayRecord, ConfigRecord, Message

from fedtrain.flower.messages.records import c_ordered

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
WEIGHT = "num-examples"
LOSS = "train_loss"
WITHIN_CLIP = "within-clip"

ROUND = "server-round"
LEARNING_RATE = "learning-rate"
NOISE_MULTIPLIER = "noise-multiplier"
CLIP_NORM = "clip-norm"
PROXIMAL_MU = "proximal-mu"
RUN = "run"

CLIENT = "client"

LEDGER = "ledger"
KNOWN = "known"
KEY = "key"
ENTRIES = "entries"
STATEMENT = "statement"
NONCE = "nonce"

# In a message that asks for an update: that it is going to be masked.
SECAGG = "secagg"


def request_digest(arrays: ArrayRecord, config: ConfigRecord) -> str:
    """Return the SHA-256 of all that a client is sent: every setting, and names, dtypes, shapes and bytes of the model.

    Only what is the same in all of it is the same work: the noise of a round comes from its seed, so that a second
    update with the same noise and another learning rate would show what the noise hides.
    """
    digest = sha256(f"{sorted(config.items())}\n".encode())
    digest.update(bytes.fromhex(arrays_digest(arrays)))
    return digest.hexdigest()


def work_digest(request: str, *, config: str) -> str:
    """Return the SHA-256 of all that decides what the members of a sum send: a request, and the configuration.

    A member with another configuration may send what has no noise in it, or a share of the noise of another plan.

    Args:
        request: digest of the request.
        config: digest of the configuration that a member was given, which no message says.
    """
    return sha256(f"{request} {config}\n".encode()).hexdigest()


def request_digests(messages: Iterable[Message]) -> list[str]:
    """Return the digest of what each message asks for, which has one record of arrays.

    Messages share their records, and what is shared is read once.
    """
    found: dict[tuple[int, int | None], str] = {}
    digests = []
    for message in messages:
        arrays = next(iter(message.content.array_records.values()))
        config = message.content.config_records.get(CONFIG)
        key = (id(arrays), None if config is None else id(config))
        if key not in found:
            found[key] = request_digest(arrays, ConfigRecord() if config is None else config)
        digests.append(found[key])
    return digests


def arrays_digest(arrays: ArrayRecord) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values of arrays, whatever their order and layout in memory."""
    digest = sha256()
    for name, array in sorted(arrays.items()):
        data = c_ordered(array)
        digest.update(f"{name!r} {array.dtype} {tuple(array.shape)} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()
