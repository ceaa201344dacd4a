"""Ask clients who they are, and in a private run what their ledgers hold: one question to each.

`meet` does it for any Flower app under a protection, and opens the session that the protection needs.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedtrain.crypto import Identity, PublicIdentity, SealingKey
from fedtrain.errors import ClientError, KeyFileError, RunError, TransportError
from fedtrain.flower.grids.base import answers, by_client, cause, collect
from fedtrain.flower.messages.introduction import Answer, ConsistencyProof, LedgerQuery, Query
from fedtrain.flower.protection import Protection
from fedtrain.flower.sessions import ServerSession, open_session
from fedtrain.messaging import SessionOffer
from fedtrain.trust import Roster

# A client that has not answered by then is not waited for, and has no part in a run with secret cohorts.
_PATIENCE = 120.0

_T = TypeVar("_T")


def ask_ledgers(
    grid: Grid,
    clients: Mapping[int, int],
    *,
    run: str,
    round_number: int,
    noise_multiplier: float | None,
    known: Mapping[int, int],
    timeout: float,
) -> tuple[dict[int, ConsistencyProof], dict[int, str]]:
    """Return what each client shows of its ledger, and why the others show none. Nothing is verified here.

    Args:
        grid: where the clients are.
        clients: the client of each node.
        run: the id of the run.
        round_number: rounds that were asked so far.
        noise_multiplier: where it is given, clients that take part in secret cohorts reserve the whole run.
        known: entries that are known already, by client.
        timeout: seconds to wait.
    """
    queries = {
        node: Query(
            ledger=LedgerQuery(
                run=run, round_number=round_number, known=known.get(client, 0), noise_multiplier=noise_multiplier
            )
        )
        for node, client in clients.items()
    }
    return _ask(grid, clients, queries, lambda answer: _said(answer.ledger, "ledger"), timeout=timeout)


def ask_keys(
    grid: Grid, clients: Mapping[int, int], *, timeout: float
) -> tuple[dict[int, PublicIdentity], dict[int, str]]:
    """Return the public key that each client shows, and why the others show none. For runs without ledgers.

    Args:
        grid: where the clients are.
        clients: the client of each node.
        timeout: seconds to wait.
    """
    queries = dict.fromkeys(clients, Query(key=True))
    return _ask(grid, clients, queries, lambda answer: _said(answer.key, "key"), timeout=timeout)


def ask_numbers(grid: Grid, nodes: Iterable[int], *, timeout: float) -> dict[int, int]:
    """Return which client each node that answers says it is.

    Raises:
        RunError: a node fails, or cannot say it.
    """
    numbers = {}
    questions = [_question(node, Query()) for node in sorted(nodes)]
    for reply in collect(grid, questions, timeout=timeout):
        node = reply.metadata.src_node_id
        if reply.has_error():
            raise RunError(f"node {node} failed: {reply.error.reason}")
        try:
            numbers[node] = _said(Answer.from_records(reply.content).client, "number")
        except TransportError as error:
            raise RunError(f"node {node} does not say which client it is: {error}") from error
    return numbers


def meet(
    grid: Grid, protection: Protection, folder: Path, *, patience: float
) -> tuple[dict[int, int], ServerSession | None]:
    """Return the client of each node that takes part, and the session with them if one is needed.

    Args:
        grid: where the nodes are.
        protection: what protects their messages.
        folder: the server's own, with its identity and the pinned ones; those that all clients show are pinned first.
        patience: seconds to wait for the clients.

    Raises:
        ClientError: too few clients take part, or they are others than expected.
        KeyFileError: a key file or the roster cannot be used.
    """
    keys, missing = _introduced(grid, protection, patience=patience)
    clients = {node: client for node, (client, _) in keys.items()}
    if not protection.needs_session:
        _require(clients, protection, missing)
        return clients, None
    key, pinned = folder / "identity.pem", folder / "roster.json"
    if pinned.exists() and not key.exists():
        raise KeyFileError(
            f"{key} is gone, the server's key, which {pinned} names: put it back; or move {folder} away, and "
            "with it the pinned keys of the clients"
        )
    identity = Identity.load_or_create(key)
    roster = _roster(folder, identity, dict(keys.values()), protection, missing)
    offer = SessionOffer(run=token_hex(16), session=token_hex(16), roster=roster.digest, start=1)
    session, silent = open_session(
        grid,
        {node: client for node, client in clients.items() if client in roster.clients},
        offer=offer,
        config=protection.digest,
        identity=identity,
        key=SealingKey(token_bytes(32)),
        roster=roster,
        timeout=patience,
    )
    present = {node: client for node, client in clients.items() if client in session.announcements}
    _require(present, protection, [*missing, *by_client(silent).splitlines()])
    return present, session


def _introduced(
    grid: Grid, protection: Protection, *, patience: float
) -> tuple[dict[int, tuple[int, PublicIdentity]], list[str]]:
    """Return the client and the key of each node, and why the other nodes do not say who they are."""
    end = time.monotonic() + patience
    while len(nodes := sorted(grid.get_node_ids())) < protection.clients and time.monotonic() < end:
        time.sleep(0.2)
    questions = [_question(node, Query(key=True)) for node in nodes]
    found, silent = answers(
        grid, {node: node for node in nodes}, questions, lambda _, content: _introduction(content), timeout=patience
    )
    holders: dict[int, int] = {}
    for node, (client, _) in sorted(found.items()):
        other = holders.setdefault(client, node)
        if other != node:
            raise ClientError(f"nodes {other} and {node} both say that they are client {client}: stop one of them")
        if client >= protection.clients:
            raise ClientError(f"node {node} says that it is client {client}, and clients = {protection.clients}")
    return found, [f"node {node}: {cause(reason)}" for node, reason in sorted(silent.items())]


def _introduction(content: RecordDict) -> tuple[int, PublicIdentity]:
    answer = Answer.from_records(content)
    if answer.client is None or answer.key is None:
        raise TransportError("it does not say who it is: wrap its ClientApp with fedtrain.flower.protect_client")
    return answer.client, answer.key


def _roster(
    folder: Path, identity: Identity, keys: Mapping[int, PublicIdentity], protection: Protection, missing: list[str]
) -> Roster:
    """Return the pinned identities. The first start pins those that all clients show."""
    path = folder / "roster.json"
    if path.is_symlink() or path.exists():
        roster = Roster.read(path)
        if roster.server != identity.public:
            raise KeyFileError(f"{path} names another key of the server than {folder / 'identity.pem'}; put it back")
        return roster
    if len(keys) < protection.clients:
        lines = "\n".join(missing)
        raise ClientError(
            f"{len(keys)} of {protection.clients} clients say who they are, and the first start pins the keys of "
            f"all:\n{lines}".rstrip("\n:")
        )
    try:
        roster = Roster(server=identity.public, clients=keys)
    except ValueError as error:
        raise ClientError(f"the keys that the clients show cannot be pinned: {error}") from error
    roster.write(path)
    return roster


def _require(clients: Mapping[int, int], protection: Protection, missing: list[str]) -> None:
    least = 1
    if protection.secagg is not None:
        least = protection.secagg.minimum
    if protection.client_privacy is not None:
        least = protection.client_privacy.cohort
    if len(clients) < least:
        lines = "\n".join(missing)
        raise ClientError(f"{len(clients)} clients take part, and {least} are needed:\n{lines}".rstrip("\n:"))


def _ask(
    grid: Grid,
    clients: Mapping[int, int],
    queries: Mapping[int, Query],
    part: Callable[[Answer], _T],
    *,
    timeout: float,
) -> tuple[dict[int, _T], dict[int, str]]:
    questions = [_question(node, query) for node, query in queries.items()]
    return answers(
        grid,
        clients,
        questions,
        lambda _, content: part(Answer.from_records(content)),
        timeout=min(timeout, _PATIENCE),
    )


def _question(node: int, query: Query) -> Message:
    return Message(query.to_records(), node, MessageType.QUERY)


def _said(part: _T | None, name: str) -> _T:
    if part is None:
        raise TransportError(f"its answer has no {name}")
    return part
