import pytest

from fedtrain.config import Training
from fedtrain.training import learning_rate


def rates(rounds=4, **fields):
    config = Training(learning_rate=1.0, **fields)
    return [learning_rate(config, round_number=number, rounds=rounds) for number in range(1, rounds + 1)]


def test_schedules():
    assert rates() == [1.0] * 4
    assert rates(schedule="step", step_rounds=2, step_factor=0.5) == [1.0, 1.0, 0.5, 0.5]
    assert rates(schedule="cosine") == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert rates(schedule="cosine", final_fraction=1.0) == [1.0] * 4


def test_warm_up_comes_before_the_schedule():
    assert rates(warmup_rounds=3) == [0.25, 0.5, 0.75, 1.0]
    assert rates(rounds=6, warmup_rounds=2, schedule="cosine")[2:] == rates(schedule="cosine")
