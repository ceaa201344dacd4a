"""A client's signed statement of its ledger: its length, its budget, and the reason of a refusal if there is one.

What a client has stated it also keeps on its own disk, so that its word still binds it after a restart.
"""

from pathlib import Path
from typing import Annotated
from unicodedata import normalize

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from fedtrain.crypto import PublicIdentity, SignedEnvelope, canonical
from fedtrain.errors import LedgerError, StorageError
from fedtrain.files import write_atomic
from fedtrain.ledger.entry import Digest, Name, Number, Payload, Time, decode

PAYLOAD_TYPE = "application/vnd.fedtrain.ledger-statement.v1+json"
LONGEST_NAME = 100
"""Letters of the name that a site allows to be called by, at most."""

# Letters that take their place and show nothing.
_BLANK = frozenset("\N{HANGUL CHOSEONG FILLER}\N{HANGUL JUNGSEONG FILLER}\N{HANGUL FILLER}\N{BRAILLE PATTERN BLANK}")


def _visible(name: str) -> str:
    """Return a name that is written as it is seen: normalized (NFKC), printable, and without blank letters."""
    if not name.isprintable() or name != name.strip() or not _BLANK.isdisjoint(name):
        raise ValueError(f"{name!r} has letters that cannot be seen, or a space at an end")
    if (usual := normalize("NFKC", name)) != name:
        raise ValueError(f"{name!r} has letters in an unusual form; write {usual!r}")
    return name


CalledBy = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_visible)]
"""What a site allows to be called by in reports."""

_ROUNDS = TypeAdapter(dict[str, Number])


class Statement(Payload):
    """What a client says of its ledger at a round of a run.

    Attributes:
        run: id of the run.
        round: the round in which it was asked.
        dataset: keyed digest of the data set's content.
        sequence: number of entries of the ledger.
        head: digest of the last line; 64 zeros if there is none.
        epsilon: the budget that the client enforces for this data set, over all runs.
        delta: the delta of that budget.
        refusal: why the client does not train; ``None`` if it does not refuse.
        time: when it was signed, in UTC, by the client's clock; the day alone in a run with secret cohorts, since how
            long a run took tells how many trained in it.
        name: what the client allows to be called by in reports; ``None``, and left out of what is signed, where it
            allows no name. Nobody but the client can say it, and nobody verifies that it is true.
    """

    run: Name
    round: Number
    dataset: Digest
    sequence: Number
    head: Digest
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    refusal: str | None
    time: Time
    name: CalledBy | None = Field(None, exclude_if=lambda name: name is None)

    def covers(self, count: int, head: str) -> bool:
        """Say whether a ledger is all there is, by its number of entries and the digest of its last line."""
        return (self.sequence, self.head) == (count, head)


_STATEMENT = TypeAdapter(Statement)


def read_statement(envelope: SignedEnvelope, public: PublicIdentity) -> Statement:
    """Return the statement that a client signed.

    Raises:
        ForgeryError: another key, another type, a signature that does not hold, or a malformed statement.
    """
    return decode(_STATEMENT, envelope.verify(public, PAYLOAD_TYPE))


class StatedRounds:
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

        Nothing is written of a first statement before any round: it binds the client to nothing.

        Raises:
            StorageError: it cannot be written.
        """
        if self.round_of(run) != round_number:
            rounds = self._rounds | {run: round_number}
            write_atomic(self._path, canonical(rounds) + b"\n")
            self._rounds = rounds
