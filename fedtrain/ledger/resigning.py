"""A ledger's change of key: the same entries, signed by the client's new identity.

What was spent stays spent: each entry keeps its place, its content and its time, and only its link to the line before
and its signature are made anew. What the client has stated (`fedtrain.ledger.statement`) names no key, and is left as
it is. The ledger as it was signed before is kept apart, for auditors of the runs that saw it.
"""

from pathlib import Path

from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.errors import ForgeryError, LedgerError, StorageError
from fedtrain.files import write_atomic
from fedtrain.ledger.chain import EMPTY
from fedtrain.ledger.entry import PAYLOAD_TYPE, LedgerEntry
from fedtrain.ledger.log import Ledger

_PARTS = (".intent", ".stated", ".jsonl")


def datasets_of(folder: Path) -> tuple[str, ...]:
    """Return the data sets that a folder of ledgers knows, also those of which a crash left no more than an intent."""
    return tuple(sorted({path.stem for path in folder.glob("*") if path.suffix in _PARTS}))


def resign(folder: Path, dataset: str, *, old: Identity, new: Identity, retired: Path) -> None:
    """Sign the ledger of a data set with another identity, durably.

    A crash at any moment leaves a ledger of one of the two identities that is whole, and the same call finishes it.
    Where it was done, it changes nothing.

    Args:
        folder: where the client keeps its ledgers.
        dataset: the data set's digest.
        old: whose ledger it is.
        new: whose it is to be.
        retired: folder in which the files are kept as they were.

    Raises:
        LedgerError: the ledger is damaged, is of neither identity, or another process has it open.
        StorageError: it cannot be read or written.
    """
    if _signer(folder / f"{dataset}.jsonl") == new.public.key_id:
        with Ledger.open(folder, dataset=dataset, identity=new):
            return
    with Ledger.open(folder, dataset=dataset, identity=old) as ledger:
        _keep(folder, dataset, retired)
        if not ledger.entries:
            return
        lines = _lines(ledger.entries, new)
        # The intent first: it says which entry is the last, so that no older ledger of the new identity, if there ever
        # is one, passes for this. To the old identity it is a torn one, as before an append.
        write_atomic(folder / f"{dataset}.intent", lines[-1])
        write_atomic(folder / f"{dataset}.jsonl", b"".join(lines))


def _lines(entries: tuple[LedgerEntry, ...], identity: Identity) -> list[bytes]:
    lines, previous = [], EMPTY.digest
    for entry in entries:
        payload = entry.model_copy(update={"previous": previous}).encode()
        envelope = SignedEnvelope.sign(PAYLOAD_TYPE, payload, identity)
        lines.append(envelope.line())
        previous = envelope.digest
    return lines


def _signer(path: Path) -> str | None:
    """Return the id of the key that is said to have signed the first line; ``None`` if there is no line."""
    data = _read(path)
    if data is None or b"\n" not in data:
        return None
    try:
        return SignedEnvelope.from_line(data[: data.index(b"\n") + 1]).key_id
    except ForgeryError as error:
        raise LedgerError(f"{path}, line 1, is damaged: {error}; nothing was changed") from error


def _keep(folder: Path, dataset: str, retired: Path) -> None:
    lines = _read(folder / f"{dataset}.jsonl")
    # They are kept last. The intent may be one of the new identity by now.
    if lines is not None and lines == _read(retired / f"{dataset}.jsonl"):
        return
    for part in _PARTS:
        if (data := _read(folder / f"{dataset}{part}")) is not None:
            write_atomic(retired / f"{dataset}{part}", data)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
