"""One line of a ledger: a privacy charge that is reserved, or what became of it."""

from typing import Annotated, Literal, Self, cast

from pydantic import PlainSerializer, PlainValidator, TypeAdapter, model_validator

from fedtrain.errors import PrivacySpecError
from fedtrain.ledger.payload import Digest, Name, Noise, Number, Payload, Time, Unit
from fedtrain.privacy.accounting import COMPOSED
from fedtrain.privacy.events import Event, read_event

PAYLOAD_TYPE = "application/vnd.fedtrain.ledger-entry.v1+json"


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
        noise: where its randomness comes from. Who can compute seeded noise, as the server can, subtracts it.
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
