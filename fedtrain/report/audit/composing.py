"""Compose charges that clients signed, whatever they signed."""

from collections.abc import Callable, Iterable

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import SampledGaussian
from fedtrain.privacy.accounting import Bound

Accounting = Callable[[Iterable[SampledGaussian], float], Bound]


def composed(accounting: Accounting, events: Iterable[SampledGaussian], delta: float) -> Bound | str:
    """Return what an accountant gives for charges, or why it gives nothing: they may be absurd, and still be signed."""
    try:
        return accounting(events, delta)
    except (PrivacySpecError, ArithmeticError, ValueError, MemoryError) as error:
        return f"its charges cannot be composed: {error}"
