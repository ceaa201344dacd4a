"""Use a trained model on new records, without the data that it was trained on.

from fedtrain import load_run
from fedtrain.prediction import predict

predictions = predict(load_run("runs/first"), "new.npz")
pandas.DataFrame(predictions.rows())
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedtrain.api import Run
from fedtrain.config import from_flat
from fedtrain.data.types import DataInfo, TargetKind, stored_shape
from fedtrain.data.unlabelled import read_unlabelled
from fedtrain.encoders import open_encoder
from fedtrain.errors import TaskError, UsageError
from fedtrain.tasks import Records, Task
from fedtrain.tasks.calls import collate, forward
from fedtrain.tasks.column_statistics import ColumnStatistics
from fedtrain.tasks.language import Language
from fedtrain.tasks.least_squares import LeastSquares
from fedtrain.tasks.supervised import Supervised
from fedtrain.tasks.user_code import telling

_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says of records.

    Attributes:
        records: what each record is called: its row from 0, or its file.
        target: what is predicted.
        names: the classes or labels; of a task of one's own that has none, the places of its outputs.
        values: float64 of shape (n, names): the probability of each class or label; or of shape (n, 1) the number. Of a
            task of one's own, what its forward returns.
        raw: whether the values are what a task of one's own returns.
    """

    records: tuple[str, ...]
    target: TargetKind
    names: tuple[str, ...]
    values: NDArray[np.float64]
    raw: bool

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give a flat row for each record: its name, what is predicted, and each value by its name.

        The predicted class is the one with the highest probability. A label is predicted from one half on. Of a task of
        one's own there are the values alone.
        """
        for record, values in zip(self.records, self.values.tolist(), strict=True):
            row: dict[str, Any] = {"record": record}
            if self.raw:
                yield row | {f"output {name}": value for name, value in zip(self.names, values, strict=True)}
            elif self.target == "number":
                yield row | {"predicted": values[0]}
            else:
                probabilities = {f"p({name})": value for name, value in zip(self.names, values, strict=True)}
                yield row | {"predicted": self._called(values)} | probabilities

    def _called(self, values: list[float]) -> str:
        if self.target == "class":
            return self.names[int(np.argmax(values))]
        half = 0.5
        return ";".join(name for name, value in zip(self.names, values, strict=True) if value >= half)

    def as_csv(self) -> str:
        """Return the rows as CSV (RFC 4180); several labels of a record are joined by semicolons."""
        text, rows = io.StringIO(), list(self.rows())
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def as_json_lines(self) -> str:
        """Return one JSON object on a line for each record."""
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self.rows())


def predict(run: Run, data: str | Path, *, which: Literal["final", "best"] = "final") -> Predictions:
    """Predict the targets of records in a file or a folder (`fedtrain.data.unlabelled`).

    Only the run folder, that file and the public schema file of a table are read, and never the data that the model was
    trained on. A task or an encoder of one's own, which the report names, is imported, and its code runs.

    Args:
        run: the run. Where its task was an object of a program, it is of `load_run` with that task.
        data: the records.
        which: the weights after the last round, or those of the best central evaluation.

    Raises:
        UsageError: the run has no model that predicts.
        DataError: the records are of another schema, or cannot be read.
        TaskError: the code of a task of one's own fails, or the encoder is not the one of the run.
        StorageError: the run has saved no such weights.
    """
    task, info = run.made_task(), run.info
    if isinstance(task, ColumnStatistics):
        raise UsageError(f'{run.path} is a run of task.name = "statistics", and predicts nothing: see fedtrain stats')
    if isinstance(task, Language):
        raise UsageError(
            f"{run.path} is a run on texts whose next tokens are predicted, and says nothing of a text as a whole: "
            "what it writes is in its report (sample), and fedtrain.tasks.language.write draws more"
        )
    model, experiment = run.model(which), from_flat(run.report.config)
    found = read_unlabelled(
        Path(data), info, schema_file=experiment.data.schema_file, text_column=experiment.data.text_column
    )
    features: NDArray[Any] = found.features
    if (summary := run.report.model.encoder) is not None:
        # The digest of the report, where the configuration declares none.
        encoder = open_encoder(experiment.task.model_copy(update={"encoder_digest": summary.digest}), info)
        assert encoder is not None
        features = np.stack([encoder.encode(record) for record in features])
    values = _outputs(model, task, features, info)
    raw = not isinstance(task, Supervised | LeastSquares)
    if not raw:
        values = _probabilities(values, info.target.kind)
    names = info.classes if not raw and info.classes else tuple(map(str, range(values.shape[1])))
    return Predictions(records=found.names, target=info.target.kind, names=names, values=values.numpy(), raw=raw)


def _outputs(model: torch.nn.Module, task: Task, features: NDArray[Any], info: DataInfo) -> torch.Tensor:
    """Return what the model returns for records, float64 of shape (n, outputs)."""
    target = info.target
    parts = []
    for start in range(0, len(features), _BATCH):
        some = np.array(features[start : start + _BATCH])
        # A task may look at targets that nobody has; those of a class, a number or no label at all stand for them.
        stored = np.zeros(stored_shape(target, len(some)), target.dtype)
        records = Records(features=torch.from_numpy(some), targets=torch.from_numpy(stored))
        with telling("collate of the task"):
            batch = collate(task, records, None)
        with telling("forward of the task"), torch.no_grad():
            parts.append(forward(task, model, batch))
    found = torch.cat(parts).to(torch.float64)
    return found.reshape(len(found), -1)


def _probabilities(outputs: torch.Tensor, target: TargetKind) -> torch.Tensor:
    if not bool(outputs.isfinite().all()):
        raise TaskError("the model returns numbers that are not finite for these records: it was not trained well")
    match target:
        case "class":
            return outputs.softmax(dim=1)
        case "labels":
            return outputs.sigmoid()
        case "number" | "text":
            return outputs
