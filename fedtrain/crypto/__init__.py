"""Keys, signatures, encryption and the bytes that are signed. No secret leaves its file but through this package."""

from fedtrain.crypto.agreement import AgreementKey
from fedtrain.crypto.canonical import canonical, is_canonical
from fedtrain.crypto.commitment import commit, nonce_of
from fedtrain.crypto.derivation import derive
from fedtrain.crypto.envelope import SignedEnvelope
from fedtrain.crypto.identity import Identity, PublicIdentity
from fedtrain.crypto.maskstream import apply_mask
from fedtrain.crypto.membership import Membership
from fedtrain.crypto.onetime import decrypt_once, encrypt_once
from fedtrain.crypto.roster import Roster
from fedtrain.crypto.sealing import PublicSealingKey, SealingKey
from fedtrain.crypto.secrets import read_or_create_secret, read_secret
from fedtrain.crypto.session import SERVER, SessionKeys, SessionSecrets, client_name

__all__ = [
    "SERVER",
    "AgreementKey",
    "Identity",
    "Membership",
    "PublicIdentity",
    "PublicSealingKey",
    "Roster",
    "SealingKey",
    "SessionKeys",
    "SessionSecrets",
    "SignedEnvelope",
    "apply_mask",
    "canonical",
    "client_name",
    "commit",
    "decrypt_once",
    "derive",
    "encrypt_once",
    "is_canonical",
    "nonce_of",
    "read_or_create_secret",
    "read_secret",
]
