"""Everything that is made once, before the first round."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedtrain.config import Experiment
from fedtrain.data import DataStore, label_histogram, open_simulated, open_test
from fedtrain.errors import PrivacySpecError, TaskError
from fedtrain.ledger import client_folder, find_policy
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.progress import working
from fedtrain.report import Metric
from fedtrain.seeding import derive_seed
from fedtrain.tasks import NO_OBJECTS, CallerObjects, Task, build_task, shared_names
from fedtrain.tasks.calls import resolve_device
from fedtrain.training import check_model


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What the rounds work with.

    Attributes:
        store: the test records, and in a simulation the training records of all clients.
        histogram: training records, shape (clients, classes); ``None`` where they are on machines of their own, and
            where the target is no class.
        model: the initial model; also where weights are loaded into for evaluation.
        plan: the privacy plan; ``None`` without privacy.
        metrics: how to read what the task measures; the first chooses the best model.
        slower: why the model trains slower than others, in words; empty where it does not.
    """

    experiment: Experiment
    store: DataStore
    histogram: NDArray[np.int64] | None
    task: Task
    model: nn.Module
    plan: PrivacyPlan | None
    metrics: tuple[Metric, ...]
    slower: str = ""

    @property
    def shown_records(self) -> int | None:
        """The number of training records where it is known and may be shown.

        With secure noise nothing is shown that is read directly from the data.
        """
        records = len(self.store.train)
        return records if records and (self.plan is None or self.experiment.privacy.noise == "seeded") else None

    @property
    def shown_histogram(self) -> NDArray[np.int64] | None:
        """The histogram where the number of records may be shown."""
        return None if self.shown_records is None else self.histogram


def prepare(experiment: Experiment, *, deployed: bool = False, objects: CallerObjects = NO_OBJECTS) -> Preparation:
    """Open the data, build task and model, and make the privacy plan.

    Args:
        experiment: the experiment.
        deployed: whether clients are on machines of their own, and their training records with them.
        objects: what is trained in the place of what the experiment names.

    Raises:
        UsageError: what cannot be used, before anything is trained.
    """
    device = resolve_device(experiment.device)
    plan = None
    mechanism = mechanism_of(experiment)
    if mechanism.private:
        with working("finding the noise that keeps the budget"):
            plan = mechanism.plan(experiment)
        if deployed and experiment.privacy.noise == "seeded":
            raise PrivacySpecError(
                'privacy.noise = "seeded" is for simulations: anyone with the seed can subtract the noise; set "secure"'
            )
        for client in () if deployed else range(experiment.federation.clients):
            # A simulated client's site file is here: what is wrong with it is better said before anything is trained.
            find_policy(client_folder(experiment, client))
    store, histogram = (open_test(experiment.data), None) if deployed else _simulated(experiment, objects)
    task = build_task(experiment.task, store.info, objects.task)
    torch.manual_seed(derive_seed(experiment.seed, "model"))
    model = task.model()
    shared_names(task, model)
    with working("trying the model on synthetic records"):
        slower = check_model(model, mechanism.requires, task=task, info=store.info)
    return Preparation(
        experiment=experiment,
        store=store,
        histogram=histogram,
        task=task,
        model=model.to(device),
        plan=plan,
        metrics=metrics_of(task),
        slower=slower,
    )


def _simulated(experiment: Experiment, objects: CallerObjects) -> tuple[DataStore, NDArray[np.int64] | None]:
    clients = experiment.federation.clients
    store, partitions = objects.records or open_simulated(experiment.data, clients=clients, seed=experiment.seed)
    return store, label_histogram(store, partitions) if store.info.target.kind == "class" else None


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return how to read what the task measures, as a report holds it; the first chooses the best model.

    Raises:
        TaskError: the task's metrics do not say so.
    """
    metrics = task.metrics()
    if not hasattr(metrics, "described"):
        raise TaskError(
            f"the metrics of the task, of type {type(metrics).__name__}, have no `described`: a tuple of "
            "fedtrain.tasks.Metric, the first of which chooses the best model; an empty one chooses none"
        )
    return tuple(
        Metric(name=metric.name, direction=metric.direction, format=metric.format) for metric in metrics.described
    )
