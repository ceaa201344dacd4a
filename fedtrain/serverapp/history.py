"""The history of a run in a file of its own, which grows by a line for each round and each evaluation.

A checkpoint would grow with the rounds if it held the history, and be written whole after each of them. It holds a mark
instead: how many lines are the history of its state, and the digest that they end with. Lines beyond the mark are of
rounds whose checkpoint was not written; they count as absent, and the next checkpoint cuts them off.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from pydantic import ValidationError

from fedtrain.errors import StorageError
from fedtrain.report import Evaluation, RoundEntry
from fedtrain.report.evaluation import slim


class HistoryError(StorageError):
    """The history is not the one that a checkpoint goes by."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where the history of a state ends.

    Attributes:
        evaluations: how many it has.
        rounds: how many it has.
        length: its bytes in the file.
        digest: SHA-256 of the digest before the last line and of that line, in hexadecimal; empty without a line.
    """

    evaluations: int = 0
    rounds: int = 0
    length: int = 0
    digest: str = ""


def lines_after(
    mark: Mark, evaluations: tuple[Evaluation, ...], round_log: tuple[RoundEntry, ...]
) -> tuple[bytes, Mark]:
    """Return the lines that follow a mark in the file, and the mark after them.

    Evaluations are as all of a history are kept (`fedtrain.report.evaluation.slim`).
    """
    new = [
        *({"evaluation": slim(each).model_dump(mode="json")} for each in evaluations[mark.evaluations :]),
        *({"round": each.model_dump(mode="json")} for each in round_log[mark.rounds :]),
    ]
    lines = [json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n" for record in new]
    digest = mark.digest
    for line in lines:
        digest = _chained(digest, line)
    added = b"".join(lines)
    return added, Mark(
        evaluations=len(evaluations), rounds=len(round_log), length=mark.length + len(added), digest=digest
    )


def read_history(data: bytes, mark: Mark) -> tuple[tuple[Evaluation, ...], tuple[RoundEntry, ...]]:
    """Return the evaluations and the rounds up to a mark.

    Args:
        data: the file, which may go on beyond the mark.
        mark: where to stop.

    Raises:
        HistoryError: the file ends before the mark, or holds something else.
    """
    if len(data) < mark.length:
        raise HistoryError(f"the history has {len(data)} bytes, and the checkpoint is of one with {mark.length}")
    digest, evaluations, rounds = "", [], []
    try:
        for line in _lines(data[: mark.length]):
            digest = _chained(digest, line)
            match json.loads(line):
                case {"evaluation": found}:
                    evaluations.append(Evaluation.model_validate_json(json.dumps(found)))
                case {"round": found}:
                    rounds.append(RoundEntry.model_validate_json(json.dumps(found)))
    except (ValueError, ValidationError) as error:
        raise HistoryError(f"the history cannot be read: {error}") from error
    if (len(evaluations), len(rounds), digest) != (mark.evaluations, mark.rounds, mark.digest):
        raise HistoryError("the history has changed since the checkpoint was written")
    return tuple(evaluations), tuple(rounds)


def _lines(data: bytes) -> Iterator[bytes]:
    return (line + b"\n" for line in data.split(b"\n")[:-1])


def _chained(digest: str, line: bytes) -> str:
    return sha256(digest.encode() + line).hexdigest()
