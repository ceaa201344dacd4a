"""What one message asks of one client."""

from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from torch import nn

from fedtrain.clientapp.host import Host, host_of
from fedtrain.clientapp.site import Site
from fedtrain.flower.messages import protocol
from fedtrain.seeding import derive_seed
from fedtrain.tasks import shared_names
from fedtrain.training import RoundSettings


@dataclass(frozen=True, kw_only=True)
class Work:
    """A round of training for one client.

    Attributes:
        site: what does not change from message to message.
        host: where the client runs.
        received: the model as it was received.
        config: the server's settings for the round.
        settings: the same, as the local step takes them.
        model: a model of its own, with the received weights.
    """

    site: Site
    host: Host
    received: ArrayRecord
    config: ConfigRecord
    settings: RoundSettings
    model: nn.Module

    @property
    def client(self) -> int:
        """The client's number."""
        return self.host.client

    @property
    def round_number(self) -> int:
        """The round, from 1."""
        return cast("int", self.config[protocol.ROUND])

    @property
    def digest(self) -> str:
        """The SHA-256 of all that was received."""
        return protocol.request_digest(self.received, self.config)

    @property
    def shared(self) -> frozenset[str]:
        """The names of what is trained and shared. In a private mode all else goes back as it came."""
        return shared_names(self.site.task, self.model)


def open_work(content: RecordDict, context: Context, site: Site) -> Work:
    """Read what a message asks for.

    Raises:
        ClientError: this node is no client.
    """
    experiment = site.experiment
    host = host_of(context, experiment)
    received = cast("ArrayRecord", content[protocol.ARRAYS])
    config = cast("ConfigRecord", content[protocol.CONFIG])
    # A process trains one client after another: what a layer keeps, or a failure leaves, must not reach the next.
    model = deepcopy(site.model)
    model.load_state_dict(received.to_torch_state_dict())
    settings = RoundSettings(
        learning_rate=cast("float", config[protocol.LEARNING_RATE]),
        proximal_mu=cast("float", config.get(protocol.PROXIMAL_MU, 0.0)),
        seed=derive_seed(experiment.seed, "client", host.client, cast("int", config[protocol.ROUND])),
    )
    # A layer such as dropout draws from torch's global generator.
    torch.manual_seed(derive_seed(settings.seed, "layers"))
    return Work(site=site, host=host, received=received, config=config, settings=settings, model=model)
