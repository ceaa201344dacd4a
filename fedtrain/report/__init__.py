"""What a run leaves behind for people and machines.

The page and the pictures are in ``fedtrain.report.html`` and ``fedtrain.report.plots``: importing those loads
matplotlib, which the processes that only write records do without.
"""

from fedtrain.report.evaluation import (
    Best,
    Evaluation,
    Evaluations,
    Interval,
    Intervals,
    Metric,
    PerClass,
    Threshold,
    best_of,
    better,
)
from fedtrain.report.parts import (
    DataSummary,
    Dropped,
    EncoderSummary,
    LedgerTrail,
    ModelFile,
    ModelSummary,
    RoundEntry,
    SecureAggregation,
    SignedTrail,
    SiteName,
)
from fedtrain.report.privacy import (
    Accountant,
    AdaptiveClipping,
    Adversary,
    ClientPrivacy,
    Correlation,
    IntegerNoise,
    Mechanism,
    NoiseShares,
    Privacy,
    PrivacyEvent,
    PrivacyPoint,
    Sampling,
)
from fedtrain.report.schema import SCHEMA, Report, body_digest

__all__ = [
    "SCHEMA",
    "Accountant",
    "AdaptiveClipping",
    "Adversary",
    "Best",
    "ClientPrivacy",
    "Correlation",
    "DataSummary",
    "Dropped",
    "EncoderSummary",
    "Evaluation",
    "Evaluations",
    "IntegerNoise",
    "Interval",
    "Intervals",
    "LedgerTrail",
    "Mechanism",
    "Metric",
    "ModelFile",
    "ModelSummary",
    "NoiseShares",
    "PerClass",
    "Privacy",
    "PrivacyEvent",
    "PrivacyPoint",
    "Report",
    "RoundEntry",
    "Sampling",
    "SecureAggregation",
    "SignedTrail",
    "SiteName",
    "Threshold",
    "best_of",
    "better",
    "body_digest",
]
