"""What an explanation is, as its page and its object show it."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

TOLERANCE: Final = 0.01
"""How far a sum of attributions may be from the difference of the outputs: of that difference, or of one where it is
smaller."""

Method = Literal["integrated gradients", "occlusion"]


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """How much each part of what a model takes adds to one of its outputs.

    Attributes:
        method: how it was found.
        values: float64; of a picture (height, width), summed over channels; of a text (pieces,); else (features,).
        sum: of all values.
        difference: the output of the record, less that of the baseline; ``None`` of occlusion, whose values need not
            sum up to it.
        steps: of the path from the baseline to the record; 0 of occlusion.
    """

    method: Method
    values: NDArray[np.float64]
    sum: float
    difference: float | None = None
    steps: int = 0

    @property
    def complete(self) -> bool | None:
        """Whether the values sum up to the difference of the outputs, to the tolerance; ``None`` where they need not.

        Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks", proposition 1.
        """
        if self.difference is None:
            return None
        return abs(self.sum - self.difference) <= TOLERANCE * max(1.0, abs(self.difference))

    def as_json(self) -> dict[str, Any]:
        """Return it without the values of pictures and features, which are many."""
        told: dict[str, Any] = {"method": self.method, "sum": self.sum}
        if self.difference is not None:
            told |= {"difference": self.difference, "complete": self.complete, "steps": self.steps}
        return told


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a text, with the space before it, and the tokens of the model that it is made of.

    Attributes:
        text: as it is shown.
        tokens: their places among the tokens.
    """

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A central test record, and what the model's output for it depends on.

    Attributes:
        record: its row in the test records, from 0.
        target: what it is.
        predicted: what the model says.
        output: what the attributions are of: a class, a label, or the number.
        value: that output of the model: a logit, or the number.
        baseline: the same output for the baseline.
        picture: uint8 (channels, height, width) of an image, or float32 (height, width) of a spectrogram, low first;
            ``None`` of anything else.
        pieces: of a text.
        attributions: by each method that could be used.
    """

    record: int
    target: str
    predicted: str
    output: str
    value: float
    baseline: float
    picture: NDArray[np.uint8] | NDArray[np.float32] | None
    pieces: tuple[Piece, ...]
    attributions: tuple[Attribution, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it; of a text with the values of each piece."""
        told: dict[str, Any] = {
            "record": self.record,
            "target": self.target,
            "predicted": self.predicted,
            "output": self.output,
            "value": self.value,
            "baseline": self.baseline,
            "attributions": [each.as_json() for each in self.attributions],
        }
        if self.pieces:
            told["pieces"] = [
                {"text": piece.text}
                | {each.method.replace(" ", "_"): float(each.values[place]) for each in self.attributions}
                for place, piece in enumerate(self.pieces)
            ]
        return told


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much worse a model is where a column of a table is another record's.

    Attributes:
        column: the column.
        features: how many features of the model are made of it: they are permuted together.
        worse: by how much the metric is worse, the mean over the permutations; below 0 it is better.
        spread: the standard deviation over the permutations.
    """

    column: str
    features: int
    worse: float
    spread: float

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"column": self.column, "features": self.features, "worse": self.worse, "spread": self.spread}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What the outputs of a model depend on.

    Attributes:
        name: of the experiment.
        run: identifies the run.
        weights: the SHA-256 of the file of the weights, in hexadecimal.
        which: whose weights they are: those after the last round, or the best ones.
        over: what the parts are that values are given to, in words.
        baseline: what a record is compared with, in words; empty of a table.
        public: whether the test records are public, as the source or the person who explains says.
        records: test records that there are.
        notes: what a reader should know, each a sentence.
        examples: the records that are shown.
        metric: of a table, what is measured.
        reached: of a table, the metric on the records that were used.
        used: of a table, how many test records were used.
        permutations: of a table, of each column.
        importance: of a table, the columns, the most important first.
    """

    name: str
    run: str
    weights: str
    which: str
    over: str
    baseline: str
    public: bool
    records: int
    notes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    metric: str = ""
    reached: float = 0.0
    used: int = 0
    permutations: int = 0
    importance: tuple[Importance, ...] = ()

    @property
    def completeness(self) -> str:
        """What the check of completeness found, in a sentence; empty where nothing could be checked."""
        checked = [each for example in self.examples for each in example.attributions if each.difference is not None]
        if not checked:
            return ""
        kept = sum(each.complete is True for each in checked)
        furthest = max(abs(each.sum - (each.difference or 0.0)) for each in checked)
        return (
            f"completeness: for {kept} of {len(checked)} records the integrated gradients sum up to the difference of "
            f"the outputs, to {TOLERANCE:g} of it and of at least 1; the furthest sum is {furthest:.2g} away"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        told: dict[str, Any] = {
            "name": self.name,
            "run": self.run,
            "weights": self.weights,
            "over": self.over,
            "public": self.public,
            "notes": list(self.notes),
        }
        if self.importance:
            return told | {
                "metric": self.metric,
                "reached": self.reached,
                "records": self.used,
                "permutations": self.permutations,
                "importance": [each.as_json() for each in self.importance],
            }
        return told | {
            "baseline": self.baseline,
            "tolerance": TOLERANCE,
            "completeness": self.completeness,
            "examples": [each.as_json() for each in self.examples],
        }
