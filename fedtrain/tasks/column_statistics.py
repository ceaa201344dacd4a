"""Statistics of the columns of a table with public bounds, from one noisy sum. No model is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtrain.config import Experiment
from fedtrain.config.sections import TaskConfig
from fedtrain.data.types import Columns, DataInfo
from fedtrain.errors import ConfigError, TaskError
from fedtrain.statistics import Column, ColumnLayout, Estimates, estimate, parse_column
from fedtrain.tasks.base import Batch, Metric, Metrics, Records
from fedtrain.tasks.sums import SumTask

TARGET = "target"
"""What the target is called among the columns, where it is a number and no feature has that name."""


class ColumnStatistics(SumTask):
    """Counts, means, variances and histograms of columns, and the count of each class.

    A batch has ``values``, float32 of shape (n, columns), and ``targets``, as stored.

    Attributes:
        layout: what a record adds.

    Raises:
        ConfigError: no columns are named, or one without bounds, or an unbounded one; or, of a table by a schema file,
            one with bounds that are not in its scaled unit.
        TaskError: the data set is no table, or has no such column.
    """

    def __init__(self, config: TaskConfig, info: DataInfo) -> None:
        if config.model is not None or config.augment:
            raise TaskError(f'task.name = "{config.name}" trains no model; unset task.model and task.augment')
        if config.columns is None:
            raise ConfigError(
                f'task.name = "{config.name}" needs task.columns: each column with its public bounds, for example '
                'columns = ["age: 17 to 90"]'
            )
        if info.kind != "table":
            raise TaskError(
                f'task.name = "{config.name}" takes columns of numbers, and this data set holds {info.kind}s'
            )
        columns = tuple(parse_column(text) for text in config.columns.split(","))
        names = [column.name for column in columns]
        if len(set(names)) < len(names):
            raise ConfigError(f"task.columns = {config.columns!r} names a column twice")
        places = {info.feature(at): at for at in range(info.shape[0])}
        if info.target.kind == "number":
            places.setdefault(TARGET, info.shape[0])
        if missing := [name for name in names if name not in places]:
            # Without the names that there are: the error reaches the server, and they are the site's.
            raise TaskError(
                f"task.columns names {', '.join(missing)}, which this data set does not have as a column of numbers; "
                "what a run has is on its screen and in its report (data.features), and a target that is a number is "
                f'called "{TARGET}"'
            )
        if isinstance(info.features, Columns) and info.features.schema is not None:
            _require_scaled(columns)
        self._places = [places[name] for name in names]
        self._classes = info.classes if info.target.kind == "class" else ()
        self.layout = ColumnLayout(columns=columns, bins=config.bins, classes=len(self._classes))

    @property
    def size(self) -> int:
        """The numbers of a vector."""
        return self.layout.size

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that are counted, in their order."""
        return self._classes

    def collate(self, records: Records, generator: torch.Generator | None) -> Batch:  # noqa: ARG002 -- as every task
        """Return the columns as ``values``, and ``targets``."""
        features = records.features
        if records.targets.dtype == torch.float32:
            features = torch.cat([features, records.targets[:, None]], dim=1)
        return {"values": features[:, self._places], "targets": records.targets}

    def vectors(self, batch: Batch) -> Tensor:
        """Return what each record adds to the statistics, shape (n, size)."""
        return self.layout.vectors(batch["values"], batch["targets"] if self._classes else None)

    def metrics(self) -> Metrics:
        """Return metrics that measure nothing: statistics are of the training records, and no prediction."""
        return _Nothing()

    def read(
        self, sums: Mapping[str, NDArray[Any]], experiment: Experiment, *, noise: float, units: float
    ) -> Estimates:
        """Return the statistics that a noisy sum gives.

        Args:
            sums: the model that clients trained, by name.
            experiment: the experiment.
            noise: standard deviation of the noise on the mean gradient of its step, in clipping norms.
            units: what that mean is over: the public divisor of a client times the clients in the sum.
        """
        (weights,) = sums.values()
        total = self.mean(np.asarray(weights), experiment) * units
        return estimate(self.layout, total, deviation=self.deviation(noise) * units)


def _require_scaled(columns: Sequence[Column]) -> None:
    """Refuse bounds in the unit of the file: all values would be in one corner of them, and the noise far larger."""
    if wide := [column for column in columns if column.lower < -1 or column.upper > 1]:
        column = wide[0]
        raise ConfigError(
            f"task.columns has {column.name!r} from {column.lower:g} to {column.upper:g}, and a schema file scales its "
            "columns to -1 to 1, or 0 to 1: write bounds within these; its ends stand for lower and upper of the schema"
        )


class _Nothing:
    described: tuple[Metric, ...] = ()

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Measure nothing."""

    def compute(self) -> dict[str, object]:
        """Return no measurements."""
        return {}
