"""What a client has to remember of a session, on disk: a process that answers may not be the one that was asked first.

It holds no secret. With an older state put back the client answers twice, which breaks its protection: the
state belongs where nobody else can write.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fedtrain.crypto import canonical
from fedtrain.errors import TransportError
from fedtrain.secagg.fields import Reader
from fedtrain.secagg.graph import Graph
from fedtrain.secagg.messages import DIGEST_BYTES, UnmaskRequest
from fedtrain.secagg.parameters import MOST_MEMBERS, Parameters

_KEY_BYTES = 32
_WHAT = "the state of secure aggregation"
_LARGEST = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A round whose masked vector may be out, and whose shares are not.

    Attributes:
        binding: hex SHA-256 that stands for the round.
        parameters: of the round.
        cohort: its clients, in order.
        order: hex of the seed that decides who is whose neighbour.
        sharing: the public sharing key of each client that this one is a holder of, itself included, in order.
    """

    binding: str
    parameters: Parameters
    cohort: tuple[int, ...]
    order: str
    sharing: tuple[bytes, ...]

    @property
    def graph(self) -> Graph:
        """Who is whose neighbour."""
        return Graph(self.cohort, self.parameters.neighbours, bytes.fromhex(self.order))


@dataclass(frozen=True, kw_only=True)
class ClientState:
    """Where a client is in a session.

    Attributes:
        round: the last round that it made a masked vector for, 0 before the first.
        pending: that round as long as its shares were not given away.
    """

    round: int = 0
    pending: Pending | None = None

    def answerable(self, request: UnmaskRequest, *, client: int, minimum: int) -> Pending:
        """Return the pending round, if a client may answer a request for its shares.

        Args:
            request: the request.
            client: the client's number.
            minimum: the smallest number of survivors that its site allows.

        Raises:
            TransportError: the request is for another round or another cohort, for one that was answered, or with too
                few survivors or without the client.
        """
        pending, last = self.pending, self.round
        if request.round != last:
            raise TransportError(f"shares for round {request.round} are refused: the last round was {last}")
        if pending is None:
            raise TransportError(f"shares for round {last} are refused: they were given once")
        if request.binding != pending.binding:
            raise TransportError(f"shares for round {last} are refused: its parameters, work or cohort were others")
        survivors = request.survivors
        if sorted(survivors + request.dropped) != list(pending.cohort):
            raise TransportError(
                f"shares for round {last} are refused: survivors and dropped clients are not the cohort, each once"
            )
        if client not in survivors:
            raise TransportError(f"shares for round {last} are refused: client {client} is no survivor in it")
        least = max(pending.parameters.threshold, minimum)
        if len(survivors) < least:
            raise TransportError(
                f"shares for round {last} are refused: it has {len(survivors)} survivors, and at least {least} must be"
            )
        return pending

    def to_json(self) -> bytes:
        """Return the state as canonical JSON."""
        return canonical({"round": self.round, "pending": self.pending and _to_fields(self.pending)})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the state that ``to_json`` wrote.

        Raises:
            TransportError: it is anything else.
        """
        if len(data) > _LARGEST:
            raise TransportError(f"{_WHAT} cannot be used: it has more than {_LARGEST} bytes")
        try:
            match json.loads(data):
                case {"round": number, "pending": None | dict() as pending, **rest} if not rest:
                    pass
                case _:
                    raise TransportError(f"{_WHAT} cannot be used: it is not an object of round and pending")
        except (ValueError, RecursionError) as error:
            raise TransportError(f"{_WHAT} cannot be used: it is not JSON: {error}") from error
        number = Reader(_WHAT, {"round": number}).whole("round")
        return cls(round=number, pending=None if pending is None else _from_fields(pending))


def _to_fields(pending: Pending) -> dict[str, object]:
    return {
        **pending.parameters.to_fields(),
        "bound": pending.parameters.bound.hex(),  # JSON's own numbers lose the type of a whole one
        "binding": pending.binding,
        "cohort": list(pending.cohort),
        "order": pending.order,
        "sharing": b"".join(pending.sharing).hex(),
    }


def _from_fields(fields: Mapping[str, object]) -> Pending:
    bound, sharing = fields.get("bound"), fields.get("sharing")
    reader = Reader(_WHAT, {name: value for name, value in fields.items() if name not in {"bound", "sharing"}})
    binding, order = reader.hexadecimal("binding", DIGEST_BYTES), reader.hexadecimal("order", DIGEST_BYTES)
    cohort = reader.clients("cohort", MOST_MEMBERS)
    if not isinstance(bound, str):
        raise TransportError(f"{_WHAT} cannot be used: bound is no text")
    try:
        parameters = Parameters.from_fields({**reader.rest(), "bound": float.fromhex(bound)})
    except (ValueError, OverflowError) as error:
        raise TransportError(f"{_WHAT} cannot be used: bound is no hexadecimal number: {error}") from error
    holders = parameters.neighbours + 1
    digits = Reader(_WHAT, {"sharing": sharing}).hexadecimal("sharing", _KEY_BYTES * holders)
    if len(cohort) != parameters.members:
        raise TransportError(f"{_WHAT} cannot be used: {len(cohort)} clients, and {parameters.members} members")
    raw = bytes.fromhex(digits)
    split = tuple(raw[start : start + _KEY_BYTES] for start in range(0, len(raw), _KEY_BYTES))
    return Pending(binding=binding, parameters=parameters, cohort=cohort, order=order, sharing=split)
