"""Primitives: keys, signatures, encryption and the bytes that are signed. No secret leaves its file otherwise."""

from fedtrain.crypto.agreement import AgreementKey
from fedtrain.crypto.canonical import canonical, is_canonical
from fedtrain.crypto.derivation import derive
from fedtrain.crypto.envelope import SignedEnvelope
from fedtrain.crypto.identity import Identity, PublicIdentity
from fedtrain.crypto.maskstream import apply_mask
from fedtrain.crypto.onetime import decrypt_once, encrypt_once
from fedtrain.crypto.sealing import PublicSealingKey, SealingKey
from fedtrain.crypto.secrets import read_or_create_secret, read_secret

__all__ = [
    "AgreementKey",
    "Identity",
    "PublicIdentity",
    "PublicSealingKey",
    "SealingKey",
    "SignedEnvelope",
    "apply_mask",
    "canonical",
    "decrypt_once",
    "derive",
    "encrypt_once",
    "is_canonical",
    "read_or_create_secret",
    "read_secret",
]
