"""The state that each node keeps between its messages: one file per node, so that memory does not grow with nodes.

A worker reads the state of a node, and stages the new one beside it. The parent commits what is staged when it
accepts the reply, with an atomic rename; of a worker that was stopped or crashed, what is staged is dropped.
A file is

    magic "FTS1" | length: uint64 | CRC-32: uint32 | Flower's RecordDict as protobuf
"""

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto import recorddict_pb2
from google.protobuf.message import DecodeError

from fedtrain.errors import StorageError

_MAGIC = b"FTS1"
_HEADER = struct.Struct("<4sQI")


class StateFiles:
    """The files of one directory, as a worker uses them.

    With ``durable``, a staged state is on the disk, not only in the cache of the operating system, before the message
    is answered.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory = directory
        self._durable = durable

    def read(self, node_id: int) -> bytes:
        """Return the encoded state of a node, empty if it has none.

        Raises:
            StorageError: the file cannot be read, or is not a state file.
        """
        path = self._path(node_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StorageError(f"the state of node {node_id} in {path} cannot be read: {error.strerror}") from error
        magic, length, checksum = _HEADER.unpack_from(data) if len(data) >= _HEADER.size else (b"", 0, 0)
        payload = data[_HEADER.size :]
        if magic != _MAGIC or length != len(payload) or checksum != zlib.crc32(payload):
            raise StorageError(f"the state of node {node_id} in {path} is damaged. Remove the file to start afresh.")
        return payload

    def stage(self, node_id: int, ticket: int, payload: bytes) -> None:
        """Write a new state, to be committed when the reply to the message with this ticket is accepted.

        Raises:
            StorageError: the file cannot be written.
        """
        path = self._staged(node_id, ticket)
        try:
            with path.open("wb") as file:
                file.write(_HEADER.pack(_MAGIC, len(payload), zlib.crc32(payload)))
                file.write(payload)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StorageError(f"the state of node {node_id} cannot be written to {path}: {error.strerror}") from error

    def _path(self, node_id: int) -> Path:
        return self._directory / f"{node_id}.state"

    def _staged(self, node_id: int, ticket: int) -> Path:
        return self._directory / f"{node_id}.staged-{ticket}"


class Spool(StateFiles):
    """The files of one directory, as the parent uses them. Only one process at a time may own a directory.

    A directory that holds nothing in the end is gone, with those above it that were made for it.

    Raises:
        StorageError: the directory cannot be used, or another process owns it.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        super().__init__(directory, durable=durable)
        self._lock = FileLock(directory / "lock")
        self._made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            for path in directory.glob("*.staged-*"):
                path.unlink()
        except Timeout:
            raise StorageError(
                f"another run uses the client states in {directory}: let it end, or name another"
            ) from None
        except OSError as error:
            raise StorageError(f"client states cannot be kept in {directory}: {error.strerror}") from error

    def commit(self, node_id: int, ticket: int) -> None:
        """Make a staged state the state of its node.

        Raises:
            StorageError: it cannot be renamed.
        """
        staged = self._staged(node_id, ticket)
        try:
            staged.replace(self._path(node_id))
        except OSError as error:
            raise StorageError(
                f"the state of node {node_id} in {staged} cannot be renamed: {error.strerror}"
            ) from error

    def drop(self, node_id: int, ticket: int) -> None:
        """Remove what was staged for a message that is not answered, if anything was."""
        self._staged(node_id, ticket).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process use the directory."""
        lock = self._directory / "lock"
        with suppress(FileNotFoundError):  # a worker whose parent is gone removes what is temporary
            if list(self._directory.iterdir()) == [lock]:
                lock.unlink()  # while it is held: who waits for it finds that it has no name, and makes another
        self._lock.release()
        with suppress(OSError):  # the first that is not empty
            for folder in self._made:
                folder.rmdir()


def encode_state(state: RecordDict) -> bytes:
    """Encode a state; equal states give equal bytes, and the empty state gives none.

    Raises:
        TypeError: a value that Flower cannot carry.
        ValueError: likewise.
    """
    encoded: bytes = recorddict_to_proto(state).SerializeToString()
    return encoded


def decode_state(data: bytes) -> RecordDict:
    """Undo `encode_state`.

    Raises:
        StorageError: the bytes are not a state.
    """
    try:
        return recorddict_from_proto(recorddict_pb2.RecordDict.FromString(data))
    except (DecodeError, TypeError, ValueError) as error:
        raise StorageError(f"a client's state cannot be decoded: {error}") from error
