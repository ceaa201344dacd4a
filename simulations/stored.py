"""Reports in little room: what can be computed from the rest of a report is left out, and the rest is compressed.

Most of a report are the entries of ledgers, signed one by one. Each names the digest of the one before it, and its text
is in base64, which compresses badly. `pack` writes the text as it is, and leaves out the digest; `unpack` puts both
back. Signatures are kept as they are, so that an audit of what `unpack` returns is an audit of the report.
"""

import json
import lzma
from collections.abc import Iterable
from typing import Any

from fedtrain.crypto.envelope import SignedEnvelope

_SIGNED = "signed"  # the key by which a packed envelope is known
_BEFORE = '"previous":"%s"'
_FOLLOWS = '"previous":"^"'


def pack(report: bytes) -> bytes:
    """Return a report in little room.

    Args:
        report: the bytes of ``report.json``.
    """
    text = json.dumps(_packed(json.loads(report)), separators=(",", ":"), ensure_ascii=False)
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def unpack(packed: bytes) -> bytes:
    """Return the report of packed bytes: the same JSON as before, byte for byte where it had no spaces.

    Raises:
        lzma.LZMAError: the bytes are no packed report.
        ValueError: likewise.
    """
    tree = _unpacked(json.loads(lzma.decompress(packed)))
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()


def _packed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if not _are_envelopes(value):
        return [_packed(item) for item in value]
    found, before = [], None
    for envelope in map(SignedEnvelope.from_json, value):
        text = envelope.payload.decode()
        if before is not None:
            text = text.replace(_BEFORE % before, _FOLLOWS)
        signature = envelope.signature.hex()
        found.append({_SIGNED: text, "type": envelope.payload_type, "key": envelope.key_id, "signature": signature})
        before = envelope.digest
    return found


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unpacked(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if not all(isinstance(item, dict) and _SIGNED in item for item in value):
        return [_unpacked(item) for item in value]
    found: list[dict[str, object]] = []
    before = ""
    for item in value:
        envelope = SignedEnvelope(
            payload_type=item["type"],
            payload=item[_SIGNED].replace(_FOLLOWS, _BEFORE % before).encode(),
            key_id=item["key"],
            signature=bytes.fromhex(item["signature"]),
        )
        found.append(envelope.as_json())
        before = envelope.digest
    return found


def _are_envelopes(values: Iterable[Any]) -> bool:
    return all(isinstance(item, dict) and {"payload", "payloadType", "signatures"} == item.keys() for item in values)
