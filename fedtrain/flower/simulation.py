"""Run a Flower app on the local engine."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import ServerApp
from flwr.serverapp.server_app import LoadServerAppError
from flwr.supercore.object_ref import load_app

from fedtrain.engine import LocalGrid
from fedtrain.engine.requests import Tally
from fedtrain.errors import AppError, RunError
from fedtrain.flower.app import FlowerApp, shipped
from fedtrain.privacy.mechanisms import registered

_log = logging.getLogger(__name__)

# The key by which an app of ours says how many clients there are; for other apps the caller says it.
CLIENTS_KEY = "federation.clients"
STACKED_KEY = "training.stacked"


def open_grid(
    client_app: str | ClientApp,
    folder: Path,
    run_config: Mapping[str, bool | int | float | str],
    *,
    nodes: int,
    workers: int | None,
    state_folder: Path | None,
    together: int = 1,
    copies: bool = False,
) -> LocalGrid:
    """Return a grid over worker processes, with what an app of ours needs imported before they start.

    Args:
        client_app: reference to the ClientApp, or the app itself where it exists in this process alone.
        folder: where modules that are named in the run config are looked for, too.
        run_config: the run config.
        nodes: the nodes to simulate.
        workers: worker processes; ``None`` follows the machine.
        state_folder: where the nodes' ``Context.state`` is kept beyond this call; ``None`` for not at all.
        together: clients that a worker may train at once, if the app can.
        copies: whether this process belongs to a command, and workers may be copies of it.

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
        preload=preloaded(run_config.get("privacy.mode"), stacked=together > 1),
        together=together,
        copies=copies,
    )


def preloaded(mode: object, *, stacked: bool = False) -> tuple[str, ...]:
    """Return what all workers of an app need, and take long to import; of ours, of an experiment of a mode, all of it.

    Workers are copies of a process that has imported it once.

    Args:
        mode: the mode of an experiment; ``None`` for an app of somebody else.
        stacked: whether workers train several clients at once.
    """
    if mode is None:
        return ("torch",)
    needs = [mechanism.requires for mechanism in registered() if mechanism.mode == mode]
    private: tuple[str, ...] = (
        ("fedtrain.training.private",) if any(each.per_record_gradients for each in needs) else ()
    )
    if any(mechanism.private for mechanism in registered() if mechanism.mode == mode):
        # Clients check the plan by accounting of their own, on the way to their first answer.
        private = (*private, "fedtrain.privacy.accounting.pld", "fedtrain.privacy.accounting.rdp")
    mapped = ("sympy",) if stacked else ()  # which torch.func.vmap imports when it is first called
    return ("torch", "fedtrain.clientapp.app", "fedtrain.clientapp.training", *private, *mapped)


def simulate(
    app: FlowerApp,
    run_config: Mapping[str, bool | int | float | str],
    *,
    nodes: int,
    workers: int | None,
    state_folder: Path | None,
) -> None:
    """Run the ServerApp in this process, which belongs to a command, and its ClientApp in workers, to the end.

    Args:
        app: the app.
        run_config: its run config.
        nodes: the nodes to simulate.
        workers: worker processes; ``None`` follows the machine.
        state_folder: where the nodes' ``Context.state`` is kept beyond this call; ``None`` for not at all.

    Raises:
        AppError: the ServerApp cannot be loaded.
        RunError: the ClientApp cannot be loaded, or no client trained.
        Exception: whatever the ServerApp raises.
    """
    # What the clients of another app import may read how many threads it is to use when it is imported.
    ours = app.folder == shipped()
    with open_grid(
        app.client,
        app.folder,
        run_config,
        nodes=nodes,
        workers=workers,
        state_folder=state_folder,
        together=int(run_config.get(STACKED_KEY, 1)) if ours else 1,
        copies=ours,
    ) as grid:
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
        grid.check()  # a ServerApp may have caught what the grid raised
        refuse_fruitless(grid.tallies)


def refuse_fruitless(tallies: Mapping[str, Tally]) -> None:
    """Refuse a run to whose end the ServerApp came although no client trained, or none answered at all.

    Flower's strategies go on without results, and what an app saves then is empty. Messages of another kind that were
    all answered with errors are a warning: many apps evaluate in the ServerApp alone.

    Args:
        tallies: how messages were answered, by their type, ``train`` or ``train.name``, say.

    Raises:
        RunError: likewise, with the last error.
    """
    answered = any(tally.contents for tally in tallies.values())
    training = {kind for kind in tallies if kind.partition(".")[0] == MessageType.TRAIN}
    trained = not training or any(tallies[kind].contents for kind in training)
    for kind, tally in tallies.items():
        if tally.contents or not tally.errors:
            continue
        said = f"all {tally.errors} messages of type {kind} were answered with errors. The last one:\n"
        reason = tally.last_error.strip()
        if not answered or (not trained and kind in training):
            raise RunError(f"no client {'trained' if training else 'answered'}: {said}{reason}")
        _log.warning("%s%s", said, reason)


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Keep Flower's own lines about the rounds from the screen, unless somebody debugs."""
    logger = logging.getLogger("flwr")
    before = logger.level
    if not logging.getLogger("fedtrain").isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
