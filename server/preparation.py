"""Everything that is made once, before the first round."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedtrain.config import Experiment
from fedtrain.data import DataStore, label_histogram, open_store, partition
from fedtrain.device import resolve_device
from fedtrain.ledger import client_folder, find_policy
from fedtrain.privacy import PrivacyPlan, calibrate
from fedtrain.privacy.spec import privacy_spec
from fedtrain.seeding import derive_seed
from fedtrain.tasks import Task, build_task, refuse_batch_statistics


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What the rounds work with.

    Attributes:
        histogram: training records, shape (clients, classes).
        model: the initial model; also where weights are loaded into for evaluation.
        plan: the privacy plan; ``None`` without privacy.
    """

    experiment: Experiment
    store: DataStore
    histogram: NDArray[np.int64]
    task: Task
    model: nn.Module
    plan: PrivacyPlan | None


def prepare(experiment: Experiment) -> Preparation:
    """Open the data, build task and model, and make the privacy plan.

    Raises:
        UsageError: what cannot be used, before anything is trained.
    """
    device = resolve_device(experiment.device)
    plan = None
    if experiment.privacy.mode != "none":
        plan = calibrate(privacy_spec(experiment), noise_multiplier=experiment.privacy.noise_multiplier)
        for client in range(experiment.federation.clients):
            # A simulated client's site file is here: what is wrong with it is better said before anything is trained.
            find_policy(client_folder(experiment, client))
    store = open_store(experiment.data, seed=experiment.seed)
    partitions = partition(store, experiment.data, clients=experiment.federation.clients, seed=experiment.seed)
    task = build_task(experiment.task, store.info)
    torch.manual_seed(derive_seed(experiment.seed, "model"))
    model = task.model()
    if experiment.privacy.mode == "record":
        from fedtrain.training.private import refuse_untrainable  # noqa: PLC0415 - Opacus takes seconds to import

        refuse_untrainable(model)
    elif experiment.privacy.mode == "client":
        refuse_batch_statistics(model)
    return Preparation(
        experiment=experiment,
        store=store,
        histogram=label_histogram(store, partitions),
        task=task,
        model=model.to(device),
        plan=plan,
    )
