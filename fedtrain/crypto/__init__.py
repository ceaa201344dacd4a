"""Primitives: keys, signatures, encryption and the bytes that are signed. No secret leaves its file otherwise."""

from fedtrain.crypto.asymmetric import AgreementKey, PublicSealingKey, SealingKey
from fedtrain.crypto.canonical import canonical, is_canonical
from fedtrain.crypto.envelope import SignedEnvelope
from fedtrain.crypto.identity import Identity, PublicIdentity
from fedtrain.crypto.secrets import read_or_create_secret, read_secret
from fedtrain.crypto.symmetric import (
    apply_mask,
    commit,
    decrypt_once,
    decrypt_parts,
    derive,
    encrypt_once,
    encrypt_parts,
    nonce_of,
)

__all__ = [
    "AgreementKey",
    "Identity",
    "PublicIdentity",
    "PublicSealingKey",
    "SealingKey",
    "SignedEnvelope",
    "apply_mask",
    "canonical",
    "commit",
    "decrypt_once",
    "decrypt_parts",
    "derive",
    "encrypt_once",
    "encrypt_parts",
    "is_canonical",
    "nonce_of",
    "read_or_create_secret",
    "read_secret",
]
