"""The Flower ClientApp of an experiment: its mods, and what it answers.

Flower starts a process for each message. Those of a session and of a sum's second exchange are answered by the mods,
which need no torch: what imports it, which takes longer than their work, is imported where a message needs it.
"""

# ruff: noqa: PLC0415

import os
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

import fedtrain
from fedtrain.clientapp.context import ClientContext, context_of, folder_of_all, open_endpoint, share_context
from fedtrain.clientapp.policy import checked_plan, reserve_run
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
from fedtrain.flower.messages.introduction import Answer, ConsistencyProof, LedgerQuery, Query
from fedtrain.flower.mods.common_folder import common_folder_mod
from fedtrain.flower.mods.sealed import sealed_mod
from fedtrain.flower.mods.secagg import secagg_mod
from fedtrain.flower.mods.session import session_mod
from fedtrain.ledger import today
from fedtrain.machines import NODE
from fedtrain.privacy.mechanisms import guarantees_nothing, mechanism_of

if TYPE_CHECKING:
    from fedtrain.clientapp.site import Site
    from fedtrain.tasks import CallerObjects

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


def make_client_app(objects: "CallerObjects | None" = None) -> ClientApp:
    """Return the ClientApp.

    Args:
        objects: what it trains in the place of what the experiment names. Then its workers must be copies of this
            process: give the app itself to a ``LocalGrid``.
    """
    app = ClientApp(
        mods=[
            share_context,
            common_folder_mod(folder_of_all),
            sealed_mod(open_endpoint),
            session_mod(open_endpoint),
            secagg_mod(open_endpoint),
            redact_errors,
        ]
    )

    @app.train()
    def handle_training(message: Message, context: Context) -> Message:
        """Train for one round."""
        from fedtrain.clientapp.training import train
        from fedtrain.engine.together import meet

        client = context_of(context)
        # A task may hold what belongs to one thread, as a connection to SQLite does: it is made in that which trains.
        site = meet(client, partial(_sites, objects))
        return Message(train(message.content, client, site), reply_to=message)

    @app.query()
    def handle_query(message: Message, context: Context) -> Message:
        """Say which client this node is, and what its ledger holds."""
        from fedtrain.clientapp.site import site_of

        client = context_of(context)
        return Message(introduce(message.content, client, site_of(client, objects)), reply_to=message)

    return app


def _sites(objects: "CallerObjects | None", clients: Sequence[ClientContext]) -> list["Site | BaseException"]:
    """Return the site of each client, or what was raised for it."""
    from fedtrain.clientapp.site import site_of

    found: list[Site | BaseException] = []
    for client in clients:
        try:
            found.append(site_of(client, objects))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it is raised in the call of this client
            found.append(error)
    return found


def introduce(content: RecordDict, client: ClientContext, site: "Site") -> RecordDict:
    """Say which client this is, and if asked show its public key.

    In a private mode, show its ledger with a signed statement that this is all of it, in which is the name that its
    site file allows in reports.

    With secret cohorts a client that is told the noise of the run reserves the whole run, or says in the statement why
    it does not.

    Raises:
        TransportError: the query is malformed; it names what.
    """
    query = Query.from_records(content)
    return Answer(
        client=client.client,
        key=client.identity.public if query.key else None,
        ledger=None if query.ledger is None else _consistency_proof(query.ledger, client, site),
    ).to_records()


def _consistency_proof(query: LedgerQuery, client: ClientContext, site: "Site") -> ConsistencyProof:
    noise, mechanism = query.noise_multiplier, mechanism_of(client.experiment)
    with client.open_ledger(client.dataset_of(site.records(client.client))) as ledger:
        refusal = None
        if mechanism.reserves_run and noise is not None:
            try:
                reserve_run(ledger, client, checked_plan(client.experiment, noise), run=query.run)
            except (BudgetError, PrivacySpecError) as error:
                refusal = str(error)
        statement = ledger.statement(
            run=query.run,
            round_number=query.round_number,
            policy=client.limits,
            refusal=refusal,
            time=today() if mechanism.requires.hidden_cohorts else None,
            name=client.name,
        )
        return client.consistency_proof(ledger, query.known, statement=statement)


def redact_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Replace an exception that may quote a record by one that says nothing of the records.

    That is in a private mode, and on a machine of the client's own in any. Passed on are the texts of errors that the
    library itself raised about keys, ledgers, budgets, storage, the plan, the model and the server's message. The
    traceback of any other goes to the client's own folder.

    Raises:
        FedtrainError: as above; a `ClientError` in the place of any other exception.
    """
    if guarantees_nothing(context.run_config.get("privacy.mode")) and NODE not in context.node_config:
        return call_next(message, context)
    try:
        return call_next(message, context)
    except BaseException as error:  # noqa: BLE001 - a task may raise anything, or leave by sys.exit
        failure = type(error)(str(error)) if _is_harmless(error) else _redacted(error)
        text = traceback.format_exc()
    if isinstance(failure, ClientError):
        with suppress(OSError, FedtrainError):
            _log(context, text)
    # Raised here and not above, where it would carry the first exception along.
    raise failure


def _is_harmless(error: BaseException) -> bool:
    """Say whether the library raised it, and about nothing of the data.

    A task can raise the same classes; and the library raises a `TaskError` that quotes what the code of a task raised.
    """
    frames = traceback.extract_tb(error.__traceback__)
    raised_in = Path(frames[-1].filename) if frames else Path()
    quotes = isinstance(error, TaskError) and error.__cause__ is not None
    return type(error) in _HARMLESS and _LIBRARY in raised_in.parents and not quotes


def _redacted(error: BaseException) -> ClientError:
    # The name of a class that somebody wrote can quote a record, too.
    if isinstance(error, TaskError) and error.__cause__ is not None:
        error = error.__cause__
    kind = type(error).__name__ if type(error).__module__ == "builtins" else "an exception"
    return ClientError(f"training failed with {kind}; errors.log in the client's own folder says more")


def _log(context: Context, text: str) -> None:
    log = context_of(context).folder / "errors.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    append_bytes(log, text.encode(errors="replace"))


app = make_client_app()
