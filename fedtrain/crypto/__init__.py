"""Keys, signatures and the bytes that are signed. No secret leaves its file but through this package."""

from fedtrain.crypto.canonical import canonical, is_canonical
from fedtrain.crypto.commitment import commit, nonce_of
from fedtrain.crypto.envelope import SignedEnvelope
from fedtrain.crypto.identity import Identity, PublicIdentity
from fedtrain.crypto.roster import Roster
from fedtrain.crypto.secrets import read_or_create_secret

__all__ = [
    "Identity",
    "PublicIdentity",
    "Roster",
    "SignedEnvelope",
    "canonical",
    "commit",
    "is_canonical",
    "nonce_of",
    "read_or_create_secret",
]
