"""Ask clients who they are, and in a private run what their ledgers hold: one question to each."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedtrain.crypto import PublicIdentity
from fedtrain.errors import RunError, TransportError
from fedtrain.flower.grids.base import answers, collect
from fedtrain.flower.messages.introduction import Answer, ConsistencyProof, LedgerQuery, Query

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
