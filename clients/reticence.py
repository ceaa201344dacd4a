"""Keep what an exception says of the records at the client."""

import traceback

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from clients.node import sites_folder
from clients.work import client_number
from fedtrain.config import from_flat
from fedtrain.errors import ClientError, DataError, FedtrainError
from fedtrain.files import append_bytes


def reticent(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """In a private mode, replace an unforeseen exception by one that says nothing of the records.

    Its message may quote a record, and its traceback goes to the server. The library's own errors are passed on: they
    name fields, files, layers and budgets. Only those about data may name a row or a value, and are not.

    Raises:
        ClientError: in the place of any other exception. The traceback is in the client's
            folder.
    """
    if context.run_config.get("privacy.mode") == "none":
        return call_next(message, context)
    try:
        return call_next(message, context)
    except Exception as error:  # noqa: BLE001 - whatever code of a task raises
        if isinstance(error, FedtrainError) and not isinstance(error, DataError):
            raise type(error)(str(error)) from None
        experiment = from_flat(context.run_config)
        client = client_number(context, experiment.federation.clients)
        log = sites_folder(experiment) / f"client-{client:04d}" / "errors.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        append_bytes(log, traceback.format_exc().encode())
        raise ClientError(f"client {client} failed with {type(error).__name__}; its own errors.log says more") from None
