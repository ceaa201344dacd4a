"""The names that server and clients use in their messages."""

from hashlib import sha256

from flwr.app import ArrayRecord

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


def model_digest(arrays: ArrayRecord) -> str:
    """Return the SHA-256 of a model as sent: names, dtypes, shapes and bytes, in order."""
    digest = sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape} {len(array.data)}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
