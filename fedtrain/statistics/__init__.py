"""Statistics that need one sum over the records, once: what a record adds, and what is read from the noisy sum.

Nothing here adds noise: a mechanism does, which bounds what a record adds by itself. What is computed here from a noisy
sum is post-processing, and costs no privacy.
"""

from fedtrain.statistics.columns import Column, ColumnLayout, Scaling, parse_column, parse_scaling
from fedtrain.statistics.estimates import ColumnEstimates, Estimate, Estimates, estimate
from fedtrain.statistics.least_squares import fit, noise_norm, ridge
from fedtrain.statistics.moments import MomentLayout, Moments
from fedtrain.statistics.targets import ClassCode, LabelsCode, NumberCode, TargetCode

__all__ = [
    "ClassCode",
    "Column",
    "ColumnEstimates",
    "ColumnLayout",
    "Estimate",
    "Estimates",
    "LabelsCode",
    "MomentLayout",
    "Moments",
    "NumberCode",
    "Scaling",
    "TargetCode",
    "estimate",
    "fit",
    "noise_norm",
    "parse_column",
    "parse_scaling",
    "ridge",
]
