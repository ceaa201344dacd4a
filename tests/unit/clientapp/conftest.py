import functools
import os

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict

from fedtrain.clientapp.context import context_of
from fedtrain.clientapp.site import open_site
from fedtrain.config import to_flat
from fedtrain.flower.messages import protocol
from fedtrain.serverapp.preparation import prepare
from tests.fakes import RUN_ID, digits_experiment, private_experiment

CLIENTS = 4


class Node:
    """A client of the simulation, with the state that Flower keeps for it."""

    def __init__(self, experiment, client, *, state=None, node_config=None):
        self.experiment = experiment
        self.run_config = to_flat(experiment)
        config = {"partition-id": client, "num-partitions": CLIENTS} if node_config is None else node_config
        self.context = Context(RUN_ID, 1000 + client, config, state or RecordDict(), self.run_config)

    @property
    def opened(self):
        """The client as the next message finds it."""
        return context_of(self.context)

    @property
    def site(self):
        return open_site(self.run_config)


@pytest.fixture(autouse=True, scope="module")
def no_loss_of_power():
    """Wait for no disk: a run synchronizes hundreds of times, and no test here loses power.

    That the descriptor is open is checked. Tests of files and of ledgers synchronize.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def plain(cache):
    return digits_experiment(cache)


@pytest.fixture
def private(cache, tmp_path):
    return private_experiment(cache, federation__sites=str(tmp_path / "sites"))


@pytest.fixture
def by_client(cache, tmp_path):
    """Return an experiment in client privacy with cohorts that are known, and four participations at most."""
    settings = {
        "privacy__mode": "client",
        "privacy__cohorts": "capped",
        "privacy__epsilon": 8.0,
        "privacy__delta": 1e-3,
        "privacy__max_participations": 2,
        "privacy__clip_norm": 0.01,
    }
    return digits_experiment(cache, **settings, federation__sites=str(tmp_path / "sites"))


@pytest.fixture(scope="session")
def request_of():
    """Give a function that makes what the server sends in a round of an experiment."""

    prepared = functools.cache(prepare)

    def make(experiment, number=1, **config):
        preparation = prepared(experiment)
        values = {protocol.ROUND: number, protocol.LEARNING_RATE: 0.1}
        records = {}
        if preparation.plan is not None:
            values[protocol.RUN] = "run"
            values[protocol.NOISE_MULTIPLIER] = preparation.plan.noise_multiplier
            values[protocol.CLIP_NORM] = preparation.plan.spec.clip_norm
            records = {protocol.LEDGER: ConfigRecord({protocol.KNOWN: 0})}
        arrays = {name: Array(value.numpy()) for name, value in preparation.model.state_dict().items()}
        changes = {key.replace("_", "-"): value for key, value in config.items()}
        settings = ConfigRecord(values | changes)
        return RecordDict({protocol.ARRAYS: ArrayRecord(arrays), protocol.CONFIG: settings, **records})

    return make


@pytest.fixture
def node():
    """Give a function that makes a client of an experiment."""
    return Node
