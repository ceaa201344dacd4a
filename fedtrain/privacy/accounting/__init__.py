"""How much privacy a sequence of events spends, by three accountants."""

from fedtrain.privacy.accounting.base import COMPOSED
from fedtrain.privacy.accounting.bounds import (
    ACCOUNTANT,
    COARSE,
    FINE,
    Bound,
    ceiling,
    claim,
    epsilon_of,
    first_bound,
    second_opinion,
)

__all__ = [
    "ACCOUNTANT",
    "COARSE",
    "COMPOSED",
    "FINE",
    "Bound",
    "ceiling",
    "claim",
    "epsilon_of",
    "first_bound",
    "second_opinion",
]
