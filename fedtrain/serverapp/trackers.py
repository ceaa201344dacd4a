"""What others keep of a run: TensorBoard, MLflow, and Weights & Biases without its servers. Each is off by default.

A tracker is told the configuration, the central measurements of each round and the largest epsilon: what the report
has, too. It gets no number of a client and nobody's name: neither that of a client nor what the operator states of
itself for the report. It also notes when it is told, from which the length of a
round follows: with secret cohorts that is not to be published, as events are not.

A tracker never ends a run. What it lacks is told before anything is spent; where it fails later, the run goes on
without it.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Protocol

from fedtrain.config import Experiment, to_flat
from fedtrain.errors import ConfigError
from fedtrain.files import write_atomic
from fedtrain.report import Evaluation
from fedtrain.report.evaluation import slim
from fedtrain.serverapp.events import Display, Event, RoundDone, RunEnded

IDS: Final = "trackers.json"
"""The file of a run folder that says by which ids trackers know the run, so that a resumed run goes on in them."""

_STORE: Final = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:|https?:")
_PACKAGES: Final = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
_LONGEST: Final = 500  # letters of a field of the configuration
_BRIEF: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_PARAMETERS: Final = 100  # that MLflow takes at once
_NO_NAME: Final = re.compile(r"[^\w. :/-]", re.ASCII)  # in no name of a metric that MLflow takes


class Tracker(Protocol):
    """Keeps numbers of a run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep the numbers of a round."""

    def end(self, status: str) -> None:
        """Note how the run ended."""


def check_trackers(experiment: Experiment) -> None:
    """Refuse trackers that cannot be used, before anything is prepared.

    Raises:
        ConfigError: a package is not installed, or ``output.mlflow`` is no address of a store.
    """
    for name in _wanted(experiment):
        if find_spec(_PACKAGES[name]) is None:
            raise ConfigError(
                f"output.{name} is set and its package is not installed: pip install 'fedtrain[{name}]', or unset it"
            )
    store = experiment.output.mlflow
    if store is not None and not _STORE.match(store):
        raise ConfigError(
            f"output.mlflow = {store!r} is no address of a store of MLflow; allowed: a database, as "
            '"sqlite:///mlflow.db", or a server, as "http://127.0.0.1:5000"'
        )


def measured(evaluation: Evaluation, epsilon: float | None, *, noise: str) -> dict[str, float]:
    """Return the measurements of an evaluation that are single numbers, with epsilon, by name.

    The epsilon of seeded noise, a simulation, protects nobody. It has a name of its own, so that no chart takes it for
    one that does.
    """
    found = slim(evaluation).model_dump(mode="json", exclude_none=True)
    values = {name: value for name, value in found.items() if isinstance(value, int | float)}
    values.pop("round", None)
    name = "simulated_epsilon" if noise == "seeded" else "epsilon"
    return values if epsilon is None else {**values, name: epsilon}


@contextmanager
def open_trackers(
    folder: Path, experiment: Experiment, *, after: int, tell: Callable[[str], None]
) -> Iterator[tuple[Display, ...]]:
    """Open the trackers that an experiment asks for, which follow its events until they are closed.

    Args:
        folder: of the run.
        experiment: the experiment.
        after: the round that a resumed run goes on after; 0 for a new one.
        tell: says to a person what went wrong with one.
    """
    opening: dict[str, Callable[[], AbstractContextManager[Tracker]]] = {
        "tensorboard": lambda: _open_tensorboard(folder, after),
        "mlflow": lambda: _open_mlflow(folder, experiment),
        "wandb": lambda: _open_wandb(folder, experiment),
    }
    with ExitStack() as stack:
        found = []
        for name in _wanted(experiment):
            try:
                tracker = stack.enter_context(_closing(name, opening[name](), tell))
            except Exception as error:  # noqa: BLE001 - of a library, a disk or another machine
                tell(_failed(name, error))
            else:
                found.append(_Following(name, tracker, tell, noise=experiment.privacy.noise))
        yield tuple(found)


def _wanted(experiment: Experiment) -> tuple[str, ...]:
    output = experiment.output
    asked = {
        "tensorboard": output.tensorboard,
        "mlflow": output.mlflow is not None,
        "wandb": output.wandb is not None,
    }
    return tuple(name for name, is_set in asked.items() if is_set)


def _failed(name: str, error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"warning: output.{name} fails, and the run goes on without it: {type(error).__name__}: {text:.300}"


@contextmanager
def _closing(name: str, opened: AbstractContextManager[Tracker], tell: Callable[[str], None]) -> Iterator[Tracker]:
    """Close a tracker at the end. What fails then is told, and hides no error of the run."""
    tracker = opened.__enter__()
    try:
        yield tracker
    finally:
        try:
            opened.__exit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - as in opening
            tell(_failed(name, error))


class _Following:
    """Passes what events say to a tracker, until it fails."""

    def __init__(self, name: str, tracker: Tracker, tell: Callable[[str], None], *, noise: str) -> None:
        self._name, self._tell, self._noise = name, tell, noise
        self._tracker: Tracker | None = tracker

    def show(self, event: Event) -> None:
        """Keep the numbers of a round that was evaluated, and the end."""
        tracker = self._tracker
        if tracker is None:
            return
        try:
            if isinstance(event, RoundDone) and event.evaluation is not None:
                tracker.log(measured(event.evaluation, event.epsilon, noise=self._noise), event.round)
            elif isinstance(event, RunEnded):
                tracker.end(event.status)
        except Exception as error:  # noqa: BLE001 - of a library, a disk or another machine
            self._tracker = None
            self._tell(_failed(self._name, error))


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, status: str) -> None:
        """Event files have no place for it."""


@contextmanager
def _open_tensorboard(folder: Path, after: int) -> Iterator[Tracker]:
    """Open event files in ``tensorboard/`` of the run folder."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra

    # What was written beyond the checkpoint is written again.
    with SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1) as writer:
        yield _TensorBoard(writer)


class _Mlflow:
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - an extra

        now = int(1000 * time.time())
        # Metrics of a task of one's own may be called as they like, for example recall@5.
        metrics = [Metric(_NO_NAME.sub("_", name), value, now, step) for name, value in values.items()]
        with _giving_up_soon():
            self._client.log_batch(self._run, metrics=metrics)

    def end(self, status: str) -> None:
        state = {"completed": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED")
        with _giving_up_soon():
            self._client.set_terminated(self._run, state)


@contextmanager
def _giving_up_soon() -> Iterator[None]:
    """Let MLflow ask a server for half a minute, and not for several, unless the environment says so: a run waits."""
    unset = {name: value for name, value in _BRIEF.items() if name not in os.environ}
    os.environ.update(unset)
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]


@contextmanager
def _open_mlflow(folder: Path, experiment: Experiment) -> Iterator[Tracker]:
    """Open a run in a store of MLflow: its experiment has the name of ours, its parameters are the configuration."""
    # It would tell its makers that a run began.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Of its database it would say on standard error what it makes.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient  # noqa: PLC0415 - an extra
    from mlflow.entities import Param  # noqa: PLC0415 - likewise

    with _giving_up_soon():
        client = MlflowClient(tracking_uri=experiment.output.mlflow)
        run = _known(folder).get("mlflow")
        if run is None:
            run = client.create_run(_experiment_of(client, experiment.name), run_name=folder.resolve().name).info.run_id
            parameters = [Param(key, value) for key, value in _configuration(experiment).items()]
            for start in range(0, len(parameters), _PARAMETERS):
                client.log_batch(run, params=parameters[start : start + _PARAMETERS])
            _note(folder, "mlflow", run)
        else:
            client.update_run(run, status="RUNNING")
    yield _Mlflow(client, run)


def _experiment_of(client: Any, name: str) -> str:
    """Return the number of the experiment of a name, which is made where there is none."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except Exception:
            found = client.get_experiment_by_name(name)  # another run has made it in the meantime
            if found is None:
                raise
    return str(found.experiment_id)


class _Wandb:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def end(self, status: str) -> None:
        self._run.summary["status"] = status


@contextmanager
def _open_wandb(folder: Path, experiment: Experiment) -> Iterator[Tracker]:
    """Open a run whose files lie in ``wandb/`` of the run folder. Nothing is sent: ``wandb sync`` does it."""
    # Its makers would get errors of its own, from runs that send nothing, too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: PLC0415 - an extra

    # An offline run has one set of files, so a resumed one begins another, of the same id.
    name = _known(folder).get("wandb")
    if name is None:
        name = token_hex(4)
        _note(folder, "wandb", name)
    # It takes the place of these, and leaves it so.
    ends = sys.exit, sys.excepthook
    try:
        run = wandb.init(
            mode="offline",
            project=experiment.output.wandb,
            name=folder.resolve().name,
            id=name,
            resume="allow",
            dir=str(folder),
            config=_configuration(experiment),
            # Neither what this machine is nor what stands on its screen is anybody's matter.
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        try:
            yield _Wandb(run)
        finally:
            run.finish()
    finally:
        sys.exit, sys.excepthook = ends


def _configuration(experiment: Experiment) -> dict[str, str]:
    """Return the fields of an experiment that are set, but for those of the output and of the report, as text."""
    fields = to_flat(experiment).items()
    left_out = ("output.", "report.")
    return {key: str(value)[:_LONGEST] for key, value in fields if value != "" and not key.startswith(left_out)}


def _known(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / IDS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {str(name): str(value) for name, value in found.items()}


def _note(folder: Path, name: str, value: str) -> None:
    write_atomic(folder / IDS, json.dumps(_known(folder) | {name: value}).encode())
