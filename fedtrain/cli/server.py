"""``fedtrain server``: what the operator does on the server's machine."""

import signal
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtrain.cli import server_status
from fedtrain.cli.running import Output, failed, output, until_stopped
from fedtrain.cli.settings import Json, JsonLines, Quiet, Settings
from fedtrain.cli.streams import INTERRUPTED, on_termination
from fedtrain.deployment.processes import only_one
from fedtrain.errors import ConfigError
from fedtrain.files import write_atomic
from fedtrain.machines import ServerFolder, read_membership
from fedtrain.machines.nodes import connected, is_recent, numbered, outdated, read_nodes
from fedtrain.machines.starts import holds_run
from fedtrain.report.numbers import counted, printable
from fedtrain.status.words import with_names, with_nodes

if TYPE_CHECKING:  # a status takes less time than these to import
    from fedtrain.config import Experiment
    from fedtrain.deployment.superlink import Service

server = typer.Typer(name="server", help="Serve a federation, and run experiments in it.", no_args_is_help=True)
for _command in (server_status.status, server_status.runs, server_status.logs, server_status.stop):
    server.command()(_command)

_UNSUBMITTED = "stopped; nothing was submitted"


@server.command()
def up(
    folder: Annotated[Path, typer.Argument(metavar="SERVER", help="The server's folder.")],
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port of the SuperLink, on this machine's loopback.")
    ] = 9091,
    as_json: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Serve the federation's nodes until stopped."""
    from fedtrain.deployment.superlink import Service, check, serve  # noqa: PLC0415 - as above

    with output(as_json, quiet) as out:
        server = ServerFolder.open(folder)
        check(server)
        if port in {route.port for route in server.federation.routes(datetime.now(UTC))}:
            raise ConfigError(f"--port {port} is the port that nodes reach: the SuperLink needs another, on loopback")
        with only_one(server.path):
            service = Service(server=server, port=port)
            out.news(f"starting the server of federation {server.federation.id} at {server.federation.address}")
            until_stopped(server.logs, lambda processes: serve(service, processes, out.news), out.news)


@server.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="SERVER", help="The server's folder; it has to be up.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of the experiment.")] = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to bring the run back to; by default runs/NAME-TIME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that --out names.")] = False,
    app: Annotated[
        Path | None,
        typer.Option("--app", help="Folder of a Flower app; by default that of the current folder, or fedtrain's own."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Submit the run once as many nodes are connected as a cohort has.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Submit a run, follow it, and bring its folder back with the model and the report."""
    from fedtrain.config import from_flat, read_flat  # noqa: PLC0415 - as above
    from fedtrain.deployment.running import refuse_taken  # noqa: PLC0415 - as above
    from fedtrain.deployment.superlink import running  # noqa: PLC0415 - as above

    began = time.time()
    with output(as_json, quiet) as told:
        server = ServerFolder.open(folder)
        flat = read_flat(config, settings)
        experiment = from_flat(flat)
        if out is None:
            out = Path("runs") / f"{experiment.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        # By its real name: that of "..", on the server, would be the folder of the server's keys.
        place = server.runs / out.resolve().name
        refuse_taken(place, out, resume=resume)
        service = running(server)
        told.say(f"run {place.name}: {counted(experiment.federation.rounds, 'round')}; preparing the app")
        on_termination(signal.default_int_handler)
        submitted = _Submitted(service=service, name=place.name, place=place, out=out, told=told, began=began)
        try:
            if wait:
                _await_nodes(server, experiment.federation.cohort, told)
            number = _submit(submitted, app, _placed(experiment, place, resume=resume))
        except KeyboardInterrupt:
            told.done({"exit_status": INTERRUPTED, "error": _UNSUBMITTED}, [_UNSUBMITTED])
            raise typer.Exit(INTERRUPTED) from None
        status = _followed(submitted, number)
    raise typer.Exit(status)


@dataclass(frozen=True, kw_only=True)
class _Submitted:
    """A run that is submitted.

    Attributes:
        service: the server.
        name: the run's name there.
        place: its folder there.
        out: where it is brought back to.
        told: what the command prints by.
        began: when the command began, in seconds since 1970.
    """

    service: "Service"
    name: str
    place: Path
    out: Path
    told: Output
    began: float

    @property
    def log(self) -> Path:
        from fedtrain.deployment.running import log_of  # noqa: PLC0415 - as above

        return log_of(self.service.server, self.name)


def _await_nodes(server: ServerFolder, cohort: int, told: Output) -> None:
    """Wait until as many nodes are connected as a cohort has, and say for whom."""
    said = ""
    while True:
        found = read_nodes(server)
        nodes = () if found is None else found.nodes if is_recent(found, time.time()) else outdated(found.nodes)
        there = connected(nodes)
        if len(there) >= cohort:
            return
        away = ", ".join(node.name for node in nodes if node.state != "connected") or "all"
        line = f"waiting for nodes: {len(there)} are connected, and a cohort has {cohort}; not connected: {away}"
        if line != said:
            said = line
            told.say(line)
        time.sleep(1.0)


def _submit(run: _Submitted, app: Path | None, experiment: "Experiment") -> int:
    from fedtrain.deployment.running import submit  # noqa: PLC0415 - as above
    from fedtrain.flower.app import bundled_folder, described, find_app  # noqa: PLC0415 - Flower takes a second to import

    chosen = find_app(app)
    run.told.say(f"app: {described(chosen)}")
    with bundled_folder(chosen) as code:
        return submit(run.service, code, experiment)


def _followed(run: _Submitted, number: int) -> int:
    """Follow a run to its end, bring its folder back, and return the exit status that it stands for."""
    from fedtrain.deployment.ending import await_app, outcome  # noqa: PLC0415 - as above
    from fedtrain.deployment.running import bring_back, follow, note_submitted, stop  # noqa: PLC0415 - as above

    server = run.service.server
    names = read_membership(server.membership, server.federation)[0].names
    note_submitted(server, run.name, number)
    run.told.say(f"submitted as run {number} of the SuperLink; all that it prints is in {run.log}")
    started = datetime.now(UTC)

    def show(line: str) -> None:
        run.told.say(printable(with_names(line, names)))

    interrupted = False
    try:
        ending = follow(run.service, number, run.log, run.place, show, _complain)
    except KeyboardInterrupt:
        stop(run.service, number)
        ending = follow(run.service, number, run.log, run.place, lambda _: None, lambda _: None)
        interrupted = True
    ended = await_app(run.place)
    if ended and holds_run(run.place):
        bring_back(run.place, run.out.resolve())
        run.told.say(f"run folder: {run.out}")
    if interrupted:
        go_on = "go on with the same command and --resume" if holds_run(run.place) else "the run had not begun"
        problem, status = f"stopped; {go_on}", INTERRUPTED
        run.told.say(problem)
    else:
        found = outcome(run.name, run.place, ending, started=started, ended=ended)
        problem = f"{found.problem}; all that it printed is in {run.log}" if found.problem else ""
        status = found.status
    nodes = read_nodes(server)
    named = with_nodes(with_names(problem, names), {} if nodes is None else numbered(nodes.nodes))
    said = printable(named, kept="\n") or None
    if run.told.as_json:
        from fedtrain.cli.summary import summary  # noqa: PLC0415 - as above

        result = {"exit_status": status, "error": said, "seconds": time.time() - run.began, "run": run.name}
        brought = run.out if ended and holds_run(run.place) else None
        folder = {"number": number, "folder": None if brought is None else str(brought)}
        run.told.answer(result | folder | summary(brought, since=run.began))
    return failed(run.told, said, status) if said is not None and status != INTERRUPTED else status


def _complain(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _placed(experiment: "Experiment", place: Path, *, resume: bool) -> "Experiment":
    """Return the experiment as the server's machine runs it."""
    from fedtrain.config import from_flat, to_flat  # noqa: PLC0415 - as above

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


@server.command()
def bundle(
    app: Annotated[
        Path | None,
        typer.Option("--app", help="Folder of a Flower app; by default that of the current folder, or fedtrain's own."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("app.fab"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the bundle that a run of the app would send to the nodes, for their sites to approve."""
    with output(as_json, quiet) as told:
        from fedtrain.flower.app import build_bundle, described, find_app  # noqa: PLC0415 - Flower takes a second to import

        chosen = find_app(app)
        data = build_bundle(chosen)
        write_atomic(out, data)
        digest = sha256(data).hexdigest()
        told.say(f"app: {described(chosen)}", f"{out}, {len(data)} bytes")
        answer = {"app": described(chosen), "file": str(out), "bytes": len(data), "sha256": digest}
        told.result(answer, [f"SHA-256 {digest}"])
