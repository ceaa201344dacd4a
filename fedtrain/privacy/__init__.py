"""Privacy plans and their accounting."""

from fedtrain.privacy.accounting import ACCOUNTANT, COARSE, epsilon_of
from fedtrain.privacy.events import SampledGaussian, merge
from fedtrain.privacy.plan import AdaptiveClipping, PrivacyPlan, PrivacySpec, calibrate

__all__ = [
    "ACCOUNTANT",
    "COARSE",
    "AdaptiveClipping",
    "PrivacyPlan",
    "PrivacySpec",
    "SampledGaussian",
    "calibrate",
    "epsilon_of",
    "merge",
]
