"""What a client has stated, on its own disk, so that its word still binds it after a restart."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedtrain.crypto import canonical
from fedtrain.errors import LedgerError, StorageError
from fedtrain.files import write_atomic
from fedtrain.ledger.payload import Number

_ROUNDS = TypeAdapter(dict[str, Number])


class Stated:
    """The round of the newest statement in each run: one JSON object from the ids of runs to rounds.

    Who uses it holds the lock of the ledger.

    Raises:
        LedgerError: the file is damaged.
        StorageError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._rounds = _ROUNDS.validate_json(path.read_bytes(), strict=True)
        except FileNotFoundError:
            self._rounds = {}
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        except ValidationError as error:
            raise LedgerError(
                f"{path}, which holds the rounds in which this client has stated that it did not train, is damaged; "
                "nothing was changed, and nothing is trained on this data set. Restore the file from a copy. Without "
                "one, remove it once no run that this data set has taken part in will go on"
            ) from error

    def round_of(self, run: str) -> int:
        """Return the round of the newest statement in a run; 0 if there is none."""
        return self._rounds.get(run, 0)

    def note(self, run: str, round_number: int) -> None:
        """Remember that a statement is made. When this returns, that survives a power failure.

        Raises:
            StorageError: it cannot be written.
        """
        if self._rounds.get(run) != round_number:
            rounds = self._rounds | {run: round_number}
            write_atomic(self._path, canonical(rounds) + b"\n")
            self._rounds = rounds
