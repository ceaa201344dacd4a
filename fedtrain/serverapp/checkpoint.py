"""Where a run stands: what a checkpoint holds."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedtrain.errors import StorageError
from fedtrain.report import Evaluation, RoundEntry
from fedtrain.report.evaluation import slim
from fedtrain.serverapp.history import Mark, read_history

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

Arrays = dict[str, NDArray[np.generic]]

_FORMAT, _BEFORE = "fedtrain.checkpoint/3", "fedtrain.checkpoint/2"
_EVALUATIONS = TypeAdapter(tuple[Evaluation, ...])
_ROUNDS = TypeAdapter(tuple[RoundEntry, ...])


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run after a round.

    Attributes:
        round_number: rounds completed.
        model: the global model, by the names of its state dict.
        strategy: what the strategy remembers.
        evaluations: every central evaluation so far; the last and the best are whole, the others without matrices.
        round_log: every round so far.
        clip_norm: the clipping norm of the next round; 0 without privacy.
        seconds: time spent so far.
        mark: how much of evaluations and rounds is in the file of the history.
    """

    round_number: int
    model: Arrays
    strategy: Arrays
    evaluations: tuple[Evaluation, ...]
    round_log: tuple[RoundEntry, ...]
    clip_norm: float
    seconds: float
    mark: Mark = field(default_factory=Mark)

    def encode(self) -> bytes:
        """Return the checkpoint: safetensors, with everything that is not an array as JSON in its metadata.

        Of the history it has the mark, and what the file of the history does not have: of the evaluations that are
        whole, what is measured of each class. Its size does not grow with the rounds.
        """
        tensors = {f"model/{name}": value for name, value in self.model.items()}
        tensors |= {f"strategy/{name}": value for name, value in self.strategy.items()}
        whole = [evaluation for evaluation in self.evaluations if slim(evaluation) is not evaluation]
        for evaluation in whole:
            if evaluation.confusion is not None:
                tensors[f"confusion/{evaluation.round}"] = np.asarray(evaluation.confusion, dtype=np.int64)
        without = tuple(evaluation.model_copy(update={"confusion": None}) for evaluation in whole)
        facts = {
            "format": _FORMAT,
            "round": str(self.round_number),
            "order": json.dumps(list(self.model)),
            "whole": _EVALUATIONS.dump_json(without).decode(),
            "history": json.dumps(asdict(self.mark)),
            "clip_norm": json.dumps(self.clip_norm),
            "seconds": json.dumps(self.seconds),
        }
        return _save(tensors, {**facts, "sha256": _digest(facts, tensors)})

    @classmethod
    def decode(cls, data: bytes, history: bytes = b"") -> "RunState":
        """Read a checkpoint.

        One of the format before, which held all of the history, is read too.

        Args:
            data: the checkpoint.
            history: the file of the history.

        Raises:
            StorageError: the bytes are not a checkpoint of this version or the one before, or not its history.
        """
        try:
            header, tensors = _checked(data)
            if header["format"] == _BEFORE:
                evaluations = _EVALUATIONS.validate_json(header["evaluations"])
                round_log, mark = _ROUNDS.validate_json(header["round_log"]), Mark()
            else:
                mark = Mark(**json.loads(header["history"]))
                evaluations, round_log = read_history(history, mark)
                whole = {each.round: each for each in _EVALUATIONS.validate_json(header["whole"])}
                evaluations = tuple(_whole(whole.get(each.round, each), tensors) for each in evaluations)
            return cls(
                round_number=int(header["round"]),
                model={name: tensors[f"model/{name}"] for name in json.loads(header["order"])},
                strategy={
                    name.removeprefix("strategy/"): value
                    for name, value in tensors.items()
                    if name.startswith("strategy/")
                },
                evaluations=evaluations,
                round_log=round_log,
                clip_norm=float(json.loads(header["clip_norm"])),
                seconds=json.loads(header["seconds"]),
                mark=mark,
            )
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StorageError(f"this is not a checkpoint: {error}") from error


def check_checkpoint(data: bytes) -> None:
    """Check that a checkpoint holds what was written, its history aside.

    Raises:
        StorageError: it does not.
    """
    try:
        _checked(data)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StorageError(f"this is not a checkpoint: {error}") from error


def _checked(data: bytes) -> tuple[dict[str, str], Arrays]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if header["format"] not in (_FORMAT, _BEFORE):
        raise StorageError(f"the format is {header['format']!r}, this version reads {_FORMAT!r} and {_BEFORE!r}")
    tensors = load(data)
    if header.pop("sha256") != _digest(header, tensors):
        raise StorageError("its content has changed since it was written")
    return header, tensors


def _whole(evaluation: Evaluation, tensors: Arrays) -> Evaluation:
    """Return an evaluation with its confusion matrix, if the checkpoint has it."""
    matrix = tensors.get(f"confusion/{evaluation.round}")
    if matrix is None:
        return evaluation
    return evaluation.model_copy(update={"confusion": tuple(map(tuple, matrix.tolist()))})


def encode_model(model: Arrays, second_names: Mapping[str, str]) -> bytes:
    """Return a model as a safetensors file: the tensors of its state dict, with further names as metadata."""
    return _save(model, dict(second_names) or None)


def _save(arrays: Arrays, metadata: dict[str, str] | None = None) -> bytes:
    # The writer takes an array's memory for its values: a transposed array would be saved as another one.
    return save({name: np.asarray(value, order="C") for name, value in arrays.items()}, metadata)


def check_model_file(data: bytes, model: Arrays) -> None:
    """Check that a safetensors file holds exactly a model: names, types, shapes and every bit of the values.

    Raises:
        StorageError: it does not.
    """
    try:
        found = load(data)
    except SafetensorError as error:
        raise StorageError(f"it cannot be read back: {error}") from error
    if arrays_digest(found) != arrays_digest(model):
        differing = [name for name in {**model, **found} if not _same(model.get(name), found.get(name))]
        raise StorageError(f"it does not hold the model that was evaluated: {', '.join(differing[:5])} differ")


def _same(one: NDArray[np.generic] | None, other: NDArray[np.generic] | None) -> bool:
    if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return one.tobytes() == other.tobytes()


def arrays_digest(arrays: Arrays) -> str:
    """Return the SHA-256 of names, types, shapes and values of arrays, whatever their order and layout in memory."""
    digest = sha256()
    _add(digest, arrays)
    return digest.hexdigest()


def _digest(facts: dict[str, str], tensors: Arrays) -> str:
    digest = sha256(json.dumps(facts, sort_keys=True).encode())
    _add(digest, tensors)
    return digest.hexdigest()


def _add(digest: "Hash", arrays: Arrays) -> None:
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(np.asarray(value, order="C").reshape(-1).view(np.uint8).data)
