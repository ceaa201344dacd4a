"""The names that server and clients use in their messages."""

from hashlib import sha256

from flwr.app import ArrayRecord, ConfigRecord

ARRAYS = "arrays"
CONFIG = "config"
WEIGHT = "num-examples"
LOSS = "train_loss"

ROUND = "server-round"
LEARNING_RATE = "learning-rate"
NOISE_MULTIPLIER = "noise-multiplier"
PROXIMAL_MU = "proximal-mu"
RUN = "run-digest"

CLIENT = "client"


def request_digest(arrays: ArrayRecord, config: ConfigRecord) -> str:
    """Return the SHA-256 of all that a client is sent: every setting, and names, dtypes, shapes and bytes of the model.

    Only what is the same in all of it is the same work: the noise of a round comes from its seed, so that a second
    update with the same noise and another learning rate would show what the noise hides.
    """
    digest = sha256(f"{sorted(config.items())}\n".encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape} {len(array.data)}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
