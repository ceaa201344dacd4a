"""Whether this machine's clock agrees with the server's closely enough.

A SuperNode signs the time of each request, and the SuperLink takes it if it is less than 5 s ahead of its own clock and
less than 305 s behind (Flower 1.41, ``flwr.superlink.routers.fleet.node_auth``).
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from fedtrain.health.check import Check, fails, ok, warns

MOST_AHEAD = timedelta(seconds=5)
MOST_BEHIND = timedelta(seconds=305)

# What a clock that is kept by NTP stays far within.
_AHEAD = timedelta(seconds=2)
_BEHIND = timedelta(seconds=30)

_ADVICE = "set it, and keep it by NTP (for example: timedatectl set-ntp true)"


def compare_clocks(date: str | None, sent: datetime, received: datetime) -> Check:
    """Judge this machine's clock by an answer of the server.

    Args:
        date: the answer's header ``Date`` (RFC 9110, section 6.6.1), which is cut to whole seconds.
        sent: when the request left, by this clock.
        received: when the answer came, by this clock.
    """
    theirs = _parsed(date)
    if theirs is None:
        return warns("clock", "the server's answer tells no time, so this machine's clock was not compared with its")
    ahead = sent + (received - sent) / 2 - (theirs + timedelta(seconds=0.5))
    seconds = abs(ahead.total_seconds())
    if ahead >= timedelta(0):
        detail, tolerated, usual = f"{seconds:.1f} s ahead of the server's", MOST_AHEAD, _AHEAD
    else:
        detail, tolerated, usual = f"{seconds:.1f} s behind the server's", MOST_BEHIND, _BEHIND
    detail = f"this machine's clock is {detail}"
    if seconds >= tolerated.total_seconds():
        return fails("clock", f"{detail}, and the server takes less than {tolerated.seconds} s; {_ADVICE}")
    if seconds >= usual.total_seconds():
        return warns("clock", f"{detail}; the server takes less than {tolerated.seconds} s; {_ADVICE}")
    return ok("clock", f"{detail}; the server takes less than {tolerated.seconds} s")


def _parsed(date: str | None) -> datetime | None:
    try:
        time = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
