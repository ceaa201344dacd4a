"""A node's request to be admitted: its public keys, signed with both private ones, which never leave the node."""

import base64
import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedtrain.crypto import Identity, PublicIdentity, SignedEnvelope, canonical, read_or_create_secret, read_secret
from fedtrain.errors import ForgeryError, KeyFileError, SiteError, StorageError
from fedtrain.machines.folders import NodeFolder
from fedtrain.trust.membership import NAME

PAYLOAD_TYPE = "application/vnd.fedtrain.admission-request.v1+json"

_CURVE = ec.SECP384R1
_LARGEST = 64 * 1024  # bytes


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a node asks to be admitted with.

    Attributes:
        federation: id of the federation.
        name: the node's name.
        client: its number.
        identity: the key that signs its ledgers and its keys of sessions.
        supernode: the key with which its SuperNode authenticates, as OpenSSH writes it.
    """

    federation: str
    name: str
    client: int
    identity: PublicIdentity
    supernode: str

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of both keys, in groups that can be read out: 32 hexadecimal digits."""
        digest = sha256(f"{self.identity.encode()} {self.supernode}".encode()).hexdigest()[:32]
        return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))

    def sign(self, identity: Identity, supernode: ec.EllipticCurvePrivateKey) -> SignedEnvelope:
        """Sign it with both private keys: the SuperNode's inside, the identity's around it."""
        signature = supernode.sign(self._signed(), ec.ECDSA(hashes.SHA256()))
        value = self._as_json() | {"signature": base64.b64encode(signature).decode()}
        return SignedEnvelope.sign(PAYLOAD_TYPE, canonical(value), identity)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Return the request in a file, if both of its private keys signed it.

        Raises:
            ForgeryError: it is no request, or was not signed with both keys.
        """
        envelope = SignedEnvelope.from_line(data)
        try:
            value = json.loads(envelope.payload)
            request = cls(
                federation=str(value["federation"]),
                name=str(value["name"]),
                client=_whole(value["client"]),
                identity=PublicIdentity.decode(str(value["identity"])),
                supernode=str(value["supernode"]),
            )
            envelope.verify(request.identity, PAYLOAD_TYPE)
            # The name is printed, and becomes that of a file.
            if envelope.payload != canonical(request._as_json() | {"signature": value["signature"]}):
                raise ForgeryError("the request is not in its only form")
            if not NAME.fullmatch(request.name):
                raise ForgeryError(f"{request.name!r} is not a name of a node")
            public = _supernode_public(request.supernode)
            signature = base64.b64decode(str(value["signature"]), validate=True)
            public.verify(signature, request._signed(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise ForgeryError("the request is not signed with the key of its SuperNode") from error
        except (ValueError, KeyError, TypeError, RecursionError, UnsupportedAlgorithm) as error:
            raise ForgeryError(f"the request cannot be read: {error}") from error
        return request

    def _signed(self) -> bytes:
        return canonical(self._as_json())

    def _as_json(self) -> dict[str, object]:
        return {
            "client": self.client,
            "federation": self.federation,
            "identity": self.identity.encode(),
            "name": self.name,
            "supernode": self.supernode,
        }


def make_keys(node: NodeFolder) -> Request:
    """Make a node's keys, where there are none, in its folder that others cannot enter, and write its request.

    Raises:
        KeyFileError: a key file cannot be used; or the identity is gone, with which the ledgers here are signed.
        SiteError: a change of keys was interrupted.
        StorageError: a file cannot be written.
    """
    node.refuse_rotation()
    if not node.identity.exists() and any((node.path / "ledgers").glob("*.jsonl")):
        raise KeyFileError(
            f"{node.identity} is gone, and the ledgers in {node.path / 'ledgers'} are signed with it: put it back from "
            "a backup; or, if earlier charges do not matter, move the ledgers away"
        )
    try:
        # The kit becomes the place of secret keys.
        node.path.chmod(0o700)
    except OSError as error:
        raise StorageError(f"cannot keep others out of {node.path}: {error.strerror or error}") from error
    identity = Identity.load_or_create(node.identity)
    private = _supernode_private(node.supernode_key, read_or_create_secret(node.supernode_key, _new_supernode_key))
    request = Request(
        federation=node.federation.id,
        name=node.name,
        client=node.client,
        identity=identity.public,
        supernode=_line(private.public_key()),
    )
    node.write_request(request.sign(identity, private))
    return request


def supernode_public(node: NodeFolder) -> str:
    """Return the public half of the key with which a node's SuperNode authenticates, as OpenSSH writes it.

    Raises:
        KeyFileError: the key file cannot be used.
    """
    return _line(_supernode_private(node.supernode_key, read_secret(node.supernode_key)).public_key())


def read_request(path: Path) -> Request:
    """Read a request.

    Raises:
        SiteError: the file cannot be read, or holds no request, or one that was not signed with both keys.
    """
    try:
        if path.exists() and not path.is_file():
            raise SiteError(f"{path} is no file: a request is the request.json that fedtrain client init writes")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise SiteError(f"{path} is larger than any request: ask the site for its request.json again")
        return Request.read(data)
    except OSError as error:
        raise SiteError(f"cannot read the request {path}: {error.strerror or error}") from error
    except ForgeryError as error:
        raise SiteError(f"{path} cannot be used: {error}; ask the site for its request.json again") from error


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a client's number is whole, and not {value!r}")
    return value


def _new_supernode_key() -> bytes:
    return ec.generate_private_key(_CURVE()).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _supernode_private(path: Path, data: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_ssh_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"the key file {path} holds no private key as OpenSSH writes it: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVE):
        raise KeyFileError(f"the key file {path} holds another kind of key; it must be one on the curve P-384")
    return key


def _supernode_public(line: str) -> ec.EllipticCurvePublicKey:
    key = load_ssh_public_key(line.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVE) or _line(key) != line:
        raise ValueError("the key of its SuperNode is not one on the curve P-384, as OpenSSH writes it")
    return key


def _line(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
