"""A run on a server that is up: submit it, follow it, and bring its folder back."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from fedtrain.config import Experiment, to_flat
from fedtrain.deployment.ending import GONE, STOPPED, Ending, app_is_gone, report_since
from fedtrain.deployment.printed import AppLines
from fedtrain.deployment.processes import program, unproxied
from fedtrain.deployment.superlink import CONNECTION, Service
from fedtrain.errors import ConfigError, RunError, StorageError
from fedtrain.files import append_line, read_lines, write_atomic
from fedtrain.machines import ServerFolder
from fedtrain.machines.starts import holds_run, in_use

_PAUSE = 2.0  # seconds between two looks
_UNREACHABLE = 120.0  # seconds for a SuperLink that ended to come back
# Keys stay on the server; checkpoints are for it to go on from.
_LEFT_THERE = ("keys", "checkpoints")
_SUBMITTED = "submitted.jsonl"


def submit(service: Service, app: Path, experiment: Experiment) -> int:
    """Submit a run, and return Flower's number of it.

    Args:
        service: the SuperLink.
        app: folder of the app, of which Flower makes the bundle that nodes have to have approved.
        experiment: goes with the run as Flower's run config; the bundle holds none.

    Raises:
        RunError: Flower does not take it.
        StorageError: the configuration cannot be written.
    """
    # Its own name: somebody may submit another run at the same time.
    config = service.server.path / "run" / f"config-{token_hex(6)}.toml"
    # TOML knows no pairs of surrogates, which JSON in ASCII has.
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in to_flat(experiment).items()}
    try:
        write_atomic(config, "".join(f"{json.dumps(key)} = {value}\n" for key, value in values.items()).encode())
        answer = _flwr(service, "run", app.resolve(), CONNECTION, "--run-config", config, "--format", "json")
    finally:
        config.unlink(missing_ok=True)
    try:
        return int(_answer(answer)["run-id"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"Flower does not take the run: {_refusal(answer)}") from error


def follow(
    service: Service, run: int, log: Path, folder: Path, show: Callable[[str], None], say: Callable[[str], None]
) -> Ending:
    """Follow a run until it ends, also while the SuperLink is started again; return how it ended.

    A run whose app has ended without a word, as one that is killed, is stopped. Flower notices it after a minute.

    Args:
        service: the SuperLink.
        run: Flower's number of the run.
        log: the file of all that it prints.
        folder: the run's folder on the server.
        show: shows a line of the app.
        say: tells a person what is wrong meanwhile.

    Raises:
        RunError: the SuperLink does not come back.
        StorageError: the log cannot be written.
    """
    lost: float | None = None
    gone = threading.Event()
    with _stopping_if_gone(folder, gone, lambda: stop(service, run)):
        while True:
            _stream(service, run, log, show)
            status = _status(service, run)
            if status is not None and status.status.startswith("finished"):
                stopped_here = gone.is_set() and status.status == STOPPED
                return replace(status, details=GONE) if stopped_here else status
            # What was shown may have taken hours: the time is counted from the first look that nobody answered.
            lost = None if status is not None else lost or time.monotonic()
            if lost is not None and time.monotonic() - lost > _UNREACHABLE:
                raise RunError(f"the SuperLink does not answer at {service.address}; the run may go on when it does")
            say("the SuperLink does not send what the run prints; trying again")
            time.sleep(_PAUSE)


@contextmanager
def _stopping_if_gone(folder: Path, gone: threading.Event, end: Callable[[], None]) -> Iterator[None]:
    """While the block goes on, end a run whose folder nobody holds any more after somebody did, and say so."""
    over, started = threading.Event(), datetime.now(UTC)

    def held() -> bool:
        # One that has left its report ends in good order, however long Flower takes to learn of it.
        return in_use(folder) or report_since(folder, started) is not None

    def watch() -> None:
        if app_is_gone(held, pause=partial(over.wait, _PAUSE), over=over.is_set):
            gone.set()
            end()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _stream(service: Service, run: int, log: Path, show: Callable[[str], None]) -> None:
    """Write what a run prints to its log, and show what is the app's, until it ends or the SuperLink does."""
    lines = AppLines()
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("ab") as file, _started(service, "log", str(run), CONNECTION, "--stream") as process:
            assert process.stdout is not None
            try:
                for data in process.stdout:
                    file.write(data)
                    file.flush()
                    line = lines.take(data.decode(errors="replace").rstrip("\r\n"))
                    if line is not None:
                        show(line)
            except BaseException:
                process.kill()
                raise
    except OSError as error:
        raise StorageError(f"cannot write {log}: {error.strerror or error}") from error


def stop(service: Service, run: int) -> None:
    """Stop a run."""
    _flwr(service, "stop", str(run), CONNECTION)


def stop_run(service: Service, run: int) -> None:
    """Stop a run that goes on.

    Raises:
        RunError: Flower does not stop it, as one that has ended.
    """
    answer = _flwr(service, "stop", str(run), CONNECTION, "--format", "json")
    try:
        stopped = bool(_answer(answer)["success"])
    except (ValueError, KeyError, TypeError):
        stopped = False
    if not stopped:
        raise RunError(f"the run is not stopped: {_refusal(answer)}")


def log_of(server: ServerFolder, name: str) -> Path:
    """Return the file of all that a run prints, by the name of the run."""
    return server.logs / "runs" / f"{name}.log"


def note_submitted(server: ServerFolder, name: str, number: int) -> None:
    """Note Flower's number of a run.

    Raises:
        StorageError: it cannot be written.
    """
    append_line(server.path / "run" / _SUBMITTED, {"name": name, "number": str(number)})


def number_of(server: ServerFolder, name: str) -> int | None:
    """Return Flower's number of the last run that was submitted under a name.

    Raises:
        StorageError: the file of them cannot be read.
    """
    found = [line for line in read_lines(server.path / "run" / _SUBMITTED) if line.get("name") == name]
    return int(found[-1]["number"]) if found else None


def bring_back(folder: Path, out: Path) -> None:
    """Copy a run folder, but for its keys and checkpoints. What was there of the run before is replaced.

    Raises:
        StorageError: it cannot be copied; what was there is kept.
    """
    temporary = out.with_name(f".{out.name}.{token_hex(6)}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns(*_LEFT_THERE))
        if out.exists():
            out.rename(before := out.with_name(f".{out.name}.{token_hex(6)}.old"))
            temporary.rename(out)
            shutil.rmtree(before)
        else:
            temporary.rename(out)
    except OSError as error:
        raise StorageError(
            f"cannot bring {folder} back to {out}: {error.strerror or error}; it is still there"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_taken(folder: Path, out: Path, *, resume: bool) -> None:
    """Refuse to mix two runs in one folder.

    Args:
        folder: the run's folder on the server.
        out: where it is brought back to.
        resume: whether the run is to go on.

    Raises:
        ConfigError: there is a run already, or none to go on with.
    """
    begun = holds_run(folder)
    if resume and not begun:
        raise ConfigError(f"there is no run {folder} to go on with; leave --resume out")
    if in_use(folder):
        raise ConfigError(f"a run in {folder} is going on or starting: wait for it, or name another --out")
    if not resume and begun:
        raise ConfigError(f"the server has a run {folder} already: go on with it (--resume), or name another --out")
    if not resume and out.exists():
        raise ConfigError(f"{out} is there already: name another --out")


def _status(service: Service, run: int) -> Ending | None:
    try:
        (found,) = _answer(_flwr(service, "list", CONNECTION, "--run-id", str(run), "--format", "json"))["runs"]
        return Ending(status=str(found["status"]), details=str(found.get("status-details") or ""))
    except (ValueError, KeyError, TypeError):
        return None


def _answer(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    text = process.stdout
    value: dict[str, Any] = json.loads(text[text.index("{") :])
    return value


def _refusal(process: subprocess.CompletedProcess[str]) -> str:
    try:
        said = " ".join(str(_answer(process)["error-message"] or "").split())
    except (ValueError, KeyError, TypeError):
        said = f"{process.stdout}{process.stderr}".strip()
    return said or "Flower gives no reason"


def _flwr(service: Service, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the command is ours
        [str(program("flwr")), *map(str, arguments)],
        env={**os.environ, **unproxied(), **service.environment()},
        # Where Flower finds a folder of the connection's name, or an app, it takes the name for something else.
        cwd=service.home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _started(service: Service, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - the command is ours
        [str(program("flwr")), *arguments],
        env={**os.environ, **unproxied(), **service.environment(), "PYTHONUNBUFFERED": "1"},
        cwd=service.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
