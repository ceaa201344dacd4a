"""``fedtrain watch``: where a run stands, while it goes on."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from fedtrain.cli.running import Output, output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.errors import ConfigError
from fedtrain.status import FILE, Follower, RunStatus, as_json
from fedtrain.status.words import Said, described, plain

_PAUSE = 1.0  # seconds between two looks

Web = Annotated[bool, typer.Option("--web", help="Show it on a page, on this machine alone, until Ctrl-C.")]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port of the page, on loopback; by default a free one.")
]
Token = Annotated[
    Path | None,
    typer.Option("--token", help="File of the page's token, made where there is none; by default another each time."),
]


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    once: Annotated[bool, typer.Option("--once", help="Show where the run stands now, and end.")] = False,
    as_json_: Json = False,
    web: Web = False,
    port: Port = 0,
    token: Token = None,
    quiet: Quiet = False,
) -> None:
    """Show where a run stands: round, clients, who is late, accuracy, epsilon, time left, last errors."""
    with output(as_json_, quiet) as out:
        follower = Follower(run / FILE)
        status = _begun(run, follower)
        if web:
            on_the_web(lambda: {"runs": [as_json(_begun(run, follower), now=time.time())]}, out, port=port, token=token)
        elif as_json_:
            out.answer(as_json(status, now=time.time()))
        elif once or not sys.stdout.isatty():
            show(described(status, now=time.time()))
        else:
            following(lambda: _look(run, follower))


def _begun(run: Path, follower: Follower) -> RunStatus:
    status = follower.status()
    if status is not None:
        return status
    if not run.is_dir():
        raise ConfigError(f"there is no run folder {run}; name the folder that --out named")
    raise ConfigError(
        f"{run} has no {FILE}: its run has not begun, as where clients are waited for, or is of an earlier version of "
        "fedtrain"
    )


def _look(run: Path, follower: Follower) -> tuple[list[Said], bool]:
    status = _begun(run, follower)
    return described(status, now=time.time()), status.state == "running"


def on_the_web(look: Callable[[], dict[str, Any]], out: Output, *, port: int, token: Path | None) -> None:
    """Serve a page until a person ends it.

    Args:
        look: returns what it shows.
        out: tells its address.
        port: on loopback; 0 for a free one.
        token: the file of its token; ``None`` for one of its own.
    """
    from fedtrain.status.web import kept_token, new_token, serve  # noqa: PLC0415 - only the page needs it

    secret = new_token() if token is None else kept_token(token)

    def say(address: str) -> None:
        out.result({"page": address}, [address])
        out.say("only this machine reaches it, and only with the token after #; Ctrl-C ends it")

    with suppress(KeyboardInterrupt):
        serve(look, port=port, token=secret, say=say)


def show(lines: Sequence[Said]) -> None:
    """Print lines once."""
    sys.stdout.write(f"{plain(lines)}\n")


def following(look: Callable[[], tuple[list[Said], bool]]) -> None:
    """Draw on a terminal what is to be seen, again and again, until it is over or a person ends it.

    Args:
        look: returns the lines, and whether they may change.
    """
    from rich.live import Live  # noqa: PLC0415 - only terminals need it
    from rich.text import Text  # noqa: PLC0415

    styles = {"title": "bold", "text": "", "good": "bold green", "bad": "red", "faint": "dim"}

    def drawn(lines: Sequence[Said]) -> Any:
        return Text("\n").join(Text(line.text, style=styles[line.tone]) for line in lines)

    lines, goes_on = look()
    with suppress(KeyboardInterrupt), Live(drawn(lines), auto_refresh=False) as live:
        while goes_on:
            time.sleep(_PAUSE)
            lines, goes_on = look()
            live.update(drawn(lines), refresh=True)
