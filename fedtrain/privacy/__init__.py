"""Privacy plans and their accounting."""

from fedtrain.privacy.account import Account, Charge
from fedtrain.privacy.accounting import ACCOUNTANT, COARSE, epsilon_of
from fedtrain.privacy.events import SampledGaussian, merge
from fedtrain.privacy.plan import AdaptiveClipping, PrivacyPlan, PrivacySpec, calibrate

__all__ = [
    "ACCOUNTANT",
    "COARSE",
    "Account",
    "AdaptiveClipping",
    "Charge",
    "PrivacyPlan",
    "PrivacySpec",
    "SampledGaussian",
    "calibrate",
    "epsilon_of",
    "merge",
]
