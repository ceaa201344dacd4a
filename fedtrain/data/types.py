"""What the rest of fedtrain knows of a data set: the schema of a record, and the records.

A record is features and a target. Each kind of either is a class here, with its dtype: a decoder makes records of the
kind, a task says which kinds it takes, and the digest of a data set is over the bytes of that dtype.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

WIDE = 100.0
"""An input or a target beyond it, either way, is worth a warning."""

_CHARACTER = 4  # bytes of UTF-8 at most

_TOGETHER = 4_000_000  # numbers that are looked at together


@dataclass(frozen=True, kw_only=True)
class Image:
    """Features that are pixels.

    Attributes:
        shape: (channels, height, width).
    """

    kind: ClassVar[Literal["image"]] = "image"
    dtype: ClassVar[type[np.generic]] = np.uint8
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Features that are numbers in a row of a table.

    Attributes:
        shape: (features,).
        names: the columns of the source that they are made of, in their order: a column of categories is several
            features. By a schema file, each feature has a name. Empty where the source has no names. Sites may name the
            same features otherwise, so two are equal whatever their names.
        schema: the digest of the schema file by which they were decoded; ``None`` without one.
    """

    kind: ClassVar[Literal["table"]] = "table"
    dtype: ClassVar[type[np.generic]] = np.float32
    shape: tuple[int, ...]
    names: tuple[str, ...] = field(default=(), compare=False)
    schema: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Features that are a sound of one channel: float32, full scale from -1 to 1.

    Attributes:
        shape: (samples,), the same of all records.
        rate: samples a second.
    """

    kind: ClassVar[Literal["audio"]] = "audio"
    dtype: ClassVar[type[np.generic]] = np.float32
    shape: tuple[int, ...]
    rate: int


@dataclass(frozen=True, kw_only=True)
class Text:
    """Features that are a text: its UTF-8 bytes, and zeros after them.

    A text is stored as it is, and its ledger is of these bytes. What a model takes of it, numbers of tokens or the
    features of a network, an encoder computes (`fedtrain.encoders`).

    Attributes:
        shape: (bytes,), the most bytes that are kept of a text.
    """

    kind: ClassVar[Literal["text"]] = "text"
    dtype: ClassVar[type[np.generic]] = np.uint8
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Features that are a sequence of tokens, each a number from 1 below the size of the vocabulary; 0 is padding.

    Attributes:
        shape: (tokens,), the most tokens of a record. Shorter ones have zeros after them.
        vocabulary: one more than the largest number of a token. It is public: no record was looked at for it.
    """

    kind: ClassVar[Literal["tokens"]] = "tokens"
    dtype: ClassVar[type[np.generic]] = np.int32
    shape: tuple[int, ...]
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Features that a frozen encoder computed of a record (`fedtrain.encoders`).

    Attributes:
        shape: of what it returns for a record.
    """

    kind: ClassVar[Literal["encoded"]] = "encoded"
    dtype: ClassVar[type[np.generic]] = np.float32
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ClassTarget:
    """A target that is one of several classes: int64, shape (), an index into the names."""

    kind: ClassVar[Literal["class"]] = "class"
    dtype: ClassVar[type[np.generic]] = np.int64
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NumberTarget:
    """A target that is a finite number: float32, shape ()."""

    kind: ClassVar[Literal["number"]] = "number"
    dtype: ClassVar[type[np.generic]] = np.float32
    names: tuple[str, ...] = field(default=(), init=False)


@dataclass(frozen=True, kw_only=True)
class LabelsTarget:
    """A target that is a set of labels: uint8, shape (labels,), 1 where the record has the label and 0 elsewhere."""

    kind: ClassVar[Literal["labels"]] = "labels"
    dtype: ClassVar[type[np.generic]] = np.uint8
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextTarget:
    """A target that is the text of the record itself, so that nothing is stored beside it: uint8, shape (0,)."""

    kind: ClassVar[Literal["text"]] = "text"
    dtype: ClassVar[type[np.generic]] = np.uint8
    names: tuple[str, ...] = field(default=(), init=False)


Features = Image | Columns | Sound | Text | Tokens | Encoded
Kind = Literal["image", "table", "audio", "text", "tokens", "encoded"]
Target = ClassTarget | NumberTarget | LabelsTarget | TextTarget
TargetKind = Literal["class", "number", "labels", "text"]


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """The public facts of a data set: the schema of its records.

    Attributes:
        features: what a record is.
        target: what is predicted of it.
    """

    features: Features
    target: Target

    @property
    def kind(self) -> Kind:
        """The kind of the features."""
        return self.features.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one record's features: (channels, height, width), (features,), or as their kind says."""
        return self.features.shape

    @property
    def rate(self) -> int | None:
        """Samples a second of a sound; ``None`` of all else."""
        return self.features.rate if isinstance(self.features, Sound) else None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the features are made of, where the source names them."""
        return self.features.names if isinstance(self.features, Columns) else ()

    def feature(self, index: int) -> str:
        """Return what a feature of a table is called: its column where each has one of its own, else its place."""
        return self.columns[index] if len(self.columns) == self.shape[0] else f"number {index + 1}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or of the labels; empty where the target has none."""
        return self.target.names

    def as_json(self) -> dict[str, Any]:
        """Return the schema as JSON can hold it."""
        target = {"target": self.target.kind, "names": self.classes}
        facts: dict[str, Any] = {"kind": self.kind, "shape": self.shape} | target
        if isinstance(self.features, Sound):
            facts |= {"rate": self.features.rate}
        if isinstance(self.features, Tokens):
            facts |= {"vocabulary": self.features.vocabulary}
        if isinstance(self.features, Columns) and self.features.schema:
            facts |= {"schema": self.features.schema}
        return facts | ({"columns": self.columns} if self.columns else {})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DataInfo":
        """Read what `as_json` returned."""
        shape = tuple(value["shape"])
        features: Features = Image(shape=shape)
        match value["kind"]:
            case Columns.kind:
                features = Columns(shape=shape, names=tuple(value.get("columns", ())), schema=value.get("schema"))
            case Sound.kind:
                features = Sound(shape=shape, rate=value["rate"])
            case Text.kind:
                features = Text(shape=shape)
            case Tokens.kind:
                features = Tokens(shape=shape, vocabulary=value["vocabulary"])
            case Encoded.kind:
                features = Encoded(shape=shape)
        return cls(features=features, target=target_of(value["target"], tuple(value["names"])))


def lengths_of(split: "Split", info: DataInfo) -> str:
    """Say how many sounds were padded and cut, in a line without an end; nothing where they are no sounds.

    Args:
        split: the records.
        info: their schema.
    """
    if split.lengths is None or info.rate is None:
        return ""
    (samples,) = info.shape
    padded, cut = int((split.lengths < samples).sum()), int((split.lengths > samples).sum())
    return (
        f"lengths: {padded:,} of {len(split):,} sounds are shorter than {samples / info.rate:g} s and were padded with "
        f"silence, {cut:,} are longer and were cut"
    )


def target_of(kind: TargetKind, names: tuple[str, ...]) -> Target:
    """Return the target of a kind, with the names of its classes or labels; a number and a text have none."""
    match kind:
        case "class":
            return ClassTarget(names=names)
        case "labels":
            return LabelsTarget(names=names)
        case "number":
            return NumberTarget()
        case "text":
            return TextTarget()


def stored_shape(target: Target, records: int) -> tuple[int, ...]:
    """Return the shape that the targets of so many records are stored in."""
    match target.kind:
        case "labels":
            return records, len(target.names)
        case "text":
            return records, 0
        case "class" | "number":
            return (records,)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Records and their targets.

    Attributes:
        features: shape (n, *info.shape), of the dtype of ``info.features``; may be memory-mapped.
        targets: n rows of the dtype of ``info.target``: class numbers (n,), numbers (n,), labels (n, labels), or
            nothing (n, 0) where the text is the target.
        owners: shape (n,), codes 0, 1, ... of the owners in sorted order where the source names owners, else ``None``.
        lengths: shape (n,), how many samples each sound had before it was padded or cut; ``None`` of all else.
        groups: shape (n,), of test records codes 0, 1, ... of their groups in sorted order where a column names groups,
            else ``None``.
    """

    features: NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.int32]
    targets: NDArray[np.int64] | NDArray[np.float32] | NDArray[np.uint8]
    owners: Labels | None = None
    lengths: Labels | None = None
    groups: Labels | None = None

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.targets)

    def cut_texts(self, info: DataInfo) -> int:
        """Return how many texts, or sequences of tokens, fill the room of a record: at least so many were cut.

        A text is cut between two characters, so that up to three bytes after it are zeros.
        """
        if info.kind not in {"text", "tokens"}:
            return 0
        last = self.features[:, -_CHARACTER if info.kind == "text" else -1 :]
        return int(last.any(axis=1).sum())

    def wide_columns(self) -> tuple[Labels, Labels]:
        """Return the columns of a table with a value beyond 100 in size, and for each the row of its largest.

        A model of whose inputs some are so large hardly learns: a step that suits them is none for the others.
        """
        columns = self.features.shape[1]
        largest, rows = np.zeros(columns), np.zeros(columns, np.int64)
        together = max(1, _TOGETHER // columns)
        for start in range(0, len(self), together):
            sizes = np.abs(self.features[start : start + together])
            places = sizes.argmax(axis=0)
            found = sizes[places, np.arange(columns)]
            rows = np.where(found > largest, start + places, rows)
            largest = np.maximum(largest, found)
        wide = np.flatnonzero(largest > WIDE)
        return wide, rows[wide]


@dataclass(frozen=True, kw_only=True)
class RuleCounts:
    """How many values of a column a rule of its schema file was needed for. It says something of private records.

    Attributes:
        column: the column.
        missing: values that are missing.
        clipped: numbers and dates outside of the bounds, which count as the nearer one.
        unseen: values that are none of the categories.
    """

    column: str
    missing: int = 0
    clipped: int = 0
    unseen: int = 0


@dataclass(frozen=True, kw_only=True)
class DataStore:
    """A decoded data set: training records, split over clients, and test records that no client sees.

    Attributes:
        info: the public facts of the data set.
        train: the training records.
        test: the test records; their owners are not kept.
        folder: where the decoded arrays are cached, and beside which splits over clients are; ``None`` in memory only.
        owners: the names of the owners, in the order of their codes; empty where the source names none.
        groups: the names of the groups of test records, likewise.
    """

    info: DataInfo
    train: Split
    test: Split
    folder: Path | None = None
    owners: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
