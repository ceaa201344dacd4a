"""A simulated client as a party of the server's sessions."""

from functools import lru_cache

from flwr.app import Context

from clients.work import client_number
from fedtrain.config import Experiment, from_flat, to_flat
from fedtrain.config.digest import config_digest
from fedtrain.errors import ConfigError
from fedtrain.flower.transport import Party, Summing
from fedtrain.ledger import client_folder, find_policy


def open_party(context: Context) -> Party | None:
    """Return what a client knows and insists on: from its own folder, and from the experiment that it was given.

    Returns ``None`` if no folder is named that could hold its files.

    Raises:
        ClientError: the node is not one of a simulation.
        SiteError: its site file cannot be used.
    """
    experiment, config = _experiment(tuple(sorted(context.run_config.items())))
    client, transport = client_number(context, experiment.federation.clients), experiment.transport
    try:
        folder = client_folder(experiment, client)
    except ConfigError:
        return None
    policy = find_policy(folder)
    return Party(
        client=client,
        folder=folder,
        config=config,
        sealed=transport.sealed is True or (policy is not None and policy.sealed),
        secagg=transport.secagg.enabled is True or (policy is not None and policy.secagg),
        minimum=2 if policy is None else policy.minimum_cohort,
        summing=Summing.of(experiment),
    )


@lru_cache(maxsize=1)
def _experiment(items: tuple[tuple[str, object], ...]) -> tuple[Experiment, str]:
    experiment = from_flat(dict(items))
    return experiment, config_digest(to_flat(experiment))
