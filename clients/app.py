"""The Flower ClientApp. Flower finds it through ``pyproject.toml``."""

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.site import open_site
from clients.training import client_number, train
from fedtrain.flower import protocol

app = ClientApp()


@app.train()
def handle_training(message: Message, context: Context) -> Message:
    """Train for one round."""
    return Message(train(message.content, context, open_site(context.run_config)), reply_to=message)


@app.query()
def handle_query(message: Message, context: Context) -> Message:
    """Say which client of the simulation this node is."""
    clients = int(context.run_config["federation.clients"])
    number = client_number(context, clients)
    return Message(RecordDict({protocol.CLIENT: ConfigRecord({protocol.CLIENT: number})}), reply_to=message)
