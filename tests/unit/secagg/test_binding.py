from dataclasses import replace

from fedtrain.secagg import Parameters
from fedtrain.secagg.binding import binding_of, commitment, order_seed

ROUND = {
    "run": "run",
    "session": "session",
    "number": 1,
    "parameters": Parameters.plan(members=3, length=4, bits=16, bound=1.0),
    "work": "00" * 32,
    "announcements": ["a", "b", "c"],
}
OTHERS = [
    {"run": "sessio"},
    {"session": "other"},
    {"number": 2},
    {"work": "00" * 31 + "01"},
    {"announcements": ["a", "b"]},
    {"announcements": ["a", "c", "b"]},
    {"announcements": ["ab", "c"]},
]
PARAMETERS = [
    {"length": 5},
    {"bits": 15},
    {"bound": 2.0},
    {"threshold": 3},
    {"members": 4, "neighbours": 3, "threshold": 3},
]


def test_every_part_of_a_round_is_bound():
    rounds = [ROUND, *(ROUND | other for other in OTHERS)]
    rounds += [ROUND | {"parameters": replace(ROUND["parameters"], **changes)} for changes in PARAMETERS]
    assert len({binding_of(**one) for one in rounds}) == len(rounds)


def test_parameters_and_work_do_not_decide_the_order():
    rounds = [{**one} for one in (ROUND, *(ROUND | other for other in OTHERS if "work" not in other))]
    for one in rounds:
        del one["parameters"], one["work"]
    seeds = {order_seed(**one) for one in rounds}
    assert len(seeds) == len(rounds)
    assert {len(seed) for seed in seeds} == {32}


def test_a_commitment_is_for_one_secret_of_one_pair_in_one_round():
    subjects = [
        ("00" * 32, 1, 2, b"secret"),
        ("01" * 32, 1, 2, b"secret"),
        ("00" * 32, 2, 1, b"secret"),
        ("00" * 32, 1, 1, b"secret"),
        ("00" * 32, 11, 2, b"secret"),
        ("00" * 32, 1, 12, b"secret"),
        ("00" * 32, 1, 2, b"secreT"),
        ("00" * 32, 1, 2, b"\nsecret"),
    ]
    assert len({commitment(*subject) for subject in subjects}) == len(subjects)
