"""Whether a sum of quantized updates has room for client privacy: for clipping before it, and for noise after it."""

from fedtrain.errors import ConfigError
from fedtrain.secagg.parameters import Parameters

# Noise of so many standard deviations or more has a probability below 1e-15.
_DEVIATIONS = 8


def check_noise(parameters: Parameters, *, clip_norm: float, noise_multiplier: float) -> None:
    """Check that clipping, rounding and noise leave something of an update, and of the sum.

    A client clips to the clipping norm less the largest error of rounding, which grows with the root of the length. The
    sum is known up to multiples of its range, and so is what is released: noise beyond the range would be lost.

    Args:
        parameters: of the whole cohort and the whole model.
        clip_norm: the clipping norm.
        noise_multiplier: standard deviation of the noise on the sum of the updates, over the clipping norm.

    Raises:
        ConfigError: they do not.
    """
    if parameters.rounding_error(parameters.length) >= clip_norm:
        raise ConfigError(
            f"transport.secagg.bits = {parameters.bits}: rounding {parameters.length} parameters can move an update by "
            f"more than privacy.clip_norm = {clip_norm:g}; raise it"
        )
    room = parameters.step * 2.0 ** (8 * parameters.width - 1) - parameters.members * clip_norm
    if room < _DEVIATIONS * noise_multiplier * clip_norm:
        raise ConfigError(
            f"transport.secagg.bits = {parameters.bits}: the sum of {parameters.members} updates, with noise of "
            f"{noise_multiplier:g} times the clipping norm, does not fit into {parameters.width} bytes; lower it"
        )
