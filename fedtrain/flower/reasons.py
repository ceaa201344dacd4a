"""What clients say went wrong, for people to read."""

import re
from collections.abc import Mapping

_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\w*: ")
_LONGEST = 600


def cause(reason: str) -> str:
    """Return the message of the exception that a traceback ends with, all lines of it, shortened at its end."""
    lines = reason.strip().splitlines() or ["no reason given"]
    starts = [number for number, line in enumerate(lines) if _EXCEPTION.match(line)]
    text = "\n".join(lines[starts[-1] :]) if starts else lines[-1]
    text = _EXCEPTION.sub("", text, count=1)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def by_client(reasons: Mapping[int, str]) -> str:
    """Return a line or more for each client, with what its reason comes down to."""
    return "\n".join(f"client {client}: {cause(reason)}" for client, reason in sorted(reasons.items()))
