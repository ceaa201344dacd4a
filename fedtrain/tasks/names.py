"""Say which name is not known, which is nearest, and which are allowed."""

from collections.abc import Collection
from difflib import get_close_matches

from fedtrain.errors import TaskError


def unknown(field: str, value: str, allowed: Collection[str], also: str = "") -> TaskError:
    """Return the error for a value that is none of the allowed names.

    Args:
        field: the configuration field that holds the value.
        value: the value.
        allowed: the names that the field may hold.
        also: what else the field may hold, in words.
    """
    close = get_close_matches(value, allowed, n=1, cutoff=0.4)
    hint = f'; did you mean "{close[0]}"?' if close else "."
    names = ", ".join(f'"{name}"' for name in allowed)
    return TaskError(f'{field} = "{value}" is not known{hint} Allowed: {names}{also}.')
