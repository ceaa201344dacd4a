"""What a run leaves behind for people and machines.

The page and the pictures are in ``fedtrain.report.html`` and ``fedtrain.report.plots``: importing those loads
matplotlib, which the processes that only write records do without. The names here are imported when they are first
used: a command that only writes numbers as people read them (``fedtrain.report.numbers``) does without the schema.
"""

from typing import TYPE_CHECKING

from fedtrain import imported_when_used

if TYPE_CHECKING:
    from fedtrain.report.evaluation import (
        Best,
        Evaluation,
        Evaluations,
        Group,
        Groups,
        Interval,
        Intervals,
        Metric,
        OtherGroups,
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
        PublicSummary,
        RoundEntry,
        SecureAggregation,
        SignedTrail,
        SiteName,
        TextSample,
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
    "Group",
    "Groups",
    "IntegerNoise",
    "Interval",
    "Intervals",
    "LedgerTrail",
    "Mechanism",
    "Metric",
    "ModelFile",
    "ModelSummary",
    "NoiseShares",
    "OtherGroups",
    "PerClass",
    "Privacy",
    "PrivacyEvent",
    "PrivacyPoint",
    "PublicSummary",
    "Report",
    "RoundEntry",
    "Sampling",
    "SecureAggregation",
    "SignedTrail",
    "SiteName",
    "TextSample",
    "Threshold",
    "best_of",
    "better",
    "body_digest",
]

__getattr__ = imported_when_used(
    __name__,
    {
        "fedtrain.report.evaluation": (
            "Best",
            "Evaluation",
            "Evaluations",
            "Group",
            "Groups",
            "Interval",
            "Intervals",
            "Metric",
            "OtherGroups",
            "PerClass",
            "Threshold",
            "best_of",
            "better",
        ),
        "fedtrain.report.parts": (
            "DataSummary",
            "Dropped",
            "EncoderSummary",
            "LedgerTrail",
            "ModelFile",
            "ModelSummary",
            "PublicSummary",
            "RoundEntry",
            "SecureAggregation",
            "SignedTrail",
            "SiteName",
            "TextSample",
        ),
        "fedtrain.report.privacy": (
            "Accountant",
            "AdaptiveClipping",
            "Adversary",
            "ClientPrivacy",
            "Correlation",
            "IntegerNoise",
            "Mechanism",
            "NoiseShares",
            "Privacy",
            "PrivacyEvent",
            "PrivacyPoint",
            "Sampling",
        ),
        "fedtrain.report.schema": (
            "SCHEMA",
            "Report",
            "body_digest",
        ),
    },
)
