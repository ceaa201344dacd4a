"""The line of a ledger: a privacy charge that is reserved, or what became of it; and what all signed payloads share."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from fedtrain.crypto import canonical, is_canonical
from fedtrain.errors import ForgeryError, PrivacySpecError
from fedtrain.privacy.accounting import COMPOSED
from fedtrain.privacy.events import Event, read_event

NOTHING = "0" * 64

Unit = Literal["record", "client"]
Noise = Literal["seeded", "secure"]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Number = Annotated[int, Field(ge=0, le=2**53 - 1)]
Time = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
PAYLOAD_TYPE = "application/vnd.fedtrain.ledger-entry.v1+json"


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
    # What has a default may be left out of a new payload, and of a signed one only where `encode` leaves it out.
    left_out = {name for name, field in type(value).model_fields.items() if _left_out(value, name, field)}
    if missing := type(value).model_fields.keys() - value.model_fields_set - left_out:
        raise ForgeryError(f"the payload is malformed: {', '.join(sorted(missing))} is missing")
    if needless := value.model_fields_set & left_out:
        raise ForgeryError(f"the payload is malformed: {', '.join(sorted(needless))} is to be left out")
    return value


def _left_out(value: Payload, name: str, field: FieldInfo) -> bool:
    return field.exclude_if is not None and bool(field.exclude_if(getattr(value, name)))


def now() -> str:
    """Return the time in UTC, by this machine's clock, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def today() -> str:
    """Return the day in UTC, as a time: its beginning."""
    return datetime.now(UTC).strftime("%Y-%m-%dT00:00:00Z")


def _event(value: object) -> Event:
    event = cast("Event", value) if hasattr(value, "check_charge") else read_event(value)
    event.check_charge()
    if event.kind not in COMPOSED:
        raise PrivacySpecError(f"events of kind {event.kind!r} cannot be charged: no accountant composes them")
    return event


Charged = Annotated[Event, PlainValidator(_event), PlainSerializer(lambda event: event.as_data())]


class LedgerEntry(Payload):
    """A reservation, or its settlement.

    A reservation charges the data set, whether or not it is ever settled. A settlement repeats the reservation and adds
    what was made of it; it charges nothing.

    Attributes:
        sequence: the place in the ledger, from 0.
        previous: digest of the line before; 64 zeros for the first.
        dataset: keyed digest of the data set's content.
        run: id of the run.
        round: the round, from 1; 0 if the whole run is reserved at once.
        plan: digest of the privacy plan.
        model: digest of all that the client received for this round.
        update: commitment to what it sends (`fedtrain.crypto.commit`); ``None`` while reserved.
        event: what is done to the privacy of the records.
        unit: what the event protects: each record, or all of the client's records together. Charges of the two do not
            add up.
        noise: where its randomness comes from. Anyone who can compute seeded noise, as the server can, can subtract it.
        status: whether this line reserves or settles.
        time: when it was written, in UTC, by the client's clock.
    """

    sequence: Number
    previous: Digest
    dataset: Digest
    run: Name
    round: Number
    plan: Digest
    model: Digest
    update: Digest | None
    event: Charged
    unit: Unit
    noise: Noise
    status: Literal["reserved", "settled"]
    time: Time

    @model_validator(mode="after")
    def _has_update_if_settled(self) -> Self:
        if (self.status == "settled") != (self.update is not None):
            raise ValueError("an entry has an update if, and only if, it is settled")
        return self

    @property
    def subject(self) -> tuple[str, int, str, str, Event]:
        """What the reservation is for: run, round, plan, model and event. Its settlement has the same."""
        return (self.run, self.round, self.plan, self.model, self.event)

    @property
    def charge(self) -> tuple[tuple[str, int, str, str, Event], Unit, Noise]:
        """All that a settlement repeats of its reservation: the subject, the unit and the noise."""
        return (self.subject, self.unit, self.noise)


ENTRY = TypeAdapter(LedgerEntry)
