from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from fedtrain.health.clock import MOST_AHEAD, MOST_BEHIND, compare_clocks

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def judged(ahead, *, travel=0.0):
    """Judge a clock that is so many seconds ahead of the server's."""
    # The header is cut to the second: half of one is lost on average.
    sent = NOON + timedelta(seconds=0.5 + ahead - travel / 2)
    date = format_datetime(NOON, usegmt=True)
    return compare_clocks(date, sent, sent + timedelta(seconds=travel))


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        (0, "ok"),
        (1.5, "ok"),
        (2.5, "warns"),
        (5.5, "fails"),
        (-20, "ok"),
        (-31, "warns"),
        (-304, "warns"),
        (-306, "fails"),
    ],
)
def test_how_far_a_clock_may_be_off(ahead, status):
    assert judged(ahead).status == status


def test_a_slow_network_is_no_wrong_clock():
    assert judged(0, travel=8.0).status == "ok"


@pytest.mark.parametrize("date", [None, "", "yesterday", "Wed, 32 Jul 2026 12:00:00 GMT"])
def test_a_time_that_is_none(date):
    check = compare_clocks(date, NOON, NOON)
    assert check.status == "warns"
    assert "was not compared" in check.detail


def test_a_time_without_a_zone_is_taken_as_utc():
    assert compare_clocks("Wed, 01 Jul 2026 12:00:00 -0000", NOON, NOON).status == "ok"


def test_the_limits_are_those_of_flower():
    assert MOST_AHEAD.total_seconds() == SYSTEM_TIME_TOLERANCE
    assert MOST_BEHIND.total_seconds() == TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
