import math

import pytest

from fedtrain.errors import ConfigError, TransportError
from fedtrain.secagg import Parameters, check_noise

GOOD = {"members": 10, "length": 4, "bits": 16, "bound": 1.0}


def plan(**changes):
    return Parameters.plan(**GOOD | changes)


def test_the_defaults_are_all_neighbours_and_two_thirds_of_the_holders():
    parameters = plan()
    assert (parameters.neighbours, parameters.threshold, parameters.width) == (9, 7, 3)
    assert (parameters.largest, parameters.step) == (32767, 1 / 32767)
    assert [plan(members=n).threshold for n in (2, 3, 4, 5, 6, 11, 100, 200)] == [2, 2, 3, 4, 4, 8, 67, 134]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"members": 1}, "a cohort of 2 to 100000, and this has 1"),
        ({"members": 100_001, "neighbours": 200}, "and this has 100001"),
        ({"length": 0}, "a vector of 0 words cannot be summed: 1 to 4294967296 words are allowed"),
        ({"length": 2**32 + 1}, "a vector of 4294967297 words"),
        ({"bits": 1}, "1 bits cannot be used: .* so 2 to 28 bits are allowed"),
        ({"bits": 29}, "29 bits cannot be used: the sum of 10 .* so 2 to 28 bits"),
        ({"bound": 0.0}, "a bound of 0.0 cannot be used: 1e-290 to 1e[+]290 are allowed"),
        ({"bound": -1.0}, "a bound of -1.0 cannot"),
        ({"bound": math.inf}, "a bound of inf cannot"),
        ({"bound": math.nan}, "a bound of nan cannot"),
        ({"bound": 9e-291}, "a bound of 9e-291 cannot"),
        ({"bound": 1.1e290}, "a bound of 1.1e[+]290 cannot"),
        ({"threshold": 1, "members": 2}, "transport.secagg.threshold can be 2 to 2, or unset for 2"),
        (
            {"threshold": 6},
            "a threshold of 6 cannot be used where a secret has 10 holders: with fewer than .* be 7 to 10",
        ),
        ({"threshold": 5, "members": 9}, "a secret has 9 holders: .* can be 6 to 9"),
        ({"threshold": 11}, "a secret has 10 holders: no secret has more shares than holders; .* can be 7 to 10"),
        ({"neighbours": 8}, "8 neighbours in a cohort of 10 would let a server that lies"),
        ({"neighbours": 10}, "10 neighbours in a cohort of 10 would let"),
        (
            {"members": 300, "neighbours": 111},
            "111 neighbours in a cohort of 300 cannot be arranged: .* even number from 2 to 254$",
        ),
        ({"members": 300, "neighbours": 299}, "an even number from 2 to 254$"),
        ({"members": 300, "neighbours": 0}, "0 neighbours in a cohort of 300 cannot be arranged"),
        (
            {"members": 210, "neighbours": 210},
            "210 neighbours in a cohort of 210 cannot be arranged: .* 2 to 209, or all 209 others",
        ),
        ({"members": 300, "neighbours": 20}, "too few: with 10% .* default is 110 neighbours and a threshold of 74"),
        ({"members": 300, "neighbours": 110, "threshold": 73}, "a threshold of 73 .* 111 holders: .* can be 74 to 111"),
        ({"members": 50_000}, "a cohort of 50000 is too large"),
    ],
)
def test_what_is_not_safe_is_refused(changes, why):
    with pytest.raises(ConfigError, match=why):
        plan(**changes)


@pytest.mark.parametrize("members", range(2, 201))
def test_a_threshold_is_two_thirds_of_the_holders_or_more(members):
    # With fewer a server and colluders that are less than a third could tell two stories about one client.
    least = min(count for count in range(members + 1) if 3 * count >= 2 * members)
    assert plan(members=members, threshold=least).threshold == least
    assert plan(members=members, threshold=members).threshold == members
    with pytest.raises(ConfigError, match=f"can be {least} to {members}, or unset for {least}$"):
        plan(members=members, threshold=least - 1)


def test_in_a_larger_cohort_neighbours_can_be_chosen():
    assert plan(members=300).neighbours == 110
    assert plan(members=300, neighbours=200).threshold == 134
    assert plan(members=240, neighbours=239).neighbours == 239


@pytest.mark.parametrize("members", [2, 3, 10, 64, 255, 256, 257, 1000])
def test_the_headroom_is_tight(members):
    most = max(bits for bits in range(2, 32) if members * (2 ** (bits - 1) - 1) < 2**31)
    parameters = plan(members=members, bits=most)
    assert members * parameters.largest < 2 ** (8 * parameters.width - 1)
    with pytest.raises(ConfigError, match=f"2 to {most} bits"):
        plan(members=members, bits=most + 1)
    for bits in range(2, most + 1):
        width = plan(members=members, bits=bits).width
        total = members * (2 ** (bits - 1) - 1)
        assert total < 2 ** (8 * width - 1)
        assert width == 1 or total >= 2 ** (8 * (width - 1) - 1)


def test_sixteen_bits_take_three_bytes_up_to_a_cohort_of_256():
    assert plan(members=256).width == 3
    assert plan(members=257).width == 4


def test_parameters_are_read_back():
    parameters = plan(threshold=8)
    assert Parameters.from_fields(parameters.to_fields()) == parameters


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bits": 29}, "the parameters are refused: 29 bits"),
        ({"threshold": 6}, "the parameters are refused: a threshold of 6"),
        ({"members": True}, "members is not a whole number"),
        ({"members": -1}, "members is not a whole number"),
        ({"length": 2**53}, "length is not a whole number"),
        ({"bound": 1}, "bound is not a finite number"),
        ({"bound": math.nan}, "bound is not a finite number"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_other_fields_are_refused(changes, why):
    with pytest.raises(TransportError, match=why):
        Parameters.from_fields(plan().to_fields() | changes)


def test_a_missing_field_is_refused():
    for name in plan().to_fields():
        fields = plan().to_fields()
        del fields[name]
        with pytest.raises(TransportError, match=f"there is no field '{name}'"):
            Parameters.from_fields(fields)


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
