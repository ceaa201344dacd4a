"""From the configuration, or an object of the calling program, to the task.

Objects of the calling program exist in one process. Workers inherit them (`fedtrain.engine.forking`); nothing of them
is written or sent, and a configuration holds the name of the task alone. No digest of the records: it would let a
reader of the report, who has a guess of them all, see whether it is right, and no epsilon pays for that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from fedtrain.config.sections import TaskConfig
from fedtrain.data import DataInfo, DataStore, Partitions
from fedtrain.errors import TaskError
from fedtrain.tasks.base import Task, unknown
from fedtrain.tasks.column_statistics import ColumnStatistics
from fedtrain.tasks.language import Language
from fedtrain.tasks.named import load_named
from fedtrain.tasks.supervised import Multilabel, Regression, Speech, Tabular, TextClassification, Vision
from fedtrain.tasks.user_code import telling

OBJECT: Final = "object"
"""Stands in ``data.source``, and before the colon in ``task.name``, where an object is in the place of a name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CallerObjects:
    """Objects of the calling program.

    Attributes:
        task: takes the ``DataInfo`` and returns the task; ``None`` for the one that the configuration names.
        records: the data set and its split over the clients; ``None`` for those that the configuration names.
    """

    task: Callable[[DataInfo], object] | None = None
    records: tuple[DataStore, Partitions] | None = None


NO_OBJECTS: Final = CallerObjects()

TASKS: Final[dict[str, Callable[[TaskConfig, DataInfo], Task]]] = {
    "vision": Vision,
    "text": TextClassification,
    "language": Language,
    "tabular": Tabular,
    "speech": Speech,
    "regression": Regression,
    "multilabel": Multilabel,
    "statistics": ColumnStatistics,
}
"""The tasks that are built in, by name."""
_METHODS = ("model", "collate", "forward", "losses", "metrics", "shared")

_CHANGED = """Losses are now those of single records, and the trainer takes the mean. Inherit from \
fedtrain.tasks.Task, and in the place of encode(features, generator), loss(outputs, labels) and, in metrics of your \
own, update(outputs, labels), write

    def collate(self, records, generator):
        return {"inputs": <what encode returned for records.features>, "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def update(self, outputs, batch):  # of metrics of your own, which also have `described`
        labels = batch["targets"]

A batch without records no longer reaches the task. docs/how-to/own-task.md has both versions side by side."""


def build_task(config: TaskConfig, info: DataInfo, given: Callable[[DataInfo], object] | None = None) -> Task:
    """Return the task that the configuration names, for a data set.

    ``config.name`` is one of the built-in tasks, or ``module:attribute``: a callable in a module on Python's path that
    takes the ``DataInfo`` and returns a task. Such a task has its own model and augmentation, so ``config.model`` and
    ``config.augment`` must be unset.

    Args:
        config: names the task.
        info: the data set.
        given: makes the task, where it is an object of the calling program (see `CallerObjects`).

    Raises:
        TaskError: there is no such task, or it cannot be built, or it does not fit the data set.
    """
    if config.name.startswith("object:") and given is None:
        raise TaskError(
            f'task.name = "{config.name}": the task of this experiment was an object of the program that ran it; give '
            'it to fedtrain (task=...), or put it into a module and name it "module:attribute"'
        )
    if config.name in TASKS and given is None:
        return TASKS[config.name](config, info)
    if ":" not in config.name and given is None:
        raise unknown("task.name", config.name, TASKS, ', or your own as "module:attribute"')
    if config.model is not None or config.augment:
        field = "augment" if config.model is None else "model"
        raise TaskError(
            f'task.{field} is set, and task.name = "{config.name}" is a task of your own, which chooses its own model '
            f"and augmentation; unset task.{field}."
        )
    return _own_task(config.name, given or _load(config.name), info)


def factory_of(task: object) -> tuple[str, Callable[[DataInfo], object]]:
    """Return what stands in ``task.name`` for a caller's task, and what makes the task of a data set.

    Args:
        task: a class or function that takes the ``DataInfo`` and returns a task, or a task, which is used as it is.

    Raises:
        TaskError: it is none of these.
    """
    if isinstance(task, type) or (callable(task) and not hasattr(task, "model")):
        name = getattr(task, "__name__", type(task).__name__)
        return f"{OBJECT}:{name}", task
    if isinstance(task, str) or not hasattr(task, "model"):
        raise TaskError(
            f"task is {task!r:.80}, and a task, or a class or function that takes the DataInfo and returns one, is "
            "needed; a built-in task is named in the experiment (task.name)"
        )
    return f"{OBJECT}:{type(task).__name__}", lambda _: task


def _load(name: str) -> Callable[[DataInfo], object]:
    return load_named("task.name", name, example="own_task:build", makes="takes the DataInfo and returns a task")


def _own_task(name: str, factory: Callable[[DataInfo], object], info: DataInfo) -> Task:
    """Call the user's factory and check what it returns."""
    with telling(f'task.name = "{name}", called with the DataInfo,'):
        task = factory(info)
    return checked_task(task, f'task.name = "{name}"')


def checked_task(task: object, name: str) -> Task:
    """Return an object as a task if it has the methods of one.

    Args:
        task: what a factory returned.
        name: what it is called in errors.

    Raises:
        TaskError: a method is missing; of a task that was written for fedtrain 0.1, it says what to write instead.
    """
    missing = [method for method in _METHODS if not callable(getattr(task, method, None))]
    if not missing:
        return cast("Task", task)
    kind = type(task).__name__
    if all(callable(getattr(task, method, None)) for method in ("encode", "loss")):
        raise TaskError(f"{name} returned an object of type {kind} with encode and loss. {_CHANGED}")
    raise TaskError(
        f"{name} returned an object of type {kind} without the method {', '.join(missing)}; a task has the methods "
        f"{', '.join(_METHODS)} (fedtrain.tasks.Task, which gives forward and shared to a class that inherits from it)."
    )
