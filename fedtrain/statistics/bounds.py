"""The bounds without which no noise hides a statistic."""

from math import isfinite

from fedtrain.errors import ConfigError


def check_bounds(what: str, lower: float, upper: float) -> None:
    """Refuse bounds that bound nothing.

    Args:
        what: what they are of, in words.
        lower: the lower bound.
        upper: the upper bound.

    Raises:
        ConfigError: one is not finite, or they are not in order; it says the arithmetic.
    """
    if not isfinite(width := abs(upper - lower)):
        raise ConfigError(
            f"{what} is an unbounded statistic: within {lower:g} to {upper:g}, one record moves its sum by up to "
            f"{width:g}, and noise that hides the record has a standard deviation of noise multiplier * "
            f"{width:g}; no finite noise does. Give finite bounds that are public: what is known without "
            "looking at the records"
        )
    if not lower < upper:
        raise ConfigError(f"{what} is within {lower:g} to {upper:g}, and the lower bound is to be below the upper")
