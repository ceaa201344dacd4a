"""What a person at the server is told while it is up: which runs begin and end, and which site fails in them.

It is drawn from the events that runs write into their folders.
"""

from pathlib import Path

from fedtrain.errors import StorageError
from fedtrain.report.numbers import counted, printable
from fedtrain.status import FILE, Follower, Problem, RunStatus


class RunNews:
    """Follows all runs in a folder. What was there before is no news."""

    def __init__(self, runs: Path) -> None:
        """Begin to follow the runs of a folder, which need not be there yet."""
        self._runs = runs
        self._followed: dict[Path, Follower] = {}
        self._known: dict[Path, RunStatus] = {}
        self._ended: dict[Path, float] = {}
        self.lines()

    def lines(self) -> list[str]:
        """Return what is new, a line each."""
        found = list[str]()
        for path in sorted(self._runs.glob(f"*/{FILE}")):
            try:
                found += self._of(path)
            except (OSError, StorageError):  # it is taken away, or of another version of fedtrain
                self._ended[path] = float("inf")
        # Reasons are those of other machines.
        return [printable(line) for line in found]

    def _of(self, path: Path) -> list[str]:
        if self._ended.get(path, -1.0) >= path.stat().st_mtime:
            return []
        status = self._followed.setdefault(path, Follower(path)).status()
        if status is None:
            return []
        before = self._known.get(path)
        self._known[path] = status
        if status.state != "running" and status.written is not None:
            self._ended[path] = status.written
        return list(_news(path.parent.name, before, status))


def _news(name: str, before: RunStatus | None, now: RunStatus) -> list[str]:
    lines, known = list[str](), () if before is None else before.problems
    if before is None or before.begun != now.begun or (before.state != "running" and now.state == "running"):
        after = f" after round {now.begun.done}" if now.begun.done else ""
        lines.append(
            f"run {name} {'goes on' if now.begun.done else 'begins'}{after}: {counted(now.begun.rounds, 'round')}"
        )
    lines += [_failed(name, problem, now) for problem in now.problems if problem not in known]
    if now.state != "running" and (before is None or before.state != now.state or before.begun != now.begun):
        reason = f": {now.reason.splitlines()[0]}" if now.reason else ""
        lines.append(f"run {name} {'has lost its server' if now.state == 'gone' else now.state}{reason}")
    return lines


def _failed(name: str, problem: Problem, status: RunStatus) -> str:
    return f"run {name}, round {problem.round}: {status.called(problem.client)} gave no result: {problem.reason}"
