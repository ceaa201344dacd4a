"""Privacy-preserving federated learning that a data owner can believe.

The names here are those of the Python API (`fedtrain.api`); each is imported when it is first used. Errors are in
`fedtrain.errors`.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedtrain.api import Run, audit_report, budget, load_run, plan, simulate
    from fedtrain.audit import Check, Verdict
    from fedtrain.config import Experiment
    from fedtrain.data import (
        ClassTarget,
        Columns,
        DataInfo,
        DataStore,
        Image,
        LabelsTarget,
        NumberTarget,
        Sound,
        Split,
    )
    from fedtrain.ledger.budget import BudgetRow
    from fedtrain.report import Report
    from fedtrain.report.plan import PlanSummary
    from fedtrain.serverapp.events import ClientDone, Event, Notice, RoundDone, RoundStarted, RunEnded, RunStarted
    from fedtrain.tasks import Task
    from fedtrain.trust import Roster

__version__ = "0.1.0"

__all__ = [
    "BudgetRow",
    "Check",
    "ClassTarget",
    "ClientDone",
    "Columns",
    "DataInfo",
    "DataStore",
    "Event",
    "Experiment",
    "Image",
    "LabelsTarget",
    "Notice",
    "NumberTarget",
    "PlanSummary",
    "Report",
    "Roster",
    "RoundDone",
    "RoundStarted",
    "Run",
    "RunEnded",
    "RunStarted",
    "Sound",
    "Split",
    "Task",
    "Verdict",
    "__version__",
    "audit_report",
    "budget",
    "load_run",
    "plan",
    "simulate",
]

_HOMES = {
    "fedtrain.api": ("Run", "audit_report", "budget", "load_run", "plan", "simulate"),
    "fedtrain.audit": ("Check", "Verdict"),
    "fedtrain.config": ("Experiment",),
    "fedtrain.data": (
        "ClassTarget",
        "Columns",
        "DataInfo",
        "DataStore",
        "Image",
        "LabelsTarget",
        "NumberTarget",
        "Sound",
        "Split",
    ),
    "fedtrain.ledger.budget": ("BudgetRow",),
    "fedtrain.report": ("Report",),
    "fedtrain.report.plan": ("PlanSummary",),
    "fedtrain.serverapp.events": (
        "ClientDone",
        "Event",
        "Notice",
        "RoundDone",
        "RoundStarted",
        "RunEnded",
        "RunStarted",
    ),
    "fedtrain.tasks": ("Task",),
    "fedtrain.trust": ("Roster",),
}

# Nothing leaves the machine: Flower reads these when it is imported, so they are set before anything imports it.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")


def imported_when_used(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package that imports a name when it is first used.

    Args:
        package: the package.
        homes: the names of each module.
    """

    def attribute(name: str) -> Any:
        for module, names in homes.items():
            if name in names:
                return getattr(importlib.import_module(module), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute


__getattr__ = imported_when_used(__name__, _HOMES)


def __dir__() -> list[str]:
    """Return the names of the API beside those that are there already."""
    return sorted({*globals(), *__all__})
