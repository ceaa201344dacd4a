"""What built-in measurements are made of for each record, and how they are made of counts (`fedtrain.tasks.intervals`).

The expected calibration error has none: the error of a resample is larger than that of the records, on average, since
its bins hold records several times. An interval of such values would lie above what was measured.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from fedtrain.tasks.base import Batch
from fedtrain.tasks.intervals import areas, class_counts, determination, mean, mean_of_known

AREAS: Final = 20
"""Classes or labels up to which areas under curves have intervals: each takes 0.2 s for 10,000 records."""

_TWO = 2


class ResampledClasses:
    """Outcomes of a classifier: the loss, the class, the predicted class and, of up to 20 classes, the scores."""

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the outcomes of a batch of logits, shape (n, classes), and its ``targets``, int64 of shape (n,)."""
        logits, labels = outputs.detach().to(device="cpu", dtype=torch.float64), batch["targets"].to("cpu")
        found = {
            "loss": functional.cross_entropy(logits, labels, reduction="none"),
            "class": labels,
            "predicted": logits.argmax(dim=1),
        }
        if logits.shape[1] == _TWO:
            # The log-odds do not round to equal ones where a probability is almost 1.
            found["scores"] = logits[:, 1:] - logits[:, :1]
        elif logits.shape[1] <= AREAS:
            found["scores"] = logits.log_softmax(dim=1)
        return found

    def resampled(self, outcomes: Mapping[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Return the measurements on each resample; those over classes are over the classes that occur in it."""
        true, predicted = outcomes["class"], outcomes["predicted"]
        number = int(torch.maximum(true, predicted).max()) + 1
        right = (true == predicted).to(counts.dtype)
        hits = class_counts(true, number, counts * right[:, None])
        actual, called = class_counts(true, number, counts), class_counts(predicted, number, counts)
        occurs = (actual + called > 0).to(counts.dtype)

        def over_classes(values: Tensor, among: Tensor) -> Tensor:
            return (values * among).sum(dim=0) / among.sum(dim=0)

        recall = hits / actual.clamp(min=1)
        return {
            "accuracy": mean(right, counts),
            "precision": over_classes(hits / called.clamp(min=1), occurs),
            "recall": over_classes(recall, occurs),
            "f1": over_classes(2 * hits / (actual + called).clamp(min=1), occurs),
            "balanced_accuracy": over_classes(recall, (actual > 0).to(counts.dtype)),
            "loss": mean(outcomes["loss"], counts),
            **_areas_of_classes(outcomes, counts),
        }


def _areas_of_classes(outcomes: Mapping[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    if "scores" not in outcomes:
        return {}
    scores, true = outcomes["scores"], outcomes["class"]
    if scores.shape[1] == 1:
        auroc, precision = areas(scores[:, 0], true, counts)
        return {"auroc": auroc, "average_precision": precision}
    return _mean_areas(scores, functional.one_hot(true, scores.shape[1]), counts)


def _mean_areas(scores: Tensor, truth: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Return the mean areas over the columns of scores that some records of a resample have and others lack."""
    each = [areas(score, held, counts) for score, held in zip(scores.T, truth.T, strict=True)]
    return {
        "auroc": mean_of_known([auroc for auroc, _ in each]),
        "average_precision": mean_of_known([precision for _, precision in each]),
    }


class ResampledNumbers:
    """Outcomes of predicted numbers: the error and the target."""

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the outcomes of a batch of predictions, shape (n, 1), and its ``targets``, shape (n,)."""
        targets = batch["targets"].to(device="cpu", dtype=torch.float64)
        errors = outputs.detach().to(device="cpu", dtype=torch.float64).squeeze(1) - targets
        return {"error": errors, "target": targets}

    def resampled(self, outcomes: Mapping[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Return the measurements on each resample."""
        errors = outcomes["error"]
        squared = mean(errors.square(), counts)
        return {
            "mse": squared,
            "mae": mean(errors.abs(), counts),
            "loss": squared,
            "r2": determination(errors, outcomes["target"], counts),
        }


class ResampledLabels:
    """Outcomes of sets of labels: the loss and, of up to 20 labels, the scores."""

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the outcomes of a batch of logits, shape (n, labels), and its ``targets``, 0 or 1, of that shape."""
        logits = outputs.detach().to(device="cpu", dtype=torch.float64)
        truth = batch["targets"].to("cpu")
        losses = functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
        scores = {"scores": logits, "labels": truth} if logits.shape[1] <= AREAS else {}
        return {"loss": losses.mean(dim=1), **scores}

    def resampled(self, outcomes: Mapping[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Return the measurements on each resample."""
        found = {"loss": mean(outcomes["loss"], counts)}
        return found | (_mean_areas(outcomes["scores"], outcomes["labels"], counts) if "scores" in outcomes else {})
