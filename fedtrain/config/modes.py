"""The names that ``privacy.mode`` may have: in experiments, reports, records and site files.

Those of fedtrain are here. A mechanism of another mode declares its own when it is registered
(`fedtrain.privacy.mechanisms.register`).
"""

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticKnownError

MODES = ["none", "record", "client"]


def declare(mode: str) -> None:
    """Let ``privacy.mode`` have another name."""
    if mode not in MODES:
        MODES.append(mode)


def withdraw(mode: str) -> None:
    """Take back what ``declare`` added."""
    MODES.remove(mode)


def _known(mode: str) -> str:
    if mode not in MODES:
        *others, last = (repr(name) for name in MODES)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    return mode


Mode = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": MODES, "type": "string"})]
"""The name of a mode, known at the time when it is read."""
