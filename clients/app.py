"""The Flower ClientApp. Flower finds it through ``pyproject.toml``."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.joining import introduce
from clients.party import open_party
from clients.reticence import reticent
from clients.site import site_of
from clients.training import train
from fedtrain.flower.transport import sealed_mod, secagg_mod, session_mod

app = ClientApp(mods=[sealed_mod(open_party), session_mod(open_party), secagg_mod(open_party), reticent])


@app.train()
def handle_training(message: Message, context: Context) -> Message:
    """Train for one round."""
    return Message(train(message.content, context, site_of(context)), reply_to=message)


@app.query()
def handle_query(message: Message, context: Context) -> Message:
    """Say which client this node is, and what its ledger holds."""
    return Message(introduce(message.content, context, site_of(context)), reply_to=message)
