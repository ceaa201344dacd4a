"""The lines of ``events.jsonl``, as the server of a run writes them and as anybody reads them.

Each is a JSON object of ``event``, ``time`` and what its class says. What is long or cannot be shown is cut where it is
made: a line has at most so many clients and so much text. A reader passes over keys and events that it does not know.

    >>> decode(Note(time=0.0, text="client 3 does not take part").encode())
    Note(event='notice', time=0.0, text='client 3 does not take part')
"""

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedtrain.report.numbers import printable

FILE = "events.jsonl"
SCHEMA = "fedtrain.events/1"

NAMED = 1000
"""Clients that a line names at most; of more it has how many."""

PROBLEMS = 20
"""Clients of a round whose reasons a line has at most."""

TEXT = 500
"""Letters of a text in a line at most."""

_LATEST = 253_402_300_799  # the last second that has a date

Client = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    time: Annotated[float, Field(ge=0, le=_LATEST)]
    """When, in seconds since 1970. With secret cohorts the day alone: how long a round takes tells how many trained."""

    def encode(self) -> bytes:
        """Return the line, with its end."""
        return self.model_dump_json(exclude_none=True).encode() + b"\n"


class Begun(_Line):
    """A run begins, or goes on after ``done`` rounds.

    Attributes:
        name: of the experiment.
        mode: of privacy.
        rounds: of the whole run.
        done: rounds that are complete.
        clients: in the federation.
        deadline: seconds that a round waits for its clients.
        names: of clients that have one.
        software: the version of fedtrain that each of them says it runs, which nobody has checked.
        directions: the version of the operator's directions that each of them says it follows, likewise; 0 for the
            address of its kit.
        epsilon: the budget of the run for each unit; ``None`` without privacy.
        delta: likewise.
        noise: whose source it is; ``seeded`` protects nobody. ``None`` without privacy, and in a run of an earlier
            version.
        budgets: the epsilon that each client's own site allows over all runs, as it signed.
        spent: the epsilon that each client has spent in other runs, and in this one before it goes on.
        reached: the largest of them, also where cohorts are secret.
        metric: what is measured after a round.
        direction: which of two measurements is better.
        baseline: what the best constant answer reaches of it.
        withheld: whether cohorts are secret, so that no line says who was asked, how many, or when.
    """

    event: Literal["run"] = "run"
    schema_: str = Field(SCHEMA, alias="schema")
    name: str
    mode: str
    rounds: Count
    done: Count
    clients: Count
    deadline: Number
    names: dict[Client, str] = {}
    software: dict[Client, str] = {}
    directions: dict[Client, Count] = {}
    epsilon: Number | None = None
    delta: Number | None = None
    noise: Literal["seeded", "secure"] | None = None
    budgets: dict[Client, Number] = {}
    spent: dict[Client, Number] = {}
    reached: Number | None = None
    metric: str | None = None
    direction: Literal["higher", "lower"] = "higher"
    baseline: Number | None = None
    withheld: bool = False

    model_config = ConfigDict(frozen=True, extra="ignore", serialize_by_alias=True, validate_by_name=True)


class Asked(_Line):
    """The model of a round is about to be sent. ``cohort`` is absent where it is secret or too large to be named."""

    event: Literal["round"] = "round"
    round: Count
    clients: Count | None = None
    cohort: tuple[Client, ...] | None = None


class Answered(_Line):
    """So many clients of a round have answered; ``client`` is the one that did just now, where it is named.

    The time is that of the round's beginning.
    """

    event: Literal["answer"] = "answer"
    round: Count
    answered: Count
    client: Client | None = None


class Loss(BaseModel):
    """A client whose result is missing, and why."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    client: Client
    reason: str


class Done(_Line):
    """A round is complete, and its checkpoint is on the disk.

    Attributes:
        round: from 1.
        completed: results that were used, and ``clients`` how many were asked.
        seconds: how long it took.
        value: the measurement of the run's metric; ``None`` where this round was not evaluated.
        epsilon: the largest epsilon that any client has spent so far.
        spent: the epsilon that each client has spent so far, over all runs.
        losses: who gave no result.
        lost: how many those are.
    """

    event: Literal["done"] = "done"
    round: Count
    clients: Count | None = None
    completed: Count | None = None
    seconds: Number | None = None
    value: Number | None = None
    epsilon: Number | None = None
    spent: dict[Client, Number] = {}
    losses: tuple[Loss, ...] = ()
    lost: Count | None = None


class Note(_Line):
    """Something that a person should know."""

    event: Literal["notice"] = "notice"
    text: str


class Ended(_Line):
    """The run is over. One that was interrupted or failed can be resumed.

    ``epsilon`` and ``spent`` are as in `Done`, with what rounds have cost that are not complete.
    """

    event: Literal["end"] = "end"
    status: Literal["completed", "interrupted", "failed"]
    reason: str | None = None
    round: Count
    epsilon: Number | None = None
    spent: dict[Client, Number] = {}


Line = Begun | Asked | Answered | Done | Note | Ended

_LINES: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="event")])
_KINDS = frozenset({"run", "round", "answer", "done", "notice", "end"})


def decode(line: bytes) -> Line | None:
    """Return a line; ``None`` for an event that this version does not know.

    Raises:
        ValueError: it is none, or of another version.
    """
    try:
        return _LINES.validate_json(line)
    except ValidationError as error:
        if error.errors()[0]["type"] == "union_tag_invalid":
            return None
        raise ValueError(f"it is no event of a run: {error.errors()[0]['msg']}") from error


def cut(text: str) -> str:
    """Return the beginning of a text that is too long for a line, with what is not printable replaced.

    So is a lone surrogate, which no line could have.
    """
    short = text if len(text) <= TEXT else f"{text[: TEXT - 1]}\N{HORIZONTAL ELLIPSIS}"
    return printable(short, kept="\n")


def finite(value: float | None) -> float | None:
    """Return a number as a line can have it: ``None`` for one that is infinite or none."""
    return value if value is not None and isfinite(value) else None


def numbers(values: Mapping[int, float]) -> dict[int, float]:
    """Return the finite numbers of clients, or nothing where there are too many for a line."""
    return named({client: value for client, value in values.items() if isfinite(value)})


def named(values: dict[int, Any]) -> dict[int, Any]:
    """Return what is known of each client, or nothing where there are too many for a line."""
    return values if len(values) <= NAMED else {}
