"""What a client process holds between messages: the experiment, its data, its task and its model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from fedtrain.config import Experiment, from_flat
from fedtrain.data import DataStore, Partitions, open_store, partition
from fedtrain.device import resolve_device
from fedtrain.errors import ClientError
from fedtrain.privacy import PrivacyPlan, calibrate
from fedtrain.privacy.spec import privacy_spec
from fedtrain.tasks import Task, build_task
from fedtrain.training import Records


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything of an experiment that does not change from message to message; each trains a copy of the model."""

    experiment: Experiment
    store: DataStore
    partitions: Partitions
    task: Task
    model: nn.Module

    def records(self, client: int) -> Records:
        """Return the records of one client, copied out of the store.

        Raises:
            ClientError: the client has none.
        """
        rows = self.partitions.indices(client)
        if len(rows) == 0:
            raise ClientError(f"client {client} has no records")
        train = self.store.train
        return Records(features=torch.from_numpy(train.features[rows]), labels=torch.from_numpy(train.labels[rows]))


def open_site(run_config: Mapping[str, object]) -> Site:
    """Return the site of a run config, made at the first call in a process."""
    return _open(tuple(sorted(run_config.items())))


@lru_cache(maxsize=1)
def _open(items: tuple[tuple[str, object], ...]) -> Site:
    experiment = from_flat(dict(items))
    store = open_store(experiment.data, seed=experiment.seed)
    task = build_task(experiment.task, store.info)
    return Site(
        experiment=experiment,
        store=store,
        partitions=partition(store, experiment.data, clients=experiment.federation.clients, seed=experiment.seed),
        task=task,
        model=task.model().to(resolve_device(experiment.device)),
    )


@lru_cache(maxsize=8)
def checked_plan(experiment: Experiment, noise_multiplier: float) -> PrivacyPlan:
    """Return the plan with the server's noise, checked by this client against the budget in its own accounting.

    Raises:
        PrivacySpecError: that noise does not keep the budget.
    """
    return calibrate(privacy_spec(experiment), noise_multiplier=noise_multiplier)
