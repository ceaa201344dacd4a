"""``fedtrain server``: what the operator does on the server's machine."""

import json
import signal
import sys
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.running import reporting_errors, say, until_stopped
from fedtrain.cli.streams import on_termination
from fedtrain.config import Experiment, from_flat, read_flat, to_flat
from fedtrain.deployment.processes import only_one
from fedtrain.deployment.running import bring_back, follow, refuse_taken, stop, submit
from fedtrain.deployment.superlink import Service, check, running, serve
from fedtrain.errors import ConfigError
from fedtrain.files import write_atomic
from fedtrain.machines import ServerFolder

server = typer.Typer(name="server", help="Serve a federation, and run experiments in it.", no_args_is_help=True)

_FAILED, _INTERRUPTED = 1, 130
_TIMEOUT = 20.0  # seconds for a run that was stopped to leave its report


@server.command()
def up(
    folder: Annotated[Path, typer.Argument(metavar="SERVER", help="The server's folder.")],
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port of the SuperLink, on this machine's loopback.")
    ] = 9091,
) -> None:
    """Serve the federation's nodes until stopped."""
    with reporting_errors():
        server = ServerFolder.open(folder)
        check(server)
        if port == server.federation.port:
            raise ConfigError(f"--port {port} is the port that nodes reach: the SuperLink needs another, on loopback")
        with only_one(server.path):
            service = Service(server=server, port=port)
            until_stopped(server.logs, lambda processes: serve(service, processes, say))


@server.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="SERVER", help="The server's folder; it has to be up.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of the experiment.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, over the file's. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to bring the run back to; by default runs/NAME-TIME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that --out names.")] = False,
    app: Annotated[
        Path | None,
        typer.Option("--app", help="Folder of a Flower app; by default that of the current folder, or fedtrain's own."),
    ] = None,
) -> None:
    """Submit a run, follow it, and bring its folder back with the model and the report."""
    with reporting_errors():
        from fedtrain.flower.app import bundled_folder, described, find_app  # noqa: PLC0415 - Flower takes a second to import

        server = ServerFolder.open(folder)
        flat = read_flat(config, settings)
        experiment = from_flat(flat)
        if out is None:
            out = Path("runs") / f"{experiment.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        # By its real name: that of "..", on the server, would be the folder of the server's keys.
        place = server.runs / out.resolve().name
        refuse_taken(place, out, resume=resume)
        service = running(server)
        on_termination(signal.default_int_handler)
        chosen = find_app(app)
        sys.stdout.write(f"app: {described(chosen)}\n")
        with bundled_folder(chosen) as code:
            number = submit(service, code, _placed(experiment, place, resume=resume))
        sys.stdout.write(f"submitted as run {number} of the SuperLink\n")
        started = datetime.now(UTC)
        try:
            follow(service, number, _complain)
        except KeyboardInterrupt:
            stop(service, number)
            follow(service, number, lambda _: None)
            _await_report(place, started)
            status = _INTERRUPTED
        else:
            status = _outcome(place, started)
        if place.exists():
            bring_back(place, out.resolve())
            sys.stdout.write(f"run folder: {out}\n")
    raise typer.Exit(status)


def _complain(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _placed(experiment: Experiment, place: Path, *, resume: bool) -> Experiment:
    """Return the experiment as the server's machine runs it."""
    test = experiment.data.test_path
    return from_flat(
        to_flat(experiment)
        | {
            "output.directory": str(place),
            "output.resume": resume,
            "output.screen": "plain",
            "data.test_path": "" if test is None else str(Path(test).expanduser().absolute()),
        }
    )


def _await_report(place: Path, started: datetime) -> None:
    """Give a run that was stopped the time to learn of it and to write what it reached."""
    end = time.monotonic() + _TIMEOUT
    while place.exists() and _report(place, started) is None and time.monotonic() < end:
        time.sleep(0.5)


def _outcome(place: Path, started: datetime) -> int:
    """Return the exit status that a run's report stands for."""
    report = _report(place, started)
    if report is None:
        sys.stderr.write("error: the run left no report; what it printed says why\n")
        return _FAILED
    status, reason = report
    if status == "completed":
        return 0
    sys.stderr.write(f"error: the run {status}: {reason}\n")
    return _FAILED


def _report(place: Path, started: datetime) -> tuple[str, str] | None:
    """Return the status and the reason in a run's report. One from before says nothing of this run."""
    try:
        file = place / "report.json"
        report = json.loads(file.read_bytes())
        if file.stat().st_mtime < started.timestamp():
            return None
        return str(report["status"]), str(report["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@server.command()
def bundle(
    app: Annotated[
        Path | None,
        typer.Option("--app", help="Folder of a Flower app; by default that of the current folder, or fedtrain's own."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("app.fab"),
) -> None:
    """Write the bundle that a run of the app would send to the nodes, for their sites to approve."""
    with reporting_errors():
        from fedtrain.flower.app import build_bundle, described, find_app  # noqa: PLC0415 - Flower takes a second to import

        chosen = find_app(app)
        data = build_bundle(chosen)
        write_atomic(out, data)
        digest = sha256(data).hexdigest()
        sys.stdout.write(f"app: {described(chosen)}\n{out}, {len(data)} bytes\nSHA-256 {digest}\n")
