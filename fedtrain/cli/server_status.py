"""``fedtrain server status``, ``runs``, ``logs`` and ``stop``: see what a server does, and stop a run of it."""

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.cli.watch import Port, Token, Web, following, on_the_web, show
from fedtrain.deployment.status import ServerView, server_described, status_as_json
from fedtrain.errors import ConfigError
from fedtrain.machines import ServerFolder
from fedtrain.machines.nodes import read_nodes
from fedtrain.report.numbers import printable
from fedtrain.status import as_json

_Folder = Annotated[Path, typer.Argument(metavar="SERVER", help="The server's folder.")]


def status(
    folder: _Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Draw it again every second, until Ctrl-C.")] = False,
    as_json_: Json = False,
    web: Web = False,
    port: Port = 0,
    token: Token = None,
    quiet: Quiet = False,
) -> None:
    """Show the nodes of the federation, and the run that goes on: who is connected, who is late, epsilon, errors."""
    with output(as_json_, quiet) as out:
        view = ServerView(ServerFolder.open(folder))
        if web:
            on_the_web(lambda: status_as_json(view.status(), now=time.time()), out, port=port, token=token)
        elif as_json_:
            out.answer(status_as_json(view.status(), now=time.time()))
        elif watch and sys.stdout.isatty():
            following(lambda: (server_described(view.status(), now=time.time()), True))
        else:
            show(server_described(view.status(), now=time.time()))


def runs(folder: _Folder, as_json_: Json = False, quiet: Quiet = False) -> None:
    """List the runs of the server, the latest first."""
    with output(as_json_, quiet) as out:
        found = ServerView(ServerFolder.open(folder)).runs()
        if as_json_:
            out.answer({"runs": [{"run": name, **as_json(run, now=time.time())} for name, run in found]})
            return
        for name, run in found:
            begun = f"{datetime.fromtimestamp(run.begun.time).astimezone():%Y-%m-%d %H:%M}"
            line = f"{begun}  {run.state:<11}  {run.done:>4} of {run.begun.rounds:<4}  {name}"
            sys.stdout.write(f"{printable(line)}\n")
        if not found:
            out.say("no run was begun")


def logs(
    folder: _Folder,
    name: Annotated[str, typer.Argument(metavar="RUN|NODE", help="The name of a run, or of a node.")],
    as_json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print all that a run printed, or what the server noted of a node."""
    from fedtrain.deployment.running import log_of  # noqa: PLC0415 - a status takes less time than these to import

    with output(as_json_, quiet) as out:
        server = ServerFolder.open(folder)
        file = log_of(server, name)
        nodes = read_nodes(server)
        if file.parent == server.logs / "runs" and file.is_file():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        elif nodes is not None and name in {node.name for node in nodes.nodes}:
            lines = _of_node(server, name)
        else:
            raise ConfigError(
                f"the server has no log of a run {name!r} and knows no node of that name; they are listed by fedtrain "
                f"server runs {folder} and fedtrain server status {folder}"
            )
        shown = [printable(line, kept="\t") for line in lines]
        out.result({"name": name, "lines": shown}, shown)


def _of_node(server: ServerFolder, name: str) -> list[str]:
    """Return the lines about a node in the log of members, and its failures in runs."""
    from fedtrain.deployment.superlink import MEMBERS  # noqa: PLC0415 - likewise

    log = server.logs / f"{MEMBERS}.log"
    known = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    lines = [line for line in known if name in line.replace(",", " ").split()]
    for run, found in reversed(ServerView(server).runs()):
        lines += [
            f"{datetime.fromtimestamp(problem.time).astimezone():%Y-%m-%d %H:%M:%S}  run {run}, round {problem.round}: "
            f"{problem.reason}"
            for problem in found.problems
            if found.called(problem.client) == name
        ]
    return lines or [f"nothing was noted of {name}"]


def stop(
    folder: _Folder,
    name: Annotated[str, typer.Argument(metavar="RUN", help="The name of the run.")],
    as_json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stop a run. What it has reached is kept, and it can be resumed."""
    from fedtrain.deployment.running import number_of, stop_run  # noqa: PLC0415 - likewise
    from fedtrain.deployment.superlink import running  # noqa: PLC0415

    with output(as_json_, quiet) as out:
        server = ServerFolder.open(folder)
        service, number = running(server), number_of(server, name)
        if number is None:
            raise ConfigError(f"the server has no run {name!r}; fedtrain server runs {folder} lists them")
        stop_run(service, number)
        line = f"{printable(name)} is stopped; fedtrain server run --resume goes on with it"
        out.done({"run": name, "number": number}, [line])
