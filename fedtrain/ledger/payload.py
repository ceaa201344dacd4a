"""What all signed payloads share: strict types, one form as bytes."""

from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from fedtrain.crypto import canonical, is_canonical
from fedtrain.errors import ForgeryError, PrivacySpecError

NOTHING = "0" * 64

Unit = Literal["record", "client"]
Noise = Literal["seeded", "secure"]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Number = Annotated[int, Field(ge=0, le=2**53 - 1)]
Time = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class Part(BaseModel):
    """An object in a payload: no unknown members, no conversion of types, no numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Payload(Part):
    """A signed payload."""

    def encode(self) -> bytes:
        """Return the canonical JSON (RFC 8785) that is signed."""
        return canonical(self.model_dump(mode="json"))


P = TypeVar("P", bound=Payload)


def decode(adapter: TypeAdapter[P], payload: bytes) -> P:
    """Return the payload of a type, or of one of several, that ``encode`` wrote.

    Raises:
        ForgeryError: it is anything else, be it by one byte.
    """
    if not is_canonical(payload):
        raise ForgeryError("the payload is not canonical JSON (RFC 8785)")
    try:
        value = adapter.validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "payload"
        raise ForgeryError(f"the payload is malformed: {where}: {first['msg']}") from error
    except PrivacySpecError as error:
        raise ForgeryError(f"the payload is malformed: {error}") from error
    # What has a default may be left out by who makes a payload, not by who signs one.
    if missing := type(value).model_fields.keys() - value.model_fields_set:
        raise ForgeryError(f"the payload is malformed: {', '.join(sorted(missing))} is missing")
    return value


def now() -> str:
    """Return the time in UTC, by this machine's clock, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
