"""A Flower Grid over worker processes on this machine."""

import atexit
import importlib
import logging
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from flwr.app import Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedtrain.engine.arena import create_directories, remove_directories
from fedtrain.engine.driver import Driver
from fedtrain.engine.forking import Template, refuse_copying
from fedtrain.engine.machine import (
    choose_workers,
    make_room_for_files,
    make_room_for_sockets,
    usable_cores,
)
from fedtrain.engine.pool import MAX_TOGETHER, Pool
from fedtrain.engine.process import make_own_template, make_template, start_fork_server
from fedtrain.engine.requests import Request, RequestBuffers, Tally, grouped
from fedtrain.engine.state import Spool
from fedtrain.engine.worker import FIRST_NODE_ID, TASK_ID, WorkerSpec
from fedtrain.errors import UsageError
from fedtrain.memory import keep_freed_memory

_log = logging.getLogger(__name__)

_PULL_WAIT = 0.05  # seconds that pull_messages waits for a reply
_LATE_WAIT = 60.0  # and for those of clients that were late, whose workers are asked where they are and stopped


class LocalGrid(Grid):
    """Runs a Flower ClientApp for any number of virtual nodes on worker processes of this machine.

    Node ``i`` of ``nodes`` has the id ``1000 + i`` and the node config ``{"partition-id": i, "num-partitions":
    nodes}``. Its ``Context.state`` lasts from message to message; what a message changed is kept if it was answered
    without an error. Two messages of one node never run at the same time.

    Every message gets exactly one reply. What goes wrong with a client becomes an error reply: an exception, a process
    that crashes, and also (unlike in Flower, which leaves such replies out) a message that was not answered within its
    time to live or the timeout of `send_and_receive`. Its worker is then stopped, and the reply says where it was.

    Two things end the run instead, with an error from whatever method is called next: an app that no worker can load,
    and workers that end again and again before they run a message.

    The grid works on its own, whatever the ServerApp does in the meantime (`Driver`). Threads may share it.

    Args:
        client_app: object reference of the ClientApp, "module:attribute", which each worker loads as Flower does; or
            the ClientApp itself, which workers then inherit as copies of this process (see `fedtrain.engine.forking`).
        app_dir: the folder of the app, where its modules are found.
        run_config: the run config, given to clients as ``Context.run_config``.
        nodes: number of virtual nodes.
        workers: number of processes; by default what the machine or container has cores and memory for
            (`choose_workers`). Never more than there are nodes.
        threads: threads per worker for torch and other numeric libraries; by default 1 however many cores there are,
            since sums of floating-point numbers depend on it, and a run must depend neither on the machine nor on
            the number of workers.
        state_dir: folder that keeps the nodes' states for the next grid that is given it; by default they end with
            this grid.
        preload: modules that are imported once, before workers start as copies of that process. They should be slow
            to import and start no threads. Only those of the first grid in a process count.
        together: messages of type ``train`` that a worker gets at once, for an app that has work to do for several
            (`fedtrain.engine.together`). Groups are neighbours in a push, so that they do not depend on the workers.
        copies: whether the caller owns this process, as a command does, so that workers which load the ClientApp may be
            copies of it, too. They are where it has no other thread and has not used CUDA; otherwise they are copies of
            a fork server, which imports all of ``preload`` a second time.

    Raises:
        UsageError: an argument is out of range, this process may open too few files, or the ClientApp is an object and
            this process cannot be copied.
        StorageError: there is no room for files, or another run uses ``state_dir``.
    """

    def __init__(
        self,
        *,
        client_app: str | ClientApp,
        app_dir: Path,
        run_config: Mapping[str, UserConfigValue],
        nodes: int,
        workers: int | None = None,
        threads: int | None = None,
        state_dir: Path | None = None,
        preload: Sequence[str] = ("torch",),
        together: int = 1,
        copies: bool = False,
    ) -> None:
        for name, value in (("nodes", nodes), ("workers", workers), ("threads", threads), ("together", together)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if together > MAX_TOGETHER:
            raise UsageError(f"together must be at most {MAX_TOGETHER}, not {together}")
        if not isinstance(client_app, str) and (threads or 1) > 1:
            raise UsageError(
                f"threads = {threads} is not for a ClientApp that is an object: in copies of this process, torch must "
                "use one thread"
            )
        self.nodes, self._together = nodes, together
        chosen, why = choose_workers(nodes, cores=usable_cores())
        self.workers = chosen if workers is None else min(nodes, workers)
        _log.info("%d worker processes; %s", self.workers, f"asked for: {workers}" if workers is not None else why)
        make_room_for_files(self.workers)
        self._closed = False
        self._process = os.getpid()
        self._requests: dict[str, Request] = {}
        self._directories = create_directories()
        self._run = replace(Run.create_empty(secrets.randbits(63)), override_config=dict(run_config))
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run.run_id, SUPERLINK_NODE_ID, TASK_ID
        spec = WorkerSpec(
            client_app=client_app if isinstance(client_app, str) else type(client_app).__name__,
            app_dir=app_dir.absolute(),
            run_id=self._run.run_id,
            run_config=dict(run_config),
            nodes=nodes,
            threads=threads or 1,
            together=together,
            directories=self._directories,
            state_directory=(state_dir or self._directories[-1] / "states").absolute(),
            durable_state=state_dir is not None,
            environment=dict(os.environ),
        )
        self._template: Template | None = None
        try:
            make_room_for_sockets()
            # Before this process opens or locks a file of the run, which copies would hold open too.
            if not isinstance(client_app, str):
                _import(preload)
                self._template = make_template(spec, client_app)
            elif copies and spec.threads == 1:
                self._template = _own_template(spec, preload)
            if self._template is None:
                start_fork_server(preload, spec.threads)
            self._spool = Spool(state_dir or self._directories[-1] / "states", durable=state_dir is not None)
        except BaseException:
            self._close_template()
            remove_directories(self._directories)
            raise
        keep_freed_memory()
        self._outbox = RequestBuffers(self._directories)
        self._driver = Driver(Pool(spec, self.workers, self._spool, self._template))
        # Before multiprocessing's own handler, which would wait for the workers to end by themselves.
        atexit.register(self.close)

    def close(self) -> None:
        """End the workers and remove temporary files. Does nothing the second time, or in a copy made by ``fork``."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._driver.close()
        finally:
            self._close_template()
            self._spool.close()
            remove_directories(self._directories)

    def _close_template(self) -> None:
        if self._template is not None:
            self._template.close()

    def __enter__(self) -> Self:
        """Return the grid itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the grid."""
        self.close()

    def set_run(self, run: Run) -> None:
        """Set the description of the run.

        Raises:
            UsageError: ``run`` is not a Run, or has another id than the one that the workers have.
        """
        if not isinstance(run, Run):
            raise UsageError(f"run must be a Run, not a {type(run).__name__}")
        if run.run_id != self._run.run_id:
            raise UsageError(f"a LocalGrid has one run, {self._run.run_id}; it cannot switch to run {run.run_id}")
        self._run = run

    @property
    def run(self) -> Run:
        """A copy of the description of the run."""
        return replace(self._run)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message. The same as ``Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> range:
        """Return the ids of all nodes, in ascending order."""
        return range(FIRST_NODE_ID, FIRST_NODE_ID + self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages, and return their ids in the same order.

        Raises:
            UsageError: a message is not one that can be pushed (then none is), or the grid is closed.
            StorageError: there is no room for the messages.
            RunError: the app cannot be loaded, or no worker can be kept running.
        """
        with self._driver.turn():
            requests = self._push(messages, timeout=None)
            for request in requests:
                self._requests[request.metadata.message_id] = request
        return [request.metadata.message_id for request in requests]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have come, in this order, each once.

        Waits up to 50 ms if there is none yet, so that a caller can ask again at once. Ids of messages that were
        never pushed, or whose replies were pulled before, are passed over. A message whose time to live is over has a
        reply of the grid's own in a moment: for that it waits.

        Raises:
            RunError: the app cannot be loaded, or no worker can be kept running.
            UsageError: the grid is closed.
        """
        with self._driver.turn() as turn:
            requests = [self._requests[key] for key in dict.fromkeys(message_ids) if key in self._requests]
            now = time.monotonic()
            late = [request for request in requests if request.deadline <= now]
            if late:
                turn.wait_until(lambda: all(request.reply is not None for request in late), timeout=_LATE_WAIT)
            elif requests:
                turn.wait_until(lambda: any(request.reply is not None for request in requests), timeout=_PULL_WAIT)
            # While this thread waited, another one may have pulled it.
            return [
                request.pull()
                for request in requests
                if request.reply is not None and self._requests.pop(request.metadata.message_id, None) is not None
            ]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for all replies.

        Args:
            messages: instruction messages.
            timeout: seconds after which a message that is not answered gets an error reply.

        Returns:
            One reply for each message, in the order of the messages, whichever client was the fastest.

        Raises:
            UsageError: a message is not one that can be pushed (then none is), or the grid is closed.
            StorageError: there is no room for the messages.
            RunError: the app cannot be loaded, or no worker can be kept running.
        """
        with self._driver.turn():
            requests = self._push(messages, timeout)
        if requests:
            self._driver.wait_for(requests[0].arena.answered)
        return [request.reply for request in requests if request.reply is not None]

    def rest(self) -> None:
        """End the workers that have nothing to do, and so give back their memory. With the next message others start.

        Raises:
            RunError: the app cannot be loaded, or no worker can be kept running.
            UsageError: the grid is closed.
        """
        with self._driver.turn() as turn:
            turn.rest()

    def check(self) -> None:
        """Do nothing, unless the run cannot go on.

        Raises:
            RunError: the app cannot be loaded, or no worker can be kept running.
            UsageError: the grid is closed.
        """
        with self._driver.turn():
            pass

    @property
    def tallies(self) -> dict[str, Tally]:
        """How the messages that were answered so far were, by their type."""
        return {kind: replace(tally) for kind, tally in self._outbox.tallies.items()}

    def _push(self, messages: Iterable[Message], timeout: float | None) -> list[Request]:
        requests = self._outbox.add(messages, timeout)
        nodes = self.get_node_ids()
        for request in requests:
            if request.node_id not in nodes:
                reason = f"there is no node {request.node_id}: the nodes of this run are {nodes[0]} to {nodes[-1]}"
                request.finish(request.error_reply(ErrorCode.NODE_UNAVAILABLE, reason))
        self._driver.submit(grouped([request for request in requests if request.reply is None], self._together))
        return requests


def _import(modules: Sequence[str]) -> None:
    for name in modules:
        importlib.import_module(name)


def _own_template(spec: WorkerSpec, preload: Sequence[str]) -> Template | None:
    """Make a template of this process, which the caller owns, if that is safe."""
    try:
        refuse_copying()
        _import(preload)
        return make_own_template(spec)
    except UsageError as error:
        _log.info("workers are copies of a fork server: %s", error)
        return None
