"""The Flower ClientApp of an experiment.

Flower starts a process for each message. Those of a session and of a sum's second exchange are answered by the mods,
which need no torch: what imports it, which takes longer than their work, is imported where a message needs it.
"""

# ruff: noqa: PLC0415

from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedtrain.clientapp.context import context_of, open_endpoint, share_context
from fedtrain.clientapp.redaction import redact_errors
from fedtrain.flower.mods.sealed import sealed_mod
from fedtrain.flower.mods.secagg import secagg_mod
from fedtrain.flower.mods.session import session_mod

if TYPE_CHECKING:
    from fedtrain.tasks import CallerObjects


def make_client_app(objects: "CallerObjects | None" = None) -> ClientApp:
    """Return the ClientApp.

    Args:
        objects: what it trains in the place of what the experiment names. Then its workers must be copies of this
            process: give the app itself to a ``LocalGrid``.
    """
    app = ClientApp(
        mods=[
            share_context,
            sealed_mod(open_endpoint),
            session_mod(open_endpoint),
            secagg_mod(open_endpoint),
            redact_errors,
        ]
    )

    @app.train()
    def handle_training(message: Message, context: Context) -> Message:
        """Train for one round."""
        from fedtrain.clientapp.site import site_of
        from fedtrain.clientapp.training import train

        client = context_of(context)
        return Message(train(message.content, client, site_of(client, objects)), reply_to=message)

    @app.query()
    def handle_query(message: Message, context: Context) -> Message:
        """Say which client this node is, and what its ledger holds."""
        from fedtrain.clientapp.joining import introduce
        from fedtrain.clientapp.site import site_of

        client = context_of(context)
        return Message(introduce(message.content, client, site_of(client, objects)), reply_to=message)

    return app


app = make_client_app()
