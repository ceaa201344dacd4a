"""Privacy plans and their accounting."""

from fedtrain.privacy.accounting import (
    ACCOUNTANT,
    COARSE,
    FINE,
    Bound,
    ceiling,
    claim,
    epsilon_of,
    second_opinion,
)
from fedtrain.privacy.events import Event, SampledGaussian, SampledSkellam, merge
from fedtrain.privacy.plan import PrivacyPlan, calibrate
from fedtrain.privacy.spec import AdaptiveClipping, PrivacySpec

__all__ = [
    "ACCOUNTANT",
    "COARSE",
    "FINE",
    "AdaptiveClipping",
    "Bound",
    "Event",
    "PrivacyPlan",
    "PrivacySpec",
    "SampledGaussian",
    "SampledSkellam",
    "calibrate",
    "ceiling",
    "claim",
    "epsilon_of",
    "merge",
    "second_opinion",
]
