"""The pinned keys of a federation: whose signatures count."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from fedtrain.crypto.canonical import canonical
from fedtrain.crypto.identity import PublicIdentity
from fedtrain.errors import KeyFileError
from fedtrain.files import write_atomic

SCHEMA = "fedtrain.roster/1"


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The public keys of the server and of each client.

    Raises:
        ValueError: two of them have the same key, or a client's number is negative.
    """

    server: PublicIdentity
    clients: Mapping[int, PublicIdentity]

    def __post_init__(self) -> None:
        object.__setattr__(self, "clients", dict(sorted(self.clients.items())))
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
    def read(cls, path: Path) -> Self:
        """Read a roster from a JSON file.

        Raises:
            KeyFileError: it is missing, cannot be read, or is not a roster.
        """
        try:
            return cls.from_json(json.loads(path.read_bytes(), object_pairs_hook=_unique))
        except OSError as error:
            raise KeyFileError(f"cannot read the roster {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise KeyFileError(f"{path} cannot be used as a roster: {error}") from error

    def write(self, path: Path) -> None:
        """Write the roster as a JSON file, durably.

        Raises:
            StorageError: it cannot be written; the previous file, if any, is kept.
        """
        write_atomic(path, json.dumps(self.as_json(), indent=2).encode() + b"\n")

    @property
    def digest(self) -> str:
        """The hex SHA-256 of the canonical JSON (RFC 8785) of ``as_json``."""
        return sha256(canonical(self.as_json())).hexdigest()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Of two keys for one client a reader would take either.
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object names a member twice")
    return result
