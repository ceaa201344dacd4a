"""Say what is wrong with a configuration: the field, the value, and what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError


def nearest(key: str, known: Iterable[str]) -> str:
    """Name the known key that is nearest to an unknown one."""
    known = list(known)
    last = key.rsplit(".", 1)[-1]
    close = get_close_matches(key, known, n=1, cutoff=0.6) or [
        candidate for candidate in known if candidate.rsplit(".", 1)[-1] == last
    ]
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(sorted(known))}"


def explain(error: ValidationError) -> str:
    """Return one line for each problem that pydantic found."""
    lines = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error":
            lines.append(f"{field}: {message}" if field else message)
        else:
            lines.append(f"{field} = {problem['input']!r}: {message[0].lower()}{message[1:]}")
    return "\n".join(lines)
