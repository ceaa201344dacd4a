"""``fedtrain simulate``: run a Flower app on this machine."""

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from fedtrain.cli.running import failed, output
from fedtrain.cli.settings import Json, Quiet, Settings, Workers
from fedtrain.cli.streams import INTERRUPTED, on_termination
from fedtrain.cli.summary import summary
from fedtrain.config import Experiment, from_flat, parse_settings, read_toml
from fedtrain.errors import ConfigError, FedtrainError
from fedtrain.flower.app import FlowerApp, find_app, shipped
from fedtrain.report.numbers import printable
from fedtrain.serverapp.run_folder import RunFolder


def simulate(
    app: Annotated[
        Path | None,
        typer.Argument(help="Folder of a Flower app.", show_default="that of the current folder, or fedtrain's own"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="TOML file of the experiment, or for the run config of another app; the demo if unset.",
        ),
    ] = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder (output.directory).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's last checkpoint.")] = False,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Nodes to simulate; by default what the app says.", show_default=False)
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show log messages, and why there are so many workers.")
    ] = False,
) -> None:
    """Run an experiment, or any Flower app, on this machine.

    The ServerApp runs in this process, and the ClientApp in worker processes. Without --config the demo is run.
    """
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, stream=sys.stderr)
    logging.getLogger("flwr").propagate = False  # Flower prints its own messages
    started = time.time()
    on_termination(_interrupt)
    run_config: dict[str, Any] = {}
    status, error = 0, None
    with output(as_json, quiet) as told:
        try:
            flower_app = find_app(app)
            overrides = parse_settings(settings or ())
            if out is not None:
                overrides["output.directory"] = str(out)
            if resume:
                overrides["output.resume"] = True
            if told.silent and "output.screen" in flower_app.config:
                overrides["output.screen"] = "none"
            run_config = _configured(flower_app, config, overrides)
            told.starting()
            _run(flower_app, run_config, nodes=nodes, workers=workers)
        except FedtrainError as failure:
            status, error = failure.exit_status, str(failure)
        except KeyboardInterrupt:
            status, error = INTERRUPTED, "interrupted"
        except Exception as failure:  # noqa: BLE001 - an app may raise anything, and its traceback is for its author
            traceback.print_exc()
            status, error = 1, f"{type(failure).__name__}: {failure}"
        if as_json:
            result = {"exit_status": status, "error": error, "seconds": time.time() - started}
            told.answer({**result, **summary(_folder(run_config), since=started)})
        if error is not None and not (status == INTERRUPTED and _was_said(run_config, started)):
            failed(told, printable(error, kept="\n"), status)
    raise typer.Exit(status)


def _configured(app: FlowerApp, config: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the run config. That of our own app is an experiment, and is checked before a worker starts."""
    ours = app.folder == shipped()
    if ours:
        # A task of the user's own is beside the experiment. Last, so that it is in the way of no package.
        sys.path.append(str(Path.cwd()))
    file = demo() if ours and config is None else config
    run_config = app.run_config((read_toml(file) if file is not None else {}) | overrides)
    if ours:
        RunFolder.of(checked(run_config, config))
    if run_config.get("output.directory") == "" and "name" in run_config and not run_config.get("output.resume"):
        # Clients keep their ledgers in the run folder, so it has a name before they start.
        run_config["output.directory"] = f"runs/{run_config['name']}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return run_config


def demo() -> Path:
    """Return the experiment that stands in for one that is not named."""
    return shipped() / "simulations" / "demo.toml"


def checked(flat: Mapping[str, Any], config: Path | None) -> Experiment:
    """Return the experiment of a flat mapping, which began with a file, or with the demo.

    Raises:
        ConfigError: it is none; where the demo stands in for a file, the message says so.
    """
    try:
        return from_flat(flat)
    except ConfigError as error:
        if config is not None:
            raise
        raise ConfigError(
            f"{error}\nwithout --config, --set changes the demo: see {demo()} for the values it has; set those too, or "
            "name a file of your own with --config"
        ) from error


def _run(app: FlowerApp, run_config: dict[str, Any], *, nodes: int | None, workers: int | None) -> None:
    from fedtrain.flower import simulation  # noqa: PLC0415 - Flower and torch take seconds to import

    count = nodes or run_config.get(simulation.CLIENTS_KEY) or app.nodes
    folder = _folder(run_config)
    simulation.simulate(
        app,
        run_config,
        nodes=count if isinstance(count, int) else app.nodes,
        workers=workers,
        state_folder=None if folder is None else folder / "clients",
    )


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _was_said(run_config: dict[str, Any], started: float) -> bool:
    """Say whether the run's own screen has told that it was interrupted, and how to go on."""
    return run_config.get("output.screen") in {"auto", "plain"} and bool(summary(_folder(run_config), since=started))


def _folder(run_config: Mapping[str, Any]) -> Path | None:
    directory = run_config.get("output.directory")
    return Path(str(directory)) if directory else None
