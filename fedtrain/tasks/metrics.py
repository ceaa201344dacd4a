"""Measurements of a classifier on held-out records."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from fedtrain.errors import TaskError

CALIBRATION_BINS = 15
# The largest float32 below one.
_BELOW_ONE = 1 - 2.0**-24


class ClassificationMetrics:
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
    - ``calibration_error``: the expected calibration error in the L1 norm with 15 bins of equal width over the
      confidence of the predicted class (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3),
      ``None`` where ``loss`` is. Torchmetrics sums it in single precision: the error was 5e-6 on ten thousand and 6e-4
      on a million records where measured.
    """

    def __init__(self, classes: int) -> None:
        # Imported here because it takes more than a second, and training needs none of it.
        from torchmetrics.classification import (  # noqa: PLC0415
            MulticlassCalibrationError,
            MulticlassConfusionMatrix,
        )

        self._records = 0
        self._loss = torch.zeros((), dtype=torch.float64)
        self._confusion = MulticlassConfusionMatrix(num_classes=classes)
        self._calibration = MulticlassCalibrationError(num_classes=classes, n_bins=CALIBRATION_BINS, norm="l1")

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch of logits, floating point of shape (n, classes), and labels, int64 of shape (n,).

        They may be on any device; the counts are kept on the CPU. A batch may be empty.
        """
        if len(labels) == 0:
            return
        # Double precision makes the sum over batches independent, in all printed digits, of their sizes.
        logits = outputs.detach().to(device="cpu", dtype=torch.float64)
        labels = labels.to("cpu")
        self._records += len(labels)
        self._loss += functional.cross_entropy(logits, labels, reduction="sum")
        self._confusion.update(logits.argmax(dim=1), labels)
        # Torchmetrics applies a softmax to a batch only if it holds a value outside [0, 1], so it is given
        # probabilities; and it puts a confidence of exactly one in a bin of its own, so they stay below one.
        self._calibration.update(logits.softmax(dim=1).clamp(max=_BELOW_ONE), labels)

    def compute(self) -> dict[str, object]:
        """Return the measurements as numbers, lists and mappings that JSON can hold; see the class.

        Raises:
            TaskError: no record was added.
        """
        if self._records == 0:
            raise TaskError("there is nothing to measure: no test record was evaluated; give test data with records.")
        loss = float(self._loss) / self._records
        confusion = self._confusion.compute().to(torch.float64)
        hits, actual, predicted = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
        occurs = actual + predicted > 0
        per_class = {
            "precision": hits / predicted.clamp(min=1),
            "recall": hits / actual.clamp(min=1),
            "f1": 2 * hits / (actual + predicted).clamp(min=1),
        }
        return {
            "loss": loss if math.isfinite(loss) else None,
            "accuracy": float(hits.sum()) / self._records,
            **{name: float(values[occurs].mean()) for name, values in per_class.items()},
            "per_class": {name: values.tolist() for name, values in per_class.items()},
            "confusion": confusion.to(torch.int64).tolist(),
            # Rounding can carry a mean confidence past one.
            "calibration_error": min(float(self._calibration.compute()), 1.0) if math.isfinite(loss) else None,
            "records": self._records,
        }
