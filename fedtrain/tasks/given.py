"""What the calling program gives in the place of what a configuration names: a task, a data set, or both.

They exist in one process. Workers inherit them (`fedtrain.engine.forking`); nothing of them is written or sent, and a
configuration holds the name of the task alone. No digest of the records: it would let a reader of the report, who has
a guess of them all, see whether it is right, and no epsilon pays for that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fedtrain.data import DataInfo, DataStore, Partitions
from fedtrain.errors import TaskError

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
