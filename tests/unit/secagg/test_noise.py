import pytest

from fedtrain.errors import ConfigError
from fedtrain.secagg import Parameters, check_noise


def parameters(**changes):
    return Parameters.plan(**{"members": 10, "length": 1000, "bits": 16, "bound": 0.5} | changes)


@pytest.mark.parametrize("norm", [1e-3, 0.5, 1e6])
@pytest.mark.parametrize(
    ("changes", "noise_multiplier", "problem"),
    [
        ({}, 1.0, None),
        ({"bits": 6}, 0.1, "bits = 6: rounding 1000 parameters can move an update by more than"),
        ({"bits": 7}, 0.1, None),
        ({"length": 31 * 31 - 1, "bits": 6}, 0.1, None),
        ({"length": 31 * 31, "bits": 6}, 0.1, "rounding 961 parameters"),
        # Three bytes hold 2^23 steps: 256 norms, less the 10 of the sum.
        ({}, 30.0, None),
        ({}, 31.0, "sum of 10 updates, with noise of 31 times the clipping norm, does not fit into 3 bytes; lower it"),
        ({"members": 300}, 31.0, None),
    ],
)
def test_there_is_room_for_clipping_before_the_sum_and_for_noise_after_it(norm, changes, noise_multiplier, problem):
    made = parameters(bound=norm, **changes)
    if problem is None:
        check_noise(made, clip_norm=norm, noise_multiplier=noise_multiplier)
        return
    with pytest.raises(ConfigError, match=problem):
        check_noise(made, clip_norm=norm, noise_multiplier=noise_multiplier)
