"""Run a Flower app on the local engine."""

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import ServerApp
from flwr.serverapp.server_app import LoadServerAppError
from flwr.supercore.object_ref import load_app

from fedtrain.engine import LocalGrid
from fedtrain.errors import AppError
from fedtrain.flower.app import FlowerApp
from fedtrain.privacy.mechanisms import registered

# The key by which an app of ours says how many clients there are; for other apps the caller says it.
CLIENTS_KEY = "federation.clients"


def open_grid(
    client_app: str | ClientApp,
    folder: Path,
    run_config: Mapping[str, bool | int | float | str],
    *,
    nodes: int,
    workers: int | None,
    state_folder: Path | None,
) -> LocalGrid:
    """Return a grid over worker processes, with what an app of ours needs imported before they start.

    Args:
        client_app: reference to the ClientApp, or the app itself where it exists in this process alone.
        folder: where modules that are named in the run config are looked for, too.
        run_config: the run config.
        nodes: the nodes to simulate.
        workers: worker processes; ``None`` follows the machine.
        state_folder: where the nodes' ``Context.state`` is kept beyond this call; ``None`` for not at all.

    Raises:
        UsageError: the ClientApp is an object and this process cannot be copied.
        StorageError: there is no room for files, or another run uses the folder.
    """
    return LocalGrid(
        client_app=client_app,
        app_dir=folder,
        run_config=dict(run_config),
        nodes=nodes,
        workers=workers,
        state_dir=state_folder,
        preload=_preloaded(run_config.get("privacy.mode")),
    )


def _preloaded(mode: object) -> tuple[str, ...]:
    """Return what workers of an experiment of a mode need, and take long to import."""
    needs = [mechanism.requires for mechanism in registered() if mechanism.mode == mode]
    return ("torch", "opacus") if any(each.per_record_gradients for each in needs) else ("torch",)


def simulate(
    app: FlowerApp,
    run_config: Mapping[str, bool | int | float | str],
    *,
    nodes: int,
    workers: int | None,
    state_folder: Path | None,
) -> None:
    """Run the ServerApp in this process, and its ClientApp in worker processes, to the end.

    Args:
        app: the app.
        run_config: its run config.
        nodes: the nodes to simulate.
        workers: worker processes; ``None`` follows the machine.
        state_folder: where the nodes' ``Context.state`` is kept beyond this call; ``None`` for not at all.

    Raises:
        AppError: the ServerApp cannot be loaded.
        Exception: whatever the ServerApp raises.
    """
    with open_grid(app.client, app.folder, run_config, nodes=nodes, workers=workers, state_folder=state_folder) as grid:
        try:
            server = load_app(app.server, LoadServerAppError, app.folder)
        except (LoadServerAppError, ImportError) as error:
            raise AppError(f"cannot load the ServerApp {app.server} of {app.folder}: {error}") from error
        if not isinstance(server, ServerApp):
            raise AppError(f"{app.server} of {app.folder} is a {type(server).__name__}, not a ServerApp")
        server(
            grid,
            Context(
                run_id=grid.run.run_id,
                node_id=SUPERLINK_NODE_ID,
                node_config={},
                state=RecordDict(),
                run_config=dict(run_config),
            ),
        )
