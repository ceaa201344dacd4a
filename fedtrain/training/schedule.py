"""The learning rate over the rounds."""

from math import cos, pi

from fedtrain.config import Training


def learning_rate(config: Training, *, round_number: int, rounds: int) -> float:
    """Return the learning rate of a round, counted from 1 to ``rounds``.

    Warm-up rises linearly to the full rate; the schedule then runs over the rounds that are left. The cosine is that of
    Loshchilov and Hutter 2017 (equation 5), without restarts, and reaches its end after the last round.
    """
    if round_number <= config.warmup_rounds:
        return config.learning_rate * round_number / (config.warmup_rounds + 1)
    done = round_number - 1 - config.warmup_rounds
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** (done // config.step_rounds)
    if config.schedule == "cosine":
        progress = done / (rounds - config.warmup_rounds)
        fraction = config.final_fraction + (1 - config.final_fraction) * (1 + cos(pi * progress)) / 2
        return config.learning_rate * fraction
    return config.learning_rate
