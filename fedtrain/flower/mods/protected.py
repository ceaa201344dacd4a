"""The client's side of a protection, for any Flower app: `protect_client` wraps its ClientApp.

From the outside in: who the client is and what it refuses unsealed; opening and sealing; sessions; masking; and next to
the application, what becomes of its update. The client clips to its own bound, sends no metric of its own, and keeps
what an exception says of its records.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import DEFAULT_ACTION
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.common.constant import PARTITION_ID_KEY

from fedtrain.errors import ClientError, KeyFileError, TransportError
from fedtrain.flower.client_dp import clip_reply
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import Answer
from fedtrain.flower.messages.sealed import is_sealed
from fedtrain.flower.messages.session import is_of_a_session
from fedtrain.flower.mods.endpoint import Endpoint, OpenEndpoint, kept_here
from fedtrain.flower.mods.sealed import sealed_mod
from fedtrain.flower.mods.secagg import secagg_mod
from fedtrain.flower.mods.session import session_mod
from fedtrain.flower.protection import Protection, asked_arrays, floating, is_training, own_folder


def protect_client(
    app: ClientApp, protection: Protection, *, folder: str | Path, pinned: bool = False
) -> "ProtectedClientApp":
    """Return an app whose messages are protected. It can be wrapped before its functions are registered, or after.

    Args:
        app: the app, with whatever mods it has. They see messages in the clear.
        protection: as of `client_mods`.
        folder: likewise.
        pinned: likewise.
    """
    return ProtectedClientApp(app, client_mods(protection, folder=folder, pinned=pinned))


class ProtectedClientApp(ClientApp):
    """An app behind the mods of a protection; made by `protect_client`.

    Flower runs the mods of an app only for a message that the app has a function for, and few apps answer queries, with
    which sessions are set up. Here the mods are first.
    """

    def __init__(self, app: ClientApp, mods: list[Mod]) -> None:
        """Wrap an app, the first mod outermost."""
        super().__init__()
        self._app = app
        self._mods = mods

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        call: ClientAppCallable = self._app
        for mod in reversed(self._mods):
            call = partial(_through, mod, call)
        return call(message, context)

    def train(
        self, action: str = DEFAULT_ACTION, *, mods: list[Mod] | None = None
    ) -> Callable[[ClientAppCallable], ClientAppCallable]:
        """Register a function for training with the app inside."""
        return self._app.train(action, mods=mods)

    def evaluate(
        self, action: str = DEFAULT_ACTION, *, mods: list[Mod] | None = None
    ) -> Callable[[ClientAppCallable], ClientAppCallable]:
        """Register a function for evaluation with the app inside."""
        return self._app.evaluate(action, mods=mods)

    def query(
        self, action: str = DEFAULT_ACTION, *, mods: list[Mod] | None = None
    ) -> Callable[[ClientAppCallable], ClientAppCallable]:
        """Register a function for queries with the app inside."""
        return self._app.query(action, mods=mods)

    def lifespan(
        self,
    ) -> Callable[[Callable[[Context], Iterator[None]]], Callable[[Context], Iterator[None]]]:
        """Register what is done before and after each message with the app inside."""
        return self._app.lifespan()


def _through(mod: Mod, call_next: ClientAppCallable, message: Message, context: Context) -> Message:
    return mod(message, context, call_next)


def client_mods(protection: Protection, *, folder: str | Path, pinned: bool = False) -> list[Mod]:
    """Return the mods of `protect_client`, the outermost first, for an app that puts them in a place of its own.

    With ``ClientApp(mods=...)`` Flower runs them only where the app has a function for a message: it needs one for
    queries, by the default name.

    Args:
        protection: the same that the server was given. What the client insists on is in it, and never in a message.
        folder: where the client's keys are, on its own disk: in a subfolder ``client-N`` by its number.
        pinned: whether to take part only with the identities in the ``roster.json`` of that subfolder, which the
            operator gave this client. Without it the client takes those that it is shown in a session, which is for
            simulations: a relay of messages could show others.

    Raises:
        ConfigError: the folder is relative.
    """
    place = own_folder(folder)

    def open_endpoint(context: Context) -> Endpoint:
        client = _number(context, protection)
        own = place / f"client-{client}"
        if pinned and not (own / "roster.json").exists():
            raise KeyFileError(f"{own / 'roster.json'} is missing: put the roster there that the operator gave you")
        return Endpoint(
            client=client,
            folder=own,
            config=protection.digest,
            sealed=protection.sealed,
            secagg=protection.secagg is not None,
            minimum=protection.secagg.minimum if protection.secagg is not None else 2,
            summing=protection.summing,
        )

    layers: list[Mod] = [_gate(protection, open_endpoint)]
    if protection.needs_session:
        layers += [sealed_mod(open_endpoint), session_mod(open_endpoint)]
    if protection.secagg is not None:
        layers.append(secagg_mod(open_endpoint))
    if protection.hides_updates:
        layers.append(_update_mod(protection))
    return layers


def _number(context: Context, protection: Protection) -> int:
    """Return the number of a client, which its node config says: it is set on its machine."""
    number = context.node_config.get(PARTITION_ID_KEY)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < protection.clients:
        raise ClientError(
            f"the node config has {PARTITION_ID_KEY} = {number!r}, and a client's number is allowed, 0 to "
            f'{protection.clients - 1}: start the SuperNode with --node-config "{PARTITION_ID_KEY}=0", say'
        )
    return number


def _gate(protection: Protection, open_endpoint: OpenEndpoint) -> Mod:
    """Return what says who the client is, and lets nothing else pass that is not as the protection has it."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        endpoint = open_endpoint(context)
        assert endpoint is not None
        content = message.content
        if message.metadata.message_type == MessageType.QUERY and _asks_who(content):
            return Message(Answer(client=endpoint.client, key=endpoint.identity.public).to_records(), reply_to=message)
        if protection.sealed and not is_sealed(content) and not is_of_a_session(message):
            raise TransportError(
                f"{endpoint.name} answers sealed messages only, and this one is not: let the ServerApp send through "
                "fedtrain.flower.protect_grid, with the same Protection"
            )
        return call_next(message, context)

    return mod


def _asks_who(content: RecordDict) -> bool:
    """Say whether a content is `Query(key=True)`, and nothing else."""
    return list(content) == [protocol.KEY] and not content.config_records.get(protocol.KEY, {protocol.KEY: None})


def _update_mod(protection: Protection) -> Mod:
    """Return what lets an update pass, made anew, and no result of this client alone."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        training = is_training(message.metadata.message_type)
        if not training and not protection.reveal_results:
            raise TransportError(
                f"a message of the type {message.metadata.message_type!r} asks for results of this client alone, which "
                "its Protection does not reveal; evaluate on the server (evaluate_fn), or set reveal_results = True"
            )
        asked = RecordDict({name: record for name, record in message.content.items() if name != protocol.SECAGG})
        if not training:
            return _answered(make_message(metadata=message.metadata, content=asked), context, call_next)
        received = asked_arrays(asked)
        # The application may change what it is given, which the change is measured against.
        own = RecordDict({**asked, next(iter(asked.array_records)): ArrayRecord(dict(received.items()))})
        reply = _answered(make_message(metadata=message.metadata, content=own), context, call_next)
        content = kept_here(
            lambda: _made_anew(received, reply.content, protection), "the application's reply is no update to send"
        )
        return Message(content, reply_to=message)

    return mod


def _answered(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Return the application's reply, or raise an error that quotes nothing of its own."""

    def answer() -> Message:
        reply = call_next(message, context)
        if reply.has_error():
            raise ClientError(f"the application answers with an error: {reply.error.reason}")
        return reply

    return kept_here(answer, "the application failed")


def _made_anew(received: ArrayRecord, reply: RecordDict, protection: Protection) -> RecordDict:
    """Return the content of a reply that holds an update, its weight, and nothing else."""
    return RecordDict(
        {
            protocol.ARRAYS: _update(received, reply, protection),
            protocol.METRICS: MetricRecord({protocol.WEIGHT: _weight(reply, protection)}),
        }
    )


def _update(received: ArrayRecord, reply: RecordDict, protection: Protection) -> ArrayRecord:
    """Return what the client trained, in the order of what it received, and clipped with client privacy."""
    if len(reply.array_records) != 1:
        raise ClientError(
            f"the application's reply has {len(reply.array_records)} records of arrays, and one is summed"
        )
    trained = next(iter(reply.array_records.values()))
    if trained.keys() != received.keys():
        names = sorted(trained.keys() ^ received.keys())
        raise ClientError(f"the arrays {', '.join(names)} of the application's reply are missing or were not sent")
    summed = floating(received)
    for name, before in received.items():
        after = trained[name]
        if (after.dtype, tuple(after.shape)) != (before.dtype, tuple(before.shape)):
            raise ClientError(
                f"the array {name} came back as {after.dtype}{list(after.shape)}, not {before.dtype}"
                f"{list(before.shape)}"
            )
        if name not in summed and protection.client_privacy is not None:
            _check_unchanged(name, np.array_equal(after.numpy(), before.numpy()))
    if protection.client_privacy is None:
        return ArrayRecord({name: trained[name] if name in summed else array for name, array in received.items()})
    norm = float(protection.client_privacy.clip_norm)
    return clip_reply(received=received, trained=trained, trainable=summed, clip_norm=norm)[0]


def _check_unchanged(name: str, unchanged: bool) -> None:  # noqa: FBT001 - the one thing that is asked
    if not unchanged:
        raise ClientError(
            f"the array {name} holds whole numbers and was changed by training, and client privacy covers floating "
            "numbers alone: take a model without it (GroupNorm in the place of BatchNorm), or send it back as it came"
        )


def _weight(reply: RecordDict, protection: Protection) -> float:
    """Return what weighs the update: 1, or with weights the application's own number of examples."""
    if protection.secagg is None or protection.secagg.max_weight is None:
        return 1.0
    record = next(iter(reply.metric_records.values()), MetricRecord())
    weight = record.get(protocol.WEIGHT)
    if not isinstance(weight, int | float):
        raise ClientError(
            f"the application's reply has no metric {protocol.WEIGHT}, which weighs its update: add it, or leave "
            "secagg.max_weight out"
        )
    return float(weight)
