"""Runs requests on worker processes, and turns whatever goes wrong into error replies.

What is dispatched is a group: requests that one worker runs together, most often a single one. An idle worker gets the
next group at once; when every worker has one, each gets one more, so that none waits for the parent between two. A
group that was dispatched ahead and not started is taken back when another worker is idle, when its own worker ends, or
when its time is over; its ticket (see `arena`) decides who has it, so it runs once. Two requests of one node never run
at the same time.
"""

import contextlib
import heapq
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedtrain.engine.arena import issue_ticket, take_ticket
from fedtrain.engine.codec import CodecError, Failure, Ready, Reply, Task, Unusable, pack_frame, unpack_frame
from fedtrain.engine.forking import Template
from fedtrain.engine.process import SLOTS, Spawner, WorkerProcess, exit_deadline, stack_deadline
from fedtrain.engine.requests import Group, Request, read_reply
from fedtrain.engine.state import Spool
from fedtrain.engine.worker import WorkerSpec
from fedtrain.errors import FedtrainError, RunError, StorageError

MAX_TOGETHER = 64  # requests of a group: a pipe holds the frames of two groups
MAX_FRUITLESS_ENDS = 3  # workers in a row that may end before any message is started


@dataclass(kw_only=True, eq=False)
class _Worker:
    process: WorkerProcess
    ready: bool = False
    stale: bool = False  # a group that was taken back is still in its pipe
    groups: list[Group] = field(default_factory=list)  # dispatched to it, oldest first

    @property
    def requests(self) -> list[Request]:
        return [request for group in self.groups for request in group.requests]

    def free_slot(self) -> int:
        taken = {group.slot for group in self.groups}
        return next(slot for slot in range(SLOTS) if slot not in taken)

    def drop(self, request: Request) -> None:
        """Forget a request that is answered. After the last one of a group the worker reads on in its pipe."""
        for group in self.groups:
            if request in group.requests:
                group.requests.remove(request)
                self.stale &= bool(group.requests)
        self.groups = [group for group in self.groups if group.requests]


class Pool:
    """Worker processes and the requests that they work on.

    One thread calls `wait` and `proceed`, again and again. Other threads may call `submit` and `rest`, but never while
    one of them is in `submit`, `rest` or `proceed`.

    Args:
        spec: what the workers must know.
        size: how many there are.
        spool: where the nodes' states are.
        template: the process of which the workers are copies; ``None`` for copies of the fork server.
    """

    def __init__(self, spec: WorkerSpec, size: int, spool: Spool, template: Template | None = None) -> None:
        self._directories = spec.directories
        self._spool = spool
        self._queue: deque[Group] = deque()
        self._held: dict[int, deque[Group]] = {}  # by node: groups that wait for a request of the same node
        self._busy: set[int] = set()  # nodes with a dispatched request
        self._deadlines: list[tuple[float, int, Request]] = []
        self._tickets = count(1)
        self._indices = count()
        self._resting = 0  # workers that have ended, and start anew with the next request
        self._numbers = count()
        self._workers: list[_Worker] = []
        self._fruitless_ends = 0
        self.failure: FedtrainError | None = None  # why no request is run any more
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._spawner = Spawner(lambda index: WorkerProcess(index, spec, template))
        self._selector.register(self._spawner, selectors.EVENT_READ)
        for _ in range(size):
            self._spawner.order(next(self._indices))

    def submit(self, groups: Iterable[Group]) -> None:
        """Take on groups, in this order, and wake the thread that waits."""
        for _ in range(self._resting):
            self._spawner.order(next(self._indices))
        self._resting = 0
        for group in groups:
            self._queue.append(group)
            for request in group.requests:
                heapq.heappush(self._deadlines, (request.deadline, next(self._numbers), request))
        self._dispatch()
        self.wake()

    def wait(self) -> Sequence[selectors.SelectorKey]:
        """Wait until something happens, a request is submitted or its time is over, or `wake` is called."""
        return [key for key, _ in self._selector.select(self._wait_time())]

    def wake(self) -> None:
        """End the `wait` of another thread."""
        with contextlib.suppress(BlockingIOError):  # it has been woken, and has not noticed yet
            self._wake.send(b"w", socket.MSG_DONTWAIT)

    def proceed(self, events: Sequence[selectors.SelectorKey]) -> None:
        """Deal with what has happened. Where no request can be run any more, `failure` is set."""
        for key in events:
            if key.fileobj is self._woken:
                self._woken.recv(4096)
            elif key.fileobj is self._spawner:
                self._welcome(self._spawner.collect())
            elif key.data in self._workers:
                self._attend(key.data, ended=key.fd == key.data.process.sentinel)
            self._dispatch()
        self._expire()
        self._dispatch()

    def rest(self) -> None:
        """End the workers that are idle. As many start with the next request."""
        idle = [worker for worker in self._workers if worker.ready and not worker.groups]
        _let_end([worker.process for worker in idle])
        for worker in idle:
            self._let_go(worker)
        self._resting += len(idle)

    def fail(self, failure: FedtrainError) -> None:
        """Run no request any more, for this reason, unless there is one already."""
        self.failure = self.failure or failure

    def close(self) -> None:
        """End all workers. Those that are idle end by themselves; the others are killed."""
        self._selector.close()
        self._woken.close()
        self._wake.close()
        idle = [worker.process for worker in self._workers if worker.ready and not worker.groups]
        everyone = [worker.process for worker in self._workers]
        self._workers.clear()
        try:
            everyone.extend(self._spawner.close())
            _let_end(idle)
        finally:
            for process in everyone:
                process.kill()

    def _wait_time(self) -> float | None:
        # Another thread may submit in the meantime, and wakes this one then.
        deadlines = self._deadlines[:1]
        return max(0.0, deadlines[0][0] - time.monotonic()) if deadlines else None

    def _welcome(self, result: WorkerProcess | Exception) -> None:
        if isinstance(result, Exception):
            failure = RunError(f"a worker process cannot be started: {result}")
            failure.__cause__ = result
            self.fail(failure)
            return
        worker = _Worker(process=result)
        self._workers.append(worker)
        self._selector.register(result.connection, selectors.EVENT_READ, worker)
        self._selector.register(result.sentinel, selectors.EVENT_READ, worker)

    def _attend(self, worker: _Worker, *, ended: bool) -> None:
        """Read what a worker has sent; deal with its end, if it has ended."""
        connected = self._receive(worker)
        if ended or not connected:
            self._bury(worker)

    def _receive(self, worker: _Worker) -> bool:
        """Read all frames that have come. Returns False when no more will come."""
        try:
            while worker.process.connection.poll():
                frame = unpack_frame(worker.process.connection.recv_bytes())
                if isinstance(frame, Ready):
                    worker.ready = True
                elif isinstance(frame, Unusable):
                    self.fail(RunError(frame.reason.rstrip()))
                elif isinstance(frame, Reply | Failure):
                    self._answer(worker, frame)
        except (EOFError, OSError):
            return False
        return True

    def _answer(self, worker: _Worker, frame: Reply | Failure) -> None:
        request = next(request for request in worker.requests if request.ticket == frame.ticket)
        self._fruitless_ends = 0
        if isinstance(frame, Reply):
            try:
                reply = read_reply(self._directories, worker.process.index, request, frame)
                if frame.has_state:
                    self._spool.commit(request.node_id, request.ticket)
            except (StorageError, CodecError) as error:
                self._spool.drop(request.node_id, request.ticket)
                reply = request.error_reply(ErrorCode.UNKNOWN, f"the client's reply cannot be used: {error}")
        else:
            self._spool.drop(request.node_id, request.ticket)
            reply = request.error_reply(frame.code, frame.reason)
        worker.drop(request)
        self._finish(request, reply, dispatched=True)

    def _finish(self, request: Request, reply: Message, *, dispatched: bool) -> None:
        request.finish(reply)
        if dispatched:
            self._busy.discard(request.node_id)
        if request.node_id not in self._busy:
            self._release_held(request.node_id)

    def _release_held(self, node_id: int) -> None:
        """Let the next group of a node go ahead of all others: it has waited longest."""
        held = self._held.pop(node_id, deque())
        while held:
            group = held.popleft()
            if any(request.reply is None for request in group.requests):
                self._queue.appendleft(group)
                break
        if held:
            self._held[node_id] = held

    def _next_group(self) -> Group | None:
        while self._queue:
            group = self._queue.popleft()
            # The time of the others was over while they waited.
            group.requests = [request for request in group.requests if request.reply is None]
            busy = [node for node in group.nodes if node in self._busy]
            if busy:
                self._held.setdefault(busy[0], deque()).append(group)
            elif group.requests:
                return group
        return None

    def _dispatch(self) -> None:
        """Give each worker a group, then each a second one, then let idle workers take over second ones."""
        if self.failure is not None:
            return
        for depth in range(SLOTS):
            for worker in self._workers:
                if not worker.ready or len(worker.groups) != depth or (depth > 0 and worker.stale):
                    continue
                group = self._next_group()
                if group is None:
                    break
                self._assign(worker, group)
        if not self._queue:
            idle = [worker for worker in self._workers if worker.ready and not worker.groups]
            ahead = [worker for worker in self._workers if len(worker.groups) == SLOTS] if idle else []
            for worker in ahead:
                if idle and self._take_back(worker, worker.groups[-1]):
                    self._assign(idle.pop(), self._queue.popleft())

    def _assign(self, worker: _Worker, group: Group) -> None:
        group.slot = worker.free_slot()
        tasks = []
        for place, request in enumerate(group.requests):
            request.ticket, request.slot = next(self._tickets), group.slot + place * SLOTS
            tasks.append(
                Task(
                    ticket=request.ticket,
                    slot=request.slot,
                    directory=request.arena.directory,
                    arena=request.arena.number,
                    offset=request.region.offset,
                    length=request.region.length,
                    followers=len(group.requests) - 1 - place,
                )
            )
        group.ticket = tasks[0].ticket
        issue_ticket(self._directories[0], group.ticket)
        worker.groups.append(group)
        self._busy.update(group.nodes)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended, which will be seen next
            for task in tasks:
                worker.process.connection.send_bytes(pack_frame(task))

    def _take_back(self, worker: _Worker, group: Group) -> bool:
        """Put a dispatched group back to the front of the queue, if it has not started."""
        if not take_ticket(self._directories[0], group.ticket):
            return False
        worker.groups.remove(group)
        worker.stale = True
        self._busy.difference_update(group.nodes)
        self._queue.appendleft(group)
        return True

    def _expire(self) -> None:
        """Answer all requests whose time is over, and stop the workers that still run one of them."""
        now = time.monotonic()
        expired = set()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].reply is not None):
            request = heapq.heappop(self._deadlines)[2]
            if request.reply is None:
                expired.add(request)
        if not expired:
            return
        for worker in list(self._workers):
            late = [group for group in worker.groups if expired.intersection(group.requests)]
            if late and not all(self._take_back(worker, group) for group in late):
                self._receive(worker)
        hung = [worker for worker in self._workers if expired.intersection(worker.requests)]
        self._stop(hung, expired)
        for request in expired:
            if request.reply is None:
                reason = f"client did not answer within {request.limit:g} s: it had not started, all workers were busy"
                self._finish(request, request.error_reply(ErrorCode.MESSAGE_UNAVAILABLE, reason), dispatched=False)

    def _stop(self, workers: list[_Worker], late: set[Request]) -> None:
        """Stop and replace workers that run late requests, unless they answer while they are asked where they are."""
        for worker in workers:
            for group in worker.groups[1:]:
                # One that cannot be taken back has started, so the late one before it was answered in the meantime.
                self._take_back(worker, group)
            self._receive(worker)
            worker.process.ask_for_stacks()
        deadline = stack_deadline()
        for worker in workers:
            stacks = worker.process.collect_stacks(deadline)
            self._receive(worker)
            if not late.intersection(worker.requests):
                continue
            self._remove(worker)
            for request in worker.requests:
                reason = f"client did not answer within {request.limit:g} s. It was stopped here:\n{stacks}"
                self._spool.drop(request.node_id, request.ticket)
                self._finish(request, request.error_reply(ErrorCode.MESSAGE_UNAVAILABLE, reason), dispatched=True)

    def _bury(self, worker: _Worker) -> None:
        """Answer for a worker that has ended, and replace it."""
        how = worker.process.describe_exit()
        started = [group for group in worker.groups[::-1] if not self._take_back(worker, group)]
        for request in [request for group in started for request in group.requests]:
            reply = request.error_reply(ErrorCode.CLIENT_APP_CRASHED, f"the client's process {how}")
            self._spool.drop(request.node_id, request.ticket)
            self._finish(request, reply, dispatched=True)
        self._fruitless_ends = 0 if started else self._fruitless_ends + 1
        if self._fruitless_ends == MAX_FRUITLESS_ENDS:
            reason = f"{MAX_FRUITLESS_ENDS} worker processes in a row ended before they could run a message"
            self.fail(RunError(f"{reason}. The last one {how}"))
        self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        self._let_go(worker)
        if self.failure is None:
            self._spawner.order(next(self._indices))

    def _let_go(self, worker: _Worker) -> None:
        self._selector.unregister(worker.process.connection)
        self._selector.unregister(worker.process.sentinel)
        self._workers.remove(worker)
        worker.process.kill()


def _let_end(processes: Sequence[WorkerProcess]) -> None:
    """Let idle workers end by themselves."""
    for process in processes:
        process.ask_to_end()
    deadline = exit_deadline()
    for process in processes:
        process.finish(deadline)
