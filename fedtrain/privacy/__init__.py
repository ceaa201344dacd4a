"""Privacy plans and their accounting."""

from fedtrain.privacy.account import Account, Charge
from fedtrain.privacy.accounting import ACCOUNTANT, COARSE, epsilon_of
from fedtrain.privacy.events import SampledGaussian, merge
from fedtrain.privacy.plan import PrivacyPlan, PrivacySpec, calibrate

__all__ = [
    "ACCOUNTANT",
    "COARSE",
    "Account",
    "Charge",
    "PrivacyPlan",
    "PrivacySpec",
    "SampledGaussian",
    "calibrate",
    "epsilon_of",
    "merge",
]
