"""A run on a server that is up: submit it, follow it, and bring its folder back."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

from fedtrain.config import Experiment, to_flat
from fedtrain.deployment.processes import program, unproxied
from fedtrain.deployment.superlink import CONNECTION, Service
from fedtrain.errors import ConfigError, RunError, StorageError
from fedtrain.files import write_atomic

_PAUSE = 2.0  # seconds between two looks
_UNREACHABLE = 120.0  # seconds for a SuperLink that ended to come back
# Keys stay on the server; checkpoints are for it to go on from.
_LEFT_THERE = ("keys", "checkpoints")


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


def follow(service: Service, run: int, say: Callable[[str], None]) -> str:
    """Show what a run prints until it ends, also while the SuperLink is started again; return how it ended.

    Raises:
        RunError: the SuperLink does not come back.
    """
    lost: float | None = None
    while True:
        _flwr(service, "log", str(run), CONNECTION, "--stream", shown=True)
        status = _status(service, run)
        if status is not None and status.startswith("finished"):
            return status
        # What was shown may have taken hours: the time is counted from the first look that nobody answered.
        lost = None if status is not None else lost or time.monotonic()
        if lost is not None and time.monotonic() - lost > _UNREACHABLE:
            raise RunError(f"the SuperLink does not answer at {service.address}; the run may go on when it does")
        say("the SuperLink does not send what the run prints; trying again")
        time.sleep(_PAUSE)


def stop(service: Service, run: int) -> None:
    """Stop a run."""
    _flwr(service, "stop", str(run), CONNECTION)


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
    if resume and not folder.exists():
        raise ConfigError(f"there is no run {folder} to go on with; leave --resume out")
    if not resume and folder.exists():
        raise ConfigError(f"the server has a run {folder} already: go on with it (--resume), or name another --out")
    if not resume and out.exists():
        raise ConfigError(f"{out} is there already: name another --out")


def _status(service: Service, run: int) -> str | None:
    try:
        (found,) = _answer(_flwr(service, "list", CONNECTION, "--run-id", str(run), "--format", "json"))["runs"]
        return str(found["status"])
    except (ValueError, KeyError, TypeError):
        return None


def _answer(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    text = process.stdout
    value: dict[str, Any] = json.loads(text[text.index("{") :])
    return value


def _refusal(process: subprocess.CompletedProcess[str]) -> str:
    try:
        return " ".join(str(_answer(process)["error-message"]).split())
    except (ValueError, KeyError, TypeError):
        return f"{process.stdout}{process.stderr}".strip()


def _flwr(service: Service, *arguments: str | Path, shown: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the command is ours
        [str(program("flwr")), *map(str, arguments)],
        env={**os.environ, **unproxied(), **service.environment()},
        # Where Flower finds a folder of the connection's name, or an app, it takes the name for something else.
        cwd=service.home,
        stdin=subprocess.DEVNULL,
        capture_output=not shown,
        text=True,
        check=False,
    )
