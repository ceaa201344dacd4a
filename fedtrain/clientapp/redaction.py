"""Keep what an exception says of the records at the client."""

import os
import traceback
from contextlib import suppress
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

import fedtrain
from fedtrain.clientapp.context import context_of
from fedtrain.errors import (
    BudgetError,
    ClientError,
    FedtrainError,
    KeyFileError,
    LedgerError,
    PrivacySpecError,
    SiteError,
    StorageError,
    TaskError,
    TransportError,
)
from fedtrain.files import append_bytes
from fedtrain.machines import NODE
from fedtrain.privacy.mechanisms import promises_nothing

# Their texts name files, layers, budgets, numbers of the plan, and what is malformed in a message of the server. Errors
# about data may name a row or a value.
_HARMLESS = frozenset(
    {
        BudgetError,
        ClientError,
        KeyFileError,
        LedgerError,
        PrivacySpecError,
        SiteError,
        StorageError,
        TaskError,
        TransportError,
    }
)
_LIBRARY = Path(fedtrain.__file__).parent


def redact_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Replace an exception that may quote a record by one that says nothing of the records.

    That is in a private mode, and on a machine of the client's own in any. Passed on are the texts of errors that the
    library itself raised about keys, ledgers, budgets, storage, the plan, the model and the server's message. The
    traceback of any other goes to the client's own folder.

    Raises:
        FedtrainError: as above; a `ClientError` in the place of any other exception.
    """
    if promises_nothing(context.run_config.get("privacy.mode")) and NODE not in context.node_config:
        return call_next(message, context)
    try:
        return call_next(message, context)
    except BaseException as error:  # noqa: BLE001 - a task may raise anything, or leave by sys.exit
        failure = type(error)(str(error)) if _is_harmless(error) else _told_apart(error)
        text = traceback.format_exc()
    if isinstance(failure, ClientError):
        with suppress(OSError, FedtrainError):
            _log(context, text)
    # Raised here and not above, where it would carry the first exception along.
    raise failure


def _is_harmless(error: BaseException) -> bool:
    """Say whether the library raised it, and about nothing of the data. A task can raise the same classes."""
    frames = traceback.extract_tb(error.__traceback__)
    raised_in = Path(frames[-1].filename) if frames else Path()
    return type(error) in _HARMLESS and _LIBRARY in raised_in.parents


def _told_apart(error: BaseException) -> ClientError:
    # The name of a class that somebody wrote can quote a record, too.
    kind = type(error).__name__ if type(error).__module__ == "builtins" else "an exception"
    return ClientError(f"training failed with {kind}; errors.log in the client's own folder says more")


def _log(context: Context, text: str) -> None:
    log = context_of(context).folder / "errors.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    append_bytes(log, text.encode(errors="replace"))
