"""Where a run stands: what a checkpoint holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedtrain.errors import StorageError
from fedtrain.report import Evaluation, RoundEntry

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

Arrays = dict[str, NDArray[np.generic]]

_FORMAT = "fedtrain.checkpoint/2"
_EVALUATIONS = TypeAdapter(tuple[Evaluation, ...])
_ROUNDS = TypeAdapter(tuple[RoundEntry, ...])


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run after a round.

    Attributes:
        round_number: rounds completed.
        model: the global model, by the names of its state dict.
        strategy: what the strategy remembers.
        evaluations: every central evaluation so far.
        round_log: every round so far.
        clip_norm: the clipping norm of the next round; 0 without privacy.
        seconds: time spent so far.
    """

    round_number: int
    model: Arrays
    strategy: Arrays
    evaluations: tuple[Evaluation, ...]
    round_log: tuple[RoundEntry, ...]
    clip_norm: float
    seconds: float

    def encode(self) -> bytes:
        """Return the checkpoint: safetensors, with everything that is not an array as JSON in its metadata."""
        tensors = {f"model/{name}": value for name, value in self.model.items()}
        tensors |= {f"strategy/{name}": value for name, value in self.strategy.items()}
        facts = {
            "format": _FORMAT,
            "round": str(self.round_number),
            "order": json.dumps(list(self.model)),
            "evaluations": _EVALUATIONS.dump_json(self.evaluations).decode(),
            "round_log": _ROUNDS.dump_json(self.round_log).decode(),
            "clip_norm": json.dumps(self.clip_norm),
            "seconds": json.dumps(self.seconds),
        }
        return _save(tensors, {**facts, "sha256": _digest(facts, tensors)})

    @classmethod
    def decode(cls, data: bytes) -> "RunState":
        """Read a checkpoint.

        Raises:
            StorageError: the bytes are not a checkpoint of this version.
        """
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            if header["format"] != _FORMAT:
                raise StorageError(f"the format is {header['format']!r}, this version reads {_FORMAT!r}")
            tensors = load(data)
            if header.pop("sha256") != _digest(header, tensors):
                raise StorageError("its content has changed since it was written")
            return cls(
                round_number=int(header["round"]),
                model={name: tensors[f"model/{name}"] for name in json.loads(header["order"])},
                strategy={
                    name.removeprefix("strategy/"): value
                    for name, value in tensors.items()
                    if name.startswith("strategy/")
                },
                evaluations=_EVALUATIONS.validate_json(header["evaluations"]),
                round_log=_ROUNDS.validate_json(header["round_log"]),
                clip_norm=float(json.loads(header["clip_norm"])),
                seconds=json.loads(header["seconds"]),
            )
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StorageError(f"this is not a checkpoint: {error}") from error


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
