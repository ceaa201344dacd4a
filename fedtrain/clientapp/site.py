"""What a client process holds between messages: the experiment, its data, its task and its model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.policy import refuse_task
from fedtrain.config import Experiment, from_flat
from fedtrain.data import DataInfo, Partitions, Split, open_simulated
from fedtrain.data.cache import cache_folder, forget_pages
from fedtrain.data.site import SiteData, schema_digest, site_data
from fedtrain.data.site import open_site as open_records
from fedtrain.encoders import Encoder, encoded, open_encoder
from fedtrain.errors import ClientError, SiteError
from fedtrain.machines import NodeFolder
from fedtrain.tasks import NO_OBJECTS, CallerObjects, Task, build_model, build_task, move_model
from fedtrain.tasks.calls import resolve_device
from fedtrain.tasks.least_squares import with_solver
from fedtrain.training import Records
from fedtrain.training.stacked import StackedTrainer, why_not_stacked


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything of an experiment that does not change from message to message; each trains a copy of the model.

    Attributes:
        train: all training records that are on this machine, as they are stored.
        encoder: what computes the features that are trained on; ``None`` where the stored ones are.
        cache: where these are kept.
        info: the schema of a record as it is trained on.
        partitions: which of them each simulated client holds; ``None`` where there is one client, which holds all.
    """

    experiment: Experiment
    train: Split
    encoder: Encoder | None
    cache: Path
    info: DataInfo
    partitions: Partitions | None
    task: Task
    model: nn.Module

    def records(self, client: int) -> Records:
        """Return the records of one client as they are stored, copied out of the store. Its ledger is of these.

        Raises:
            ClientError: the client has none.
        """
        return self._of(client, self.train)

    def inputs(self, client: int) -> Records:
        """Return the records of one client as they are trained on: encoded, where there is an encoder.

        Raises:
            ClientError: the client has none.
            TaskError: the encoder fails.
            StorageError: the features cannot be kept.
        """
        return self._of(client, self._encoded)

    def inputs_of(self, client: int, records: Records) -> Records:
        """Return the records of one client as they are trained on, likewise; without an encoder those that are given.

        Args:
            client: its number.
            records: what `records` returned: a second copy of them takes as long as a step on them.

        Raises:
            TaskError: the encoder fails.
            StorageError: the features cannot be kept.
        """
        return records if self.encoder is None else self.inputs(client)

    @cached_property
    def _encoded(self) -> Split:
        return encoded(self.train, self.encoder, self.cache, own=self.partitions is None)

    @cached_property
    def together(self) -> StackedTrainer:
        """What trains several clients at once; whether their model can be is tried once, on a model made for it.

        Without privacy, the weights of the site's model are forgotten.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = move_model(build_model(self.task), next(self.model.parameters()).device)
        return StackedTrainer(config=self.experiment.training, why_not=why_not_stacked(model, self.task, self.info))

    def _of(self, client: int, split: Split) -> Records:
        rows = np.arange(len(split)) if self.partitions is None else self.partitions.indices(client)
        if len(rows) == 0:
            raise ClientError(f"client {client} has no records")
        records = Records(
            features=torch.from_numpy(split.features[rows]), targets=torch.from_numpy(split.targets[rows])
        )
        forget_pages(split.features)  # of all clients that were trained here
        return records


def site_of(client: ClientContext, objects: CallerObjects | None = None) -> Site:
    """Return the site of a client, made at the first call in a process, and anew where the schema file means otherwise.

    A process keeps records that it has opened, and their ledger with them, until it ends. In a deployment each message
    has a process of its own.

    Args:
        client: the client.
        objects: what is trained in the place of what the experiment names.

    Raises:
        BudgetError: the client's site file does not allow its task.
        SiteError: the site file of a machine of its own does not say where its records are.
    """
    refuse_task(client)
    objects = objects or NO_OBJECTS
    if client.node is None:
        return _open(client.experiment, None, None, None, objects)
    assert client.site_file is not None  # a machine of its own has one
    data = site_data(client.site_file.data, client.site_file.path)
    schema = None if data.schema_file is None else schema_digest(data)
    return _open(client.experiment, client.node, data, schema, objects)


def open_site(run_config: Mapping[str, object]) -> Site:
    """Return the site of a simulation's run config, made at the first call in a process."""
    return _open(from_flat(run_config), None, None, None, NO_OBJECTS)


@lru_cache(maxsize=1)
def _open(
    experiment: Experiment, node: NodeFolder | None, data: SiteData | None, schema: str | None, objects: CallerObjects
) -> Site:
    info, train, partitions = (
        _simulated(experiment, objects) if node is None or data is None else _own(experiment, node, data, schema)
    )
    device = resolve_device(experiment.device)
    folder = None if node is None else node.path
    encoder = open_encoder(experiment.task, info, device=device, deployed=node is not None, folder=folder)
    info = info if encoder is None else encoder.info
    task = with_solver(build_task(experiment.task, info, objects.task), experiment, info)
    return Site(
        experiment=experiment,
        train=train,
        encoder=encoder,
        cache=cache_folder(experiment.data.cache) if node is None else node.path / "cache",
        info=info,
        partitions=partitions,
        task=task,
        model=move_model(build_model(task), device),
    )


def _simulated(experiment: Experiment, objects: CallerObjects) -> tuple[DataInfo, Split, Partitions]:
    clients = experiment.federation.clients
    store, partitions = objects.records or open_simulated(experiment.data, clients=clients, seed=experiment.seed)
    return store.info, store.train, partitions


def _own(experiment: Experiment, node: NodeFolder, data: SiteData, schema: str | None) -> tuple[DataInfo, Split, None]:
    # Without the names: the error reaches the server, and they are the site's.
    if data.target != experiment.data.target:
        raise SiteError(
            f'data.target of the experiment is "{experiment.data.target}", and the site file has "{data.target}" in '
            "[data]; nothing was trained"
        )
    _require_same_schema(experiment, schema)
    if data.as_source().names_needed:
        raise SiteError("the site file names no classes: its site adds classes to [data], as the experiments have them")
    if data.class_names != experiment.data.class_names:
        raise SiteError(
            "data.classes of the experiment are not the classes in [data] of the site file, or in another order; "
            "nothing was trained"
        )
    if (data.sample_rate, data.seconds) != (experiment.data.sample_rate, experiment.data.seconds):
        raise SiteError(
            "data.sample_rate and data.seconds of the experiment are not those in [data] of the site file; nothing was "
            "trained"
        )
    site = open_records(data, folder=node.path, schema=schema)
    return site.info, site.train, None


def _require_same_schema(experiment: Experiment, schema: str | None) -> None:
    """Refuse an experiment by another schema file than the site's, or one of the two without any.

    The site decodes by its own file alone. So the server chooses no decoding, and with it no new ledger.
    """
    wanted = experiment.data.schema_digest
    if schema is None:
        if wanted is not None:
            raise SiteError(
                "the experiment has a schema file, and the site file names none: its site adds schema_file to [data]; "
                "nothing was trained"
            )
        return
    if wanted != schema:
        raise SiteError(
            "data.schema_digest of the experiment is not the digest of the site's schema file: one of them is another "
            "file, or was edited; nothing was trained"
        )
