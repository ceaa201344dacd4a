"""A client as a party of the server's sessions."""

from functools import lru_cache

from flwr.app import Context

from fedtrain.clientapp.host import host_of
from fedtrain.config import Experiment, from_flat, to_flat
from fedtrain.config.digest import config_digest
from fedtrain.errors import ConfigError
from fedtrain.flower.mods.endpoint import Endpoint
from fedtrain.flower.summing import Summing


def open_endpoint(context: Context) -> Endpoint | None:
    """Return what a client knows and insists on: from its own folder, and from the experiment that it was given.

    On a machine of its own a client insists on sealed messages and masked updates unless its site file says otherwise,
    whatever the experiment says, which comes from the server. Returns ``None`` if no folder is named that could hold
    the files of a simulated client.

    Raises:
        ClientError: the node is no client.
        SiteError: its site file cannot be used.
    """
    experiment, config = _experiment(tuple(sorted(context.run_config.items())))
    host, transport = host_of(context, experiment), experiment.transport
    try:
        folder = host.folder(experiment)
    except ConfigError:
        return None
    policy, own = host.policy(experiment), host.node is not None
    sealed, secagg = (None, None) if policy is None else (policy.sealed, policy.secagg)
    return Endpoint(
        client=host.client,
        folder=folder,
        config=config,
        sealed=transport.sealed is True or (own if sealed is None else sealed),
        secagg=transport.secagg.enabled is True or (own if secagg is None else secagg),
        minimum=2 if policy is None else policy.minimum_cohort,
        summing=Summing.of(experiment),
        node=host.node,
    )


@lru_cache(maxsize=1)
def _experiment(items: tuple[tuple[str, object], ...]) -> tuple[Experiment, str]:
    experiment = from_flat(dict(items))
    return experiment, config_digest(to_flat(experiment))
