"""Calls that take turns in one process, and wait for each other where they have work to do together.

An app answers one message at a time, through its mods, in one call. Where several messages are to meet within that
call, each call has a thread, of which only one runs at any time: the first until it waits in `meet` or ends, then the
second, and so on. What all are waiting for is done once, in the caller's own thread, and they go on in the same order.
So nothing in an app has to be safe for threads, and the order of everything is that of the calls.

Example::

    def double(numbers):
        return [2 * number for number in numbers]


    assert together([lambda: meet(1, double) + 1, lambda: meet(5, double)]) == [3, 10]
"""

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from flwr.supercore.task_identity import TaskIdentity


class _Member(threading.Thread):
    """One of the calls."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(name="fedtrain-member", daemon=True)
        self._call = call
        self._turn, self._passed = threading.Semaphore(0), threading.Semaphore(0)
        self.work: Any = None
        self.do: Callable[[Sequence[Any]], Sequence[Any]] | None = None  # what it waits for
        self.done: Any = None
        self.result: Any = None
        self.error: BaseException | None = None

    def go_on(self) -> None:
        """Let it run until it waits, or has ended."""
        self._turn.release()
        self._passed.acquire()

    def wait_for(self, work: Any, do: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """Let the others run until all wait, and what they wait for was done."""
        node = TaskIdentity.node_id  # Flower's, of the whole process
        self.work, self.do = work, do
        self._passed.release()
        self._turn.acquire()
        TaskIdentity.node_id = node
        done, self.work, self.do, self.done = self.done, None, None, None
        if isinstance(done, BaseException):
            raise done
        return done

    def run(self) -> None:
        """Make the call."""
        self._turn.acquire()
        _MEMBER.set(self)
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised where the calls were made
            self.error = error
        self._passed.release()


_MEMBER: ContextVar[_Member | None] = ContextVar("member", default=None)


Work = TypeVar("Work")
Done = TypeVar("Done")
Result = TypeVar("Result")


def together(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Make calls that may meet, and return what they return, in their order.

    Raises:
        BaseException: what the first of those raised that raised something; by then all have ended.
    """
    members = [_Member(call) for call in calls]
    for member in members:
        member.start()
        member.go_on()
    while waiting := [member for member in members if member.do is not None]:
        _do(waiting)
        for member in waiting:
            member.go_on()
    for member in members:
        member.join()
        if member.error is not None:
            raise member.error
    return [member.result for member in members]


def _do(waiting: Sequence[_Member]) -> None:
    """Do what calls wait for: once, for all of them."""
    do = waiting[0].do
    assert do is not None
    done: Sequence[Any]
    try:
        done = do([member.work for member in waiting])
    except BaseException as error:  # noqa: BLE001 - raised in each call
        done = [error] * len(waiting)
    for member, each in zip(waiting, done, strict=True):
        member.done = each


def meet(work: Work, do: Callable[[Sequence[Work]], Sequence[Done | BaseException]]) -> Done:
    """Return what came of one's own part of some work, done with that of all calls that are made `together`.

    Args:
        work: one's own part.
        do: does the parts of all who wait, in their order, and returns what came of each; an exception is raised in the
            call whose part it is. All calls name the same function.
    """
    member = _MEMBER.get()
    if member is not None:
        done: Done = member.wait_for(work, do)
        return done
    (own,) = do([work])
    if isinstance(own, BaseException):
        raise own
    return own
