"""What all parts of the report have in common."""

from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Scalar = bool | int | float | str
Count = Annotated[int, Field(ge=0)]
Round = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A part of the report: immutable, strictly typed, finite numbers, no unknown keys.

    Sequences are tuples; JSON arrays are read as tuples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True)


def ascending(rounds: tuple[int, ...]) -> bool:
    """Say whether round numbers are in order, each at most once."""
    return all(before < after for before, after in pairwise(rounds))
