"""How a run on a server ended: what Flower says of it, and what its app left in its folder, perhaps a moment later."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedtrain.machines.starts import holds_run, in_use

_TIMEOUT = 60.0  # seconds for an app whose run was stopped to learn of it and to write what it reached
_PAUSE = 0.2  # seconds between two looks
_RAISED = "ServerApp failed with exception:"
# What Flower's command says where it has nothing to say.
_NOTHING = ("", "N/A", "None")
STOPPED = "finished:stopped"
GONE = "its app ended without a word, as one that is killed or has no memory left"
_LOOKS = 6  # in a row, in which nobody holds a folder: an app that ends lets go of it a moment before Flower knows
_BY_ITSELF = {
    STOPPED: "it was stopped",
    "finished:completed": "its app came to its end and wrote none",
}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended, as Flower says: its ``status``, and why, with the exception of a ServerApp that raised one.

    >>> Ending(status="finished:failed", details="ServerApp failed with exception: no clients").cause
    'no clients'
    >>> Ending(status="finished:stopped", details="N/A").cause
    'it was stopped'
    """

    status: str
    details: str

    @property
    def cause(self) -> str:
        """The exception of the app, or what Flower says instead, or in words that it says nothing."""
        said = self.details.removeprefix(_RAISED).strip()
        if said not in _NOTHING:
            return said
        return _BY_ITSELF.get(self.status, f"Flower gives no reason ({self.status})")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a person is told of a run that ended.

    Attributes:
        problem: what went wrong and what to do, in one line or two; empty if nothing did.
        status: the exit status that it stands for.
    """

    problem: str
    status: int


def await_app(
    folder: Path, *, pause: Callable[[], None] = lambda: time.sleep(_PAUSE), timeout: float = _TIMEOUT
) -> bool:
    """Wait until no process holds the folder of a run, and say whether that is so.

    Flower calls a run ended as soon as it is asked to stop it. The app learns of it at its next request, and writes its
    report then.

    Args:
        folder: the run's folder on the server; it need not be there.
        pause: waits between two looks.
        timeout: seconds after which it is not waited for any longer.
    """
    end = time.monotonic() + timeout
    while in_use(folder):
        if time.monotonic() >= end:
            return False
        pause()
    return True


def app_is_gone(held: Callable[[], bool], *, pause: Callable[[], object], over: Callable[[], bool]) -> bool:
    """Wait until an app that held the folder of its run does not any more, and say whether that came to pass.

    Args:
        held: whether a process holds the folder.
        pause: waits between two looks.
        over: whether the run has ended otherwise, so that nobody waits any longer.
    """
    looks: int | None = None  # since it was held
    while not over():
        if held():
            looks = 0
        elif looks is not None:
            looks += 1
        if looks == _LOOKS:
            return True
        pause()
    return False


def outcome(name: str, folder: Path, ending: Ending, *, started: datetime, ended: bool) -> Outcome:
    """Return what became of a run whose app has ended, or is not waited for any longer.

    Args:
        name: of the run.
        folder: its folder on the server.
        ending: what Flower says of it.
        started: when it was submitted. A report from before says nothing of it.
        ended: whether its app has let go of the folder, as `await_app` says.
    """
    go_on = "go on with the same command and --resume"
    report = report_since(folder, started)
    if report is not None:
        status, reason = report
        if status == "completed":
            return Outcome(problem="", status=0)
        return Outcome(problem=f"the run {name} {status}: {reason}\nonce that is put right, {go_on}", status=1)
    if not ended:
        what = f"{ending.cause}; its app has not come to its end yet, and will leave its report in {folder}"
        return Outcome(problem=f"the run {name} has no report yet: {what}\nwhen it has ended, {go_on}", status=1)
    if holds_run(folder):
        return Outcome(problem=f"the run {name} ended without a report: {ending.cause}\n{go_on}", status=1)
    return Outcome(
        problem=f"the run {name} did not begin: {ending.cause}\nits name is free for the same command", status=1
    )


def report_since(folder: Path, started: datetime) -> tuple[str, str] | None:
    """Return the status and the reason in a run's report; ``None`` where there is none, or one from before."""
    try:
        file = folder / "report.json"
        report = json.loads(file.read_bytes())
        if file.stat().st_mtime < started.timestamp():
            return None
        return str(report["status"]), str(report["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
