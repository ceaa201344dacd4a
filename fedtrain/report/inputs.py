"""The public description of a model's inputs and outputs, which a run leaves as ``inputs.json`` beside the model.

With it and the model file a program of any kind can use the model. It says nothing that the report of the run does not
say: the schema of a record, what is computed of it before the model, and what the model returns.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from fedtrain.config import Experiment
from fedtrain.data.types import DataInfo, Kind, TargetKind
from fedtrain.statistics import parse_scaling

FORMAT: Final = "fedtrain.inputs/1"

_SPECTROGRAM: Final = "its log-mel spectrogram, standardised by public constants, as fedtrain.tasks.sounds computes it"
_PIXELS: Final = "divided by 127.5, less 1: from -1 to 1"
_OUTPUTS: Final[dict[TargetKind, str]] = {
    "class": "a logit for each class, in the order of names: softmax gives probabilities",
    "number": "the number, in the unit of the target",
    "labels": "a logit for each label, in the order of names: a sigmoid gives each its probability",
    "text": "at each place a logit for each token that may stand there, and for 0, the end of the text",
}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model takes and returns.

    Attributes:
        task: the name of the task.
        kind: what a record is: ``image``, ``table``, ``audio`` or ``text``.
        shape: of one record as it is stored: (channels, height, width), (features,), (samples,) or (bytes,).
        dtype: likewise: ``uint8`` for images and texts, and ``float32`` for tables and sounds.
        rate: of a sound, the samples of a second; else ``None``.
        columns: of a table, what each feature is called, where the source has names.
        encoding: what is computed of a record before the model, in words.
        scaling: of a table, each column that is standardised, with what is subtracted and what the rest is divided by.
        encoder: the frozen module that computes the features of a record first; ``None`` without one.
        target: what is predicted: ``class``, ``number``, ``labels`` or ``text``.
        names: the classes or labels, in the order of the outputs.
        outputs: what the model returns for a record, in words.
    """

    task: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    rate: int | None
    columns: tuple[str, ...]
    encoding: str
    scaling: dict[str, tuple[float, float]]
    encoder: dict[str, str] | None
    target: TargetKind
    names: tuple[str, ...]
    outputs: str

    def encode(self) -> bytes:
        """Return it as JSON, in UTF-8."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False).encode()


def inputs_of(experiment: Experiment, info: DataInfo, *, encoder_digest: str | None = None) -> Inputs:
    """Return what the model of an experiment takes and returns.

    Args:
        experiment: the experiment.
        info: the schema of its records, as they are stored.
        encoder_digest: the digest of its encoder, where it has one.
    """
    task, own = experiment.task, ":" in experiment.task.name
    encoder: dict[str, Any] | None = None
    if task.encoder is not None:
        encoder = {"name": task.encoder, "digest": encoder_digest or "", "origin": task.origin or ""}
    scaling = {}
    for text in () if task.scaling is None else task.scaling.split(","):
        each = parse_scaling(text)
        scaling[each.name] = (each.centre, each.unit)
    encoding = "as stored"
    if own:
        encoding = f"by collate of the task {task.name}"
    elif encoder is not None:
        encoding = f"the features that {task.encoder} computes"
    elif info.kind == "image":
        encoding = _PIXELS
    elif info.kind == "audio":
        encoding = _SPECTROGRAM
    elif experiment.data.schema_file is not None:
        encoding = f"columns as the schema file {experiment.data.schema_file} decodes them"
        encoding += "; then those of scaling: less the first number, divided by the second" if scaling else ""
    elif scaling:
        encoding = "columns of scaling: less the first number, divided by the second"
    return Inputs(
        task=task.name,
        kind=info.kind,
        shape=info.shape,
        dtype=str(info.features.dtype.__name__),
        rate=info.rate,
        columns=info.columns,
        encoding=encoding,
        scaling=scaling,
        encoder=encoder,
        target=info.target.kind,
        names=info.classes,
        outputs=f"as forward of the task {task.name} returns it" if own else _OUTPUTS[info.target.kind],
    )
