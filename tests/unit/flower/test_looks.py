import time

import pytest

from fedtrain.flower.looks import Looks


class Time:
    def __init__(self):
        self.now, self.waits = 1000.0, []

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def passing():
    return Time()


@pytest.fixture
def looks(passing):
    return Looks(clock=lambda: passing.now, wait=passing.wait)


def test_where_nothing_has_come_yet_flower_looks_as_ever(looks, passing):
    looks.sleep(3.0)
    looks.sleep(0.5)
    assert passing.waits == [3.0, 0.5]


def test_after_a_message_looks_are_many_and_then_fewer_until_they_are_flowers_own(looks, passing):
    looks.found()
    begin = passing.now
    while not passing.waits or passing.waits[-1] < 3.0:
        looks.sleep(3.0)
    assert passing.waits[0] == pytest.approx(0.3)
    assert passing.waits == sorted(passing.waits)
    assert all(
        wait <= max(0.3, 0.1 * (at - begin)) + 1e-9 for wait, at in zip(passing.waits, moments(passing), strict=True)
    )
    assert 30.0 <= passing.now - begin <= 40.0
    assert len(passing.waits) < 50
    looks.found()
    looks.sleep(3.0)
    assert passing.waits[-1] == pytest.approx(0.3)


def moments(passing):
    """Return when each wait began."""
    end = passing.now
    for wait in reversed(passing.waits):
        end -= wait
    begins = [end]
    for wait in passing.waits[:-1]:
        begins.append(begins[-1] + wait)
    return begins


def test_flower_is_never_made_to_wait_longer(looks, passing):
    looks.found()
    looks.sleep(0.1)
    assert passing.waits == [0.1]


def test_all_else_of_the_module_is_as_it_was(looks, passing):
    looks.time.sleep(2.0)
    assert passing.waits == [2.0]
    assert looks.time.monotonic is time.monotonic
