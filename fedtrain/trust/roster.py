"""The pinned keys of a federation: whose signatures count."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from fedtrain.crypto.canonical import canonical
from fedtrain.crypto.identity import PublicIdentity
from fedtrain.errors import KeyFileError
from fedtrain.files import write_atomic

SCHEMA = "fedtrain.roster/1"

_REMEMBERED: Final = 4  # rosters, of some hundred bytes a client


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The public keys of the server and of each client. Nothing of it changes.

    Raises:
        ValueError: two of them have the same key, or a client's number is negative.
    """

    server: PublicIdentity
    clients: Mapping[int, PublicIdentity]

    def __post_init__(self) -> None:
        object.__setattr__(self, "clients", MappingProxyType(dict(sorted(self.clients.items()))))
        holders: dict[bytes, str] = {self.server.key: "the server"}
        for client, public in self.clients.items():
            if client < 0:
                raise ValueError(f"a roster numbers its clients from 0, and this has client {client}")
            other = holders.setdefault(public.key, f"client {client}")
            if other != f"client {client}":
                raise ValueError(f"client {client} has the same key as {other}: each signs with its own")

    def as_json(self) -> dict[str, object]:
        """Return the roster as a JSON object, with keys in base64."""
        return {
            "schema": SCHEMA,
            "server": self.server.encode(),
            "clients": {str(client): public.encode() for client, public in self.clients.items()},
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the roster that ``as_json`` wrote.

        Raises:
            ValueError: it is anything else.
        """
        match value:
            case {"schema": str(schema), "server": str(server), "clients": dict(clients), **rest} if not rest:
                pass
            case _:
                raise ValueError("not a roster: it must be an object of schema, server and clients")
        if schema != SCHEMA:
            raise ValueError(f"not a roster of this version: schema is {schema!r}, and {SCHEMA!r} is expected")
        keys = {}
        for name, key in clients.items():
            if not (name.isascii() and name.isdigit() and str(int(name)) == name):
                raise ValueError(f"{name!r} is not the number of a client")
            if not isinstance(key, str):
                raise ValueError(f"the key of client {name} is not text")  # noqa: TRY004 - the value's fault
            keys[int(name)] = PublicIdentity.decode(key)
        return cls(server=PublicIdentity.decode(server), clients=keys)

    @classmethod
    def decode(cls, data: bytes) -> "Roster":
        """Return the roster in some JSON. A process reads the same bytes once: its simulated clients see the same ones.

        Raises:
            ValueError: it is none.
        """
        try:
            return _decoded(data)
        except RecursionError as error:
            raise ValueError("not a roster: it is nested too deeply") from error

    @classmethod
    def read(cls, path: Path) -> "Roster":
        """Read a roster from a JSON file.

        Raises:
            KeyFileError: it is missing, cannot be read, or is not a roster.
        """
        try:
            return cls.decode(path.read_bytes())
        except OSError as error:
            raise KeyFileError(f"cannot read the roster {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise KeyFileError(f"{path} cannot be used as a roster: {error}") from error

    def write(self, path: Path) -> None:
        """Write the roster as a JSON file, durably.

        Raises:
            StorageError: it cannot be written; the previous file, if any, is kept.
        """
        write_atomic(path, self._file)

    @cached_property
    def _file(self) -> bytes:
        return json.dumps(self.as_json(), indent=2).encode() + b"\n"

    @cached_property
    def digest(self) -> str:
        """The hex SHA-256 of the canonical JSON (RFC 8785) of ``as_json``."""
        return sha256(canonical(self.as_json())).hexdigest()


@lru_cache(maxsize=_REMEMBERED)
def _decoded(data: bytes) -> Roster:
    return Roster.from_json(json.loads(data, object_pairs_hook=_unique))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Of two keys for one client a reader would take either.
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object names a member twice")
    return result
