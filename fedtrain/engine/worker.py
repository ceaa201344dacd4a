"""A worker process: it loads the ClientApp once, and then runs one message after another."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from weakref import ReferenceType, ref

from flwr.app import Context, Message, UserConfigValue
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, ErrorCode
from flwr.supercore.object_ref import load_app
from flwr.supercore.task_identity import TaskIdentity

from fedtrain.engine.arena import ReadableFile, Region, remove_directories, take_ticket, write_file
from fedtrain.engine.codec import (
    Buffer,
    Encoded,
    Failure,
    Frame,
    Place,
    Ready,
    Reply,
    Source,
    Task,
    Unusable,
    decode,
    encode_message,
    pack,
    pack_frame,
    unpack,
    unpack_frame,
)
from fedtrain.engine.forking import draw_apart
from fedtrain.engine.inplace import BytesInFile
from fedtrain.engine.state import StateFiles, decode_state, encode_state
from fedtrain.engine.together import together
from fedtrain.errors import FedtrainError
from fedtrain.memory import LARGE, give_back_memory, give_back_models, keep_freed_memory

FIRST_NODE_ID = 1000
_LONG = 0.05  # seconds that a message takes after which giving back memory takes no time that counts
MAPPED = 1 << 20  # bytes from which a buffer in a file of large messages is left there until it is asked for
TASK_ID = 1  # the task id in the identity of every process of a run


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a worker must know. It is sent to the process when that starts."""

    client_app: str  # the reference by which it is loaded, or the name of an app that workers inherit
    app_dir: Path
    run_id: int
    run_config: dict[str, UserConfigValue]
    nodes: int
    threads: int
    together: int  # messages that it may get at once
    directories: tuple[Path, ...]
    state_directory: Path
    durable_state: bool
    environment: dict[str, str]  # all of it: the fork server's is as old as that process


def slot_name(worker: int, slot: int) -> str:
    """Name the file in which a worker puts the replies of one slot."""
    return f"worker-{worker}-slot-{slot}"


def trace_name(worker: int) -> str:
    """Name the file in which a worker leaves the Python stacks when it crashes or is asked for them."""
    return f"worker-{worker}-trace"


def arena_name(arena: int) -> str:
    """Name the file that holds the messages of one push."""
    return f"arena-{arena}"


def main(
    index: int,
    spec: WorkerSpec,
    connection: "Connection[bytes, bytes]",
    *,
    app: ClientApp | None = None,
    parent: int | None = None,
) -> None:
    """Answer tasks until the parent says stop, or is gone.

    Args:
        index: the number of the worker.
        spec: what it must know.
        connection: the pipe to the parent.
        app: the app, where this process has inherited it; it is loaded otherwise.
        parent: a descriptor that is readable when the parent is gone, where multiprocessing has none.
    """
    watchdog = threading.Thread(
        target=_die_with_parent, args=(spec.directories, parent), name="fedtrain-watchdog", daemon=True
    )
    watchdog.start()
    _prepare_process(index, spec)
    if app is None:
        # Of the user's code, which may start processes for a DataLoader: as in any program. That of this process is
        # the one by which it was started itself.
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    TaskIdentity.run_id, TaskIdentity.task_id = spec.run_id, TASK_ID
    usable = _load(spec) if app is None else _inherited(app)
    try:
        if isinstance(usable, str):
            connection.send_bytes(pack_frame(Unusable(reason=usable)))
            return
        runner = _Runner(index, spec, usable)
        connection.send_bytes(pack_frame(Ready()))
        while tasks := _received(connection):
            started = time.monotonic()
            for answer in runner.answer(tasks):
                connection.send_bytes(pack_frame(answer))
            if time.monotonic() - started > _LONG and not connection.poll():
                give_back_memory()  # while there is no other message: the server evaluates now
    except (EOFError, BrokenPipeError, ConnectionResetError):
        watchdog.join()  # it removes the files of the run, and ends this process


def _received(connection: "Connection[bytes, bytes]") -> list[Task]:
    """Return the next task with those that are run together with it; none if this process is to end."""
    tasks: list[Task] = []
    while not tasks or len(tasks) <= tasks[0].followers:
        frame = unpack_frame(connection.recv_bytes())
        if not isinstance(frame, Task):
            return []
        tasks.append(frame)
    return tasks


def _prepare_process(index: int, spec: WorkerSpec) -> None:
    os.setsid()  # a group of its own, so that the processes which an app starts can be stopped with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # The file stays open for as long as the process lives: the handlers write to its descriptor.
    trace = os.open(spec.directories[-1] / trace_name(index), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    faulthandler.enable(file=trace, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=trace, all_threads=True)
    keep_freed_memory()
    os.environ.clear()
    os.environ.update(spec.environment)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(spec.threads)
    draw_apart()


def _die_with_parent(directories: tuple[Path, ...], parent: int | None) -> None:
    if parent is None:
        process = parent_process()
        assert process is not None
        parent = process.sentinel
    wait([parent])
    remove_directories(directories)
    os.killpg(0, signal.SIGKILL)


def _load(spec: WorkerSpec) -> ClientApp | str:
    """Load the app. Returns why that failed, if it did."""
    try:
        app = load_app(spec.client_app, LoadClientAppError, spec.app_dir)
        if not isinstance(app, ClientApp):
            raise LoadClientAppError(f"{spec.client_app} is a {type(app).__name__}, not a ClientApp")  # noqa: TRY301
    except BaseException:  # noqa: BLE001 - also sys.exit() while the module is imported
        return f"the ClientApp {spec.client_app} cannot be loaded:\n{traceback.format_exc()}"
    draw_apart()  # what the app has imported may have brought torch
    return app


def _inherited(app: ClientApp) -> ClientApp | str:
    """Return an app that came with this copy of the parent. Returns why it cannot train here, if it cannot."""
    if "torch" in sys.modules:
        try:
            sys.modules["torch"].ones((), requires_grad=True).backward()
        except RuntimeError as error:
            return (
                "a copy of the program that called simulate cannot compute gradients, which happens where that program "
                "has computed some on a machine with a GPU. Restart the program or kernel and simulate first, or put "
                f'the task into a module and name it (task.name = "module:attribute"). torch says: {error}'
            )
    return app


class _Runner:
    """Runs messages, with what is kept from one to the next."""

    def __init__(self, index: int, spec: WorkerSpec, app: ClientApp) -> None:
        self._index = index
        self._spec = spec
        self._app = app
        self._states = StateFiles(spec.state_directory, durable=spec.durable_state)
        self._arena = _OpenArena()
        self._large = 0  # bytes

    def answer(self, tasks: Sequence[Task]) -> list[Frame]:
        """Run tasks. Returns nothing if the parent has taken them back."""
        if not take_ticket(self._spec.directories[0], tasks[0].ticket):
            return []
        if len(tasks) == 1:
            return [self._answer(tasks[0])]
        return together([partial(self._answer, task) for task in tasks])

    def _answer(self, task: Task) -> Frame:
        try:
            return self._run(task)
        except _EngineError as error:
            return Failure(ticket=task.ticket, code=ErrorCode.UNKNOWN, reason=str(error.__cause__))
        except BaseException:  # noqa: BLE001 - whatever an app raises is the answer, also sys.exit()
            reason = traceback.format_exc()
            return Failure(ticket=task.ticket, code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)
        finally:
            give_back_models(self._large)
            self._arena.forget()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()

    def _run(self, task: Task) -> Frame:
        with _engine_errors():
            packed, buffers = self._arena.read(self._spec.directories[task.directory], task)
            self._large = sum(map(len, buffers))
            message = decode(packed, buffers)
            node_id, message_id = message.metadata.dst_node_id, message.metadata.message_id
            old_state = self._states.read(node_id)
            context = self._context(node_id, old_state)
        TaskIdentity.node_id = node_id
        reply = self._app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        if (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) != (message_id, node_id):
            raise ValueError(
                "the ClientApp returned a Message that is not a reply to the one it received: "
                "make it with Message(content, reply_to=message)"
            )
        encoded = encode_message(reply)
        new_state = encode_state(context.state)
        has_state = new_state != old_state
        held: dict[int, int] = {}
        for index, buffer in enumerate(buffers):
            if not isinstance(buffer, BytesInFile):
                held[id(buffer)] = index
            elif not buffer.lent:
                held |= {id(buffer): index, id(buffer.held or buffer): index}
        with _engine_errors():
            if has_state:
                self._states.stage(node_id, task.ticket, new_state)
            return self._put(task, encoded, held, has_state=has_state)

    def _context(self, node_id: int, state: bytes) -> Context:
        return Context(
            run_id=self._spec.run_id,
            node_id=node_id,
            node_config={PARTITION_ID_KEY: node_id - FIRST_NODE_ID, NUM_PARTITIONS_KEY: self._spec.nodes},
            state=decode_state(state),
            run_config=dict(self._spec.run_config),
        )

    def _put(self, task: Task, reply: Encoded, held: dict[int, int], *, has_state: bool) -> Reply:
        """Write a reply to the file of its slot. Buffers that came with the message are named, not written."""
        places: dict[int, Place] = {
            identity: Place(source=Source.HELD, first=index) for identity, index in held.items()
        }
        parts: list[bytes] = []
        offset = 0
        for buffer in reply.buffers:
            if id(buffer) not in places:
                places[id(buffer)] = Place(source=Source.OWN, first=offset, second=len(buffer))
                parts.append(buffer if isinstance(buffer, bytes) else buffer.read())
                offset += len(buffer)
        packed = pack(reply.proto, [places[id(buffer)] for buffer in reply.buffers])
        directory = write_file(self._spec.directories, slot_name(self._index, task.slot), [*parts, packed])
        return Reply(ticket=task.ticket, directory=directory, offset=offset, length=len(packed), has_state=has_state)


class _EngineError(Exception):
    """Wraps an error of the engine, to tell it from one that the app raised."""


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except FedtrainError as error:
        raise _EngineError from error


class _OpenArena:
    """The file with the messages of the latest push, and those of its buffers that several messages use."""

    def __init__(self) -> None:
        self._number = -1
        self._file: ReadableFile | None = None
        self._shared: dict[tuple[int, int], bytes] = {}
        self._unread: list[ReferenceType[BytesInFile]] = []

    def read(self, directory: Path, task: Task) -> tuple[bytes, list[Buffer]]:
        """Return the protobuf and the buffers of a task's message."""
        if self._file is None or task.arena != self._number:
            self._close()
            self._file, self._number = ReadableFile(directory / arena_name(task.arena)), task.arena
        proto, places = unpack(self._file.read(Region(offset=task.offset, length=task.length)))
        large = self._file.size > LARGE
        return proto, [self._buffer(self._file, place, mapped=large and place.second >= MAPPED) for place in places]

    def forget(self) -> None:
        """Let go of a file of large messages, and what is in it: to read it again is cheap, and memory is scarce.

        What the app has kept of them, and has not read, is read now.
        """
        if self._file is not None and self._file.size > LARGE:
            self._close()

    def _close(self) -> None:
        for kept in filter(None, (reference() for reference in self._unread)):
            kept.read()
        self._unread.clear()
        self._shared.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _buffer(self, file: ReadableFile, place: Place, *, mapped: bool) -> Buffer:
        region = Region(offset=place.first, length=place.second)
        if mapped:
            late = BytesInFile(file, region, lent=place.source is Source.LENT)
            self._unread.append(ref(late))
            return late
        if place.source is not Source.SHARED:
            return file.read(region)
        key = (place.first, place.second)
        if key not in self._shared:
            self._shared[key] = file.read(region)
        return self._shared[key]
