"""How well a score tells records with a label from those without it: areas under curves, and what thresholds call.

A threshold calls the records whose score is not below it. Everything here depends on the order of the scores alone, so
that probabilities and logits give the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What each different score calls as a threshold, the highest first.

    Attributes:
        hits: int64, shape (scores,), the called records that have the label.
        called: int64, shape (scores,), the called records.
    """

    hits: Tensor
    called: Tensor

    @classmethod
    def of(cls, scores: Tensor, truth: Tensor) -> "Ranking":
        """Rank records.

        Args:
            scores: floating point, shape (n,), not NaN.
            truth: 0 or 1, shape (n,), 1 where a record has the label.
        """
        order = scores.argsort(descending=True)
        ordered = scores[order]
        # Records of one score are called together.
        last = torch.ones(len(order), dtype=torch.bool)
        last[:-1] = ordered[1:] != ordered[:-1]
        places = torch.arange(1, len(order) + 1)
        return cls(hits=truth[order].to(torch.int64).cumsum(0)[last], called=places[last])

    @property
    def known(self) -> bool:
        """Whether there are records with the label and records without it: no curve is defined without both."""
        return len(self.hits) > 0 and 0 < int(self.hits[-1]) < int(self.called[-1])

    def auroc(self) -> float | None:
        """Return the area under the ROC curve, by trapezoids; ``None`` where it is undefined.

        It is the probability that a record with the label has a higher score than one without it, equal scores counted
        half (Hanley and McNeil 1982).
        """
        if not self.known:
            return None
        wrong = self.called - self.hits
        heights = self.hits + _before(self.hits)
        twice = ((wrong - _before(wrong)) * heights).sum()
        return float(twice) / (2 * float(self.hits[-1]) * float(wrong[-1]))

    def average_precision(self) -> float | None:
        """Return the area under the precision-recall curve as a sum of steps; ``None`` where it is undefined.

        The precision of each threshold is weighted by the recall that it adds, without interpolation.
        """
        if not self.known:
            return None
        added = (self.hits - _before(self.hits)).to(torch.float64)
        return float((added * self.hits / self.called).sum() / self.hits[-1])


def _before(values: Tensor) -> Tensor:
    """Return the value before each, 0 before the first."""
    return torch.cat([values.new_zeros(1), values[:-1]])


THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""The probabilities of a table of thresholds."""


def threshold_table(log_odds: Tensor, truth: Tensor) -> list[dict[str, float]]:
    """Return what each of `THRESHOLDS` on a probability calls: a mapping for each.

    A ratio with zero in its divisor is 0.

    Args:
        log_odds: of the label, floating point, shape (n,), not NaN.
        truth: 0 or 1, shape (n,).
    """
    positive = truth > 0
    rows = []
    for threshold in THRESHOLDS:
        called = log_odds >= torch.logit(torch.tensor(threshold, dtype=log_odds.dtype))
        hits, spared = int((called & positive).sum()), int((~called & ~positive).sum())
        rows.append(
            {
                "threshold": threshold,
                "called": int(called.sum()),
                "precision": hits / max(int(called.sum()), 1),
                "recall": hits / max(int(positive.sum()), 1),
                "specificity": spared / max(int((~positive).sum()), 1),
            }
        )
    return rows
