"""Measurements on held-out records, of classes, numbers and sets of labels."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from fedtrain.errors import TaskError
from fedtrain.tasks.base import Batch, Metric
from fedtrain.tasks.ranking import Ranking, threshold_table
from fedtrain.tasks.resampled import ResampledClasses, ResampledLabels, ResampledNumbers

CALIBRATION_BINS = 15
RANKED_CLASSES = 100
"""Classes up to which areas under curves are measured: for them, all outputs are kept until the end."""

# The largest float32 below one.
_BELOW_ONE = 1 - 2.0**-24
_TWO = 2


class Rows:
    """Rows that come some at a time, on the CPU in one piece of memory, which doubles where it is full.

    One by one, small tensors would lie between the large ones that a model makes and frees, and keep the allocator from
    putting these together: a process grows by hundreds of megabytes.

    >>> rows = Rows()
    >>> for each in (torch.zeros(2, 3), torch.ones(1, 3)):
    ...     rows.add(each)
    >>> rows.all().shape
    torch.Size([3, 3])
    """

    def __init__(self) -> None:
        self._held = torch.empty(0)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: Tensor) -> None:
        """Add rows, of the shape that those before have; the type is one that holds both, as of ``torch.cat``.

        Raises:
            ValueError: they have another shape.
        """
        before, self._count = self._count, self._count + len(rows)
        if before == 0:
            self._held = torch.empty(rows.shape, dtype=rows.dtype)
        elif rows.shape[1:] != self._held.shape[1:]:
            raise ValueError(f"rows of shape {tuple(rows.shape[1:])} came after such of {tuple(self._held.shape[1:])}")
        held = self._held.to(torch.promote_types(self._held.dtype, rows.dtype))
        if self._count > len(held):
            larger = held.new_empty((max(self._count, 2 * len(held)), *held.shape[1:]))
            larger[:before] = held[:before]
            held = larger
        held[before : self._count] = rows
        self._held = held

    def all(self) -> Tensor:
        """Return all rows, in their order."""
        return self._held[: self._count]


class ClassificationMetrics(ResampledClasses):
    """Accumulates the measurements of a classifier over batches. Batches of any sizes give the same result.

    ``compute`` returns

    - ``records``: how many records were measured;
    - ``loss``: the mean cross entropy in nats, ``None`` if it is not finite, because JSON has no such number;
    - ``accuracy``: the fraction of the records whose largest output is that of their class;
    - ``confusion``: counts, a row for each true class and a column for each predicted class;
    - ``per_class``: ``precision``, ``recall`` and ``f1``, a list each in the order of the classes. A ratio with zero in
      its divisor is 0: the recall of a class without records, the precision of a class that was never predicted
      (scikit-learn's ``zero_division=0``);
    - ``precision``, ``recall``, ``f1``: their means over the classes that occur among the labels or the predictions
      (scikit-learn's ``average="macro"``), so that a class absent from both does not count;
    - ``balanced_accuracy``: the mean of the recall over the classes that occur among the labels;
    - ``auroc`` and ``average_precision``: the area under the ROC curve, and that under the precision-recall curve as a
      sum of steps, of the probability of a class against all others. The mean over the classes that some records have
      and others lack; of two classes, the average precision is that of the second. ``per_class`` has them of each
      class, ``None`` where there is no curve. With more than 100 classes they are left out;
    - ``thresholds``, of two classes: what thresholds on the probability of the second class call, see
      `fedtrain.tasks.ranking.threshold_table`;
    - ``calibration_error``: the expected calibration error in the L1 norm with 15 bins of equal width over the
      confidence of the predicted class (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3),
      ``None`` where ``loss`` is. It is that of torchmetrics bit for bit, which takes more than a second to import, and
      sums in single precision: the error was 5e-6 on ten thousand and 6e-4 on a million records where measured.

    Where ``loss`` is ``None``, so are the areas, and there are no thresholds. The areas are of the order of the
    outputs: torchmetrics 1.9 applies a sigmoid to scores outside [0, 1], batch by batch, so that its area depends on
    the batches, and counts an area of 0 under the ROC curve for a class without records.
    """

    def __init__(self, classes: int) -> None:
        self._classes, self._ranked = classes, classes <= RANKED_CLASSES
        self._records = 0
        self._outputs, self._targets = Rows(), Rows()
        self._loss = torch.zeros((), dtype=torch.float64)
        self._confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self._edges = torch.linspace(0, 1, CALIBRATION_BINS + 1)
        # Of each bin the records, the sum of their confidences, and how many were right.
        self._bins = torch.zeros(3, CALIBRATION_BINS + 1)

    @property
    def described(self) -> tuple[Metric, ...]:
        """What is a single number, the accuracy first."""
        areas = ("auroc", "average_precision") if self._ranked else ()
        ratios = ("accuracy", "precision", "recall", "f1", "balanced_accuracy", *areas)
        errors = ("loss", "calibration_error")
        return (
            *(Metric(name=name, direction="higher", format="percent") for name in ratios),
            *(Metric(name=name, direction="lower", format="number") for name in errors),
        )

    def baseline(self, targets: Tensor) -> dict[str, float]:
        """Return what the best constant answer reaches on targets, int64 of shape (n,): always the most frequent class.

        Its loss is that of the shares of the classes as probabilities. Areas and the balanced accuracy are means over
        classes, as those of a model are.
        """
        counts = torch.bincount(targets, minlength=self._classes)
        shares = counts.to(torch.float64) / len(targets)
        occur = int((counts > 0).sum())
        found = {
            "accuracy": int(counts.max()) / len(targets),
            "balanced_accuracy": 1 / occur,
            "loss": float(torch.special.entr(shares).sum()),
        }
        if self._ranked and occur > 1:
            found |= {"auroc": 0.5, "average_precision": float(shares[1]) if self._classes == _TWO else 1 / occur}
        return found

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch of logits, floating point of shape (n, classes), and its ``targets``, int64 of shape (n,).

        They may be on any device; the counts are kept on the CPU. A batch may be empty.
        """
        labels = batch["targets"]
        if len(labels) == 0:
            return
        # Double precision makes the sum over batches independent, in all printed digits, of their sizes.
        logits = outputs.detach().to(device="cpu", dtype=torch.float64)
        labels = labels.to("cpu")
        self._records += len(labels)
        self._loss += functional.cross_entropy(logits, labels, reduction="sum")
        cells = labels * self._classes + logits.argmax(dim=1)
        self._confusion += torch.bincount(cells, minlength=self._confusion.numel()).view_as(self._confusion)
        # A confidence of exactly one would be in a bin of its own, so they stay below one.
        confidences, predicted = logits.softmax(dim=1).clamp(max=_BELOW_ONE).max(dim=1)
        single, right = confidences.to(torch.float32), (predicted == labels).float()
        places = torch.bucketize(single, self._edges, right=True) - 1
        for total, values in zip(self._bins, (torch.ones_like(single), single, right), strict=True):
            total.scatter_add_(0, places, values)
        if self._ranked:
            self._outputs.add(outputs.detach())
            self._targets.add(labels)

    def compute(self) -> dict[str, object]:
        """Return the measurements as numbers, lists and mappings that JSON can hold; see the class.

        Raises:
            TaskError: no record was added.
        """
        if self._records == 0:
            raise _nothing()
        loss = float(self._loss) / self._records
        confusion = self._confusion.to(torch.float64)
        hits, actual, predicted = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
        occurs = actual + predicted > 0
        per_class = {
            "precision": hits / predicted.clamp(min=1),
            "recall": hits / actual.clamp(min=1),
            "f1": 2 * hits / (actual + predicted).clamp(min=1),
        }
        areas, of_each, thresholds = self._areas(known=math.isfinite(loss))
        return {
            "loss": loss if math.isfinite(loss) else None,
            "accuracy": float(hits.sum()) / self._records,
            **{name: float(values[occurs].mean()) for name, values in per_class.items()},
            "balanced_accuracy": float(per_class["recall"][actual > 0].mean()),
            **areas,
            "per_class": {name: values.tolist() for name, values in per_class.items()} | of_each,
            **thresholds,
            "confusion": self._confusion.tolist(),
            # Rounding can carry a mean confidence past one.
            "calibration_error": min(self._calibration_error(), 1.0) if math.isfinite(loss) else None,
            "records": self._records,
        }

    def _calibration_error(self) -> float:
        records, confidences, right = self._bins
        gaps = (right / records).nan_to_num() - (confidences / records).nan_to_num()
        return float((gaps.abs() * (records / records.sum())).sum())

    def _areas(self, *, known: bool) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
        """Return the areas, those of each class, and the thresholds; ``None`` for areas of unknown outputs."""
        if not self._ranked:
            return {}, {}, {}
        if not known:
            return {"auroc": None, "average_precision": None}, {}, {}
        logits, labels = self._outputs.all().to(torch.float64), self._targets.all()
        scores = logits.log_softmax(dim=1)
        if self._classes == _TWO:
            # Of two classes the log-odds, which do not round to equal ones where a probability is almost 1.
            odds = logits[:, 1] - logits[:, 0]
            scores = torch.stack([-odds, odds], dim=1)
        each = _areas_of_each(scores, functional.one_hot(labels, self._classes))
        areas: dict[str, object] = {name: _mean(values) for name, values in each.items()}
        if self._classes != _TWO:
            return areas, dict(each), {}
        areas["average_precision"] = each["average_precision"][1]
        return areas, dict(each), {"thresholds": threshold_table(scores[:, 1], labels)}


class RegressionMetrics(ResampledNumbers):
    """Accumulates the measurements of predicted numbers over batches, in double precision.

    ``compute`` returns

    - ``loss`` and ``mse``: the mean of the squared errors, which the model was trained on;
    - ``mae``: the mean of the absolute errors;
    - ``r2``: the coefficient of determination, one minus the squared errors over the squared deviations of the targets
      from their mean: 1 is perfect, 0 is as good as that mean, and it is negative for what is worse;
    - ``records``: how many records were measured.

    What is undefined or not finite is ``None``, because JSON has no such number: all where an output is not finite, and
    ``r2`` where all targets are equal.
    """

    def __init__(self) -> None:
        self._records = 0
        self._squared = self._absolute = 0.0
        self._mean = self._deviations = 0.0

    @property
    def described(self) -> tuple[Metric, ...]:
        """What is a single number, the mean squared error first."""
        errors = (Metric(name=name, direction="lower", format="number") for name in ("mse", "mae", "loss"))
        return (*errors, Metric(name="r2", direction="higher", format="number"))

    def baseline(self, targets: Tensor) -> dict[str, float]:
        """Return what the best constant answer reaches on targets of shape (n,): their mean, and for MAE their median.

        ``r2`` is 0 by its definition, and left out where it has no value.
        """
        numbers = targets.to(torch.float64)
        squared = float((numbers - numbers.mean()).square().mean())
        absolute = float((numbers - numbers.median()).abs().mean())
        return {"mse": squared, "mae": absolute, "loss": squared} | ({"r2": 0.0} if squared > 0 else {})

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch of predictions, floating point of shape (n, 1), and its ``targets``, shape (n,)."""
        targets = batch["targets"].to(device="cpu", dtype=torch.float64)
        n = len(targets)
        if n == 0:
            return
        errors = outputs.detach().to(device="cpu", dtype=torch.float64).squeeze(1) - targets
        self._squared += float(errors.square().sum())
        self._absolute += float(errors.abs().sum())
        # The sums of two sets of records are put together by Chan, Golub and LeVeque 1979, without cancellation.
        mean, total = float(targets.mean()), self._records + n
        self._deviations += float((targets - mean).square().sum())
        self._deviations += (mean - self._mean) ** 2 * self._records * n / total
        self._mean += (mean - self._mean) * n / total
        self._records = total

    def compute(self) -> dict[str, object]:
        """Return the measurements; see the class.

        Raises:
            TaskError: no record was added.
        """
        if self._records == 0:
            raise _nothing()
        squared = _finite(self._squared / self._records)
        known = squared is not None and self._deviations > 0
        return {
            "loss": squared,
            "mse": squared,
            "mae": _finite(self._absolute / self._records),
            "r2": _finite(1 - self._squared / self._deviations) if known else None,
            "records": self._records,
        }


class MultilabelMetrics(ResampledLabels):
    """Accumulates the measurements of sets of labels over batches. It keeps all outputs until the end.

    ``compute`` returns

    - ``loss``: the mean binary cross entropy in nats over records and labels;
    - ``auroc``: the area under the ROC curve, the mean over the labels;
    - ``average_precision``: the area under the precision-recall curve as a sum of steps, the mean over the labels;
    - ``per_label``: both, a list each in the order of the labels;
    - ``records``: how many records were measured.

    A curve needs records with the label and records without it. Where a label has only one of the two, its values are
    ``None`` and it has no part in the means, which are ``None`` if no label is left. Where an output is not finite, all
    are ``None``.
    """

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._outputs, self._targets = Rows(), Rows()

    @property
    def described(self) -> tuple[Metric, ...]:
        """What is a single number, the area under the ROC curve first."""
        areas = (Metric(name=name, direction="higher", format="percent") for name in ("auroc", "average_precision"))
        return (*areas, Metric(name="loss", direction="lower", format="number"))

    def baseline(self, targets: Tensor) -> dict[str, float]:
        """Return what the best constant answer reaches on targets, 0 or 1 of shape (n, labels): each label's frequency.

        Areas are means over the labels that some records have and others lack, as those of a model are.
        """
        shares = targets.to(torch.float64).mean(dim=0)
        known = shares[(shares > 0) & (shares < 1)]
        loss = float((torch.special.entr(shares) + torch.special.entr(1 - shares)).mean())
        areas = {"auroc": 0.5, "average_precision": float(known.mean())} if len(known) else {}
        return {**areas, "loss": loss}

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch of logits, floating point of shape (n, labels), and its ``targets``, 0 or 1, of that shape."""
        self._outputs.add(outputs.detach().to(device="cpu", dtype=torch.float64))
        self._targets.add(batch["targets"].to(device="cpu", dtype=torch.int64))

    def compute(self) -> dict[str, object]:
        """Return the measurements; see the class.

        Raises:
            TaskError: no record was added.
        """
        records = len(self._targets)
        if records == 0:
            raise _nothing()
        outputs, targets = self._outputs.all(), self._targets.all()
        loss = _finite(float(functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))))
        none: list[float | None] = [None] * self._labels
        per_label = {"auroc": none, "average_precision": none} if loss is None else _areas_of_each(outputs, targets)
        return {
            "loss": loss,
            **{name: _mean(values) for name, values in per_label.items()},
            "per_label": per_label,
            "records": records,
        }


def _areas_of_each(scores: Tensor, truth: Tensor) -> dict[str, list[float | None]]:
    """Return both areas of each column of scores, shape (n, columns), against a column of 0 and 1."""
    rankings = [Ranking.of(score, each) for score, each in zip(scores.T, truth.T, strict=True)]
    return {
        "auroc": [ranking.auroc() for ranking in rankings],
        "average_precision": [ranking.average_precision() for ranking in rankings],
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _nothing() -> TaskError:
    return TaskError("there is nothing to measure: no test record was evaluated; give test data with records.")
