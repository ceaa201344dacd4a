"""What a run leaves behind for people and machines.

The page and the pictures are in ``fedtrain.report.html`` and ``fedtrain.report.plots``: importing those loads
matplotlib, which the processes that only write records do without.
"""

from fedtrain.report.digest import body_digest
from fedtrain.report.evaluation import Best, Evaluation, Evaluations, Metric, PerClass, best_of
from fedtrain.report.mechanism import Accountant, AdaptiveClipping, Adversary, Mechanism, PrivacyEvent, Sampling
from fedtrain.report.privacy import ClientPrivacy, Privacy, PrivacyPoint
from fedtrain.report.schema import (
    SCHEMA,
    DataSummary,
    Dropped,
    ModelFile,
    ModelSummary,
    Report,
    RoundEntry,
    SecureAggregation,
)
from fedtrain.report.trail import LedgerTrail, SignedTrail

__all__ = [
    "SCHEMA",
    "Accountant",
    "AdaptiveClipping",
    "Adversary",
    "Best",
    "ClientPrivacy",
    "DataSummary",
    "Dropped",
    "Evaluation",
    "Evaluations",
    "LedgerTrail",
    "Mechanism",
    "Metric",
    "ModelFile",
    "ModelSummary",
    "PerClass",
    "Privacy",
    "PrivacyEvent",
    "PrivacyPoint",
    "Report",
    "RoundEntry",
    "Sampling",
    "SecureAggregation",
    "SignedTrail",
    "best_of",
    "body_digest",
]
