"""Ask clients who they are, and in a private run what their ledgers hold."""

from collections.abc import Mapping
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedtrain.crypto import PublicIdentity
from fedtrain.errors import ForgeryError, TransportError
from fedtrain.flower.grids.base import answers
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.ledger import ShownLedger

# A client that has not answered by then is not waited for, and has no part in a run with secret cohorts.
_PATIENCE = 120.0


def ask_ledgers(
    grid: Grid,
    clients: Mapping[int, int],
    *,
    run: str,
    round_number: int,
    noise_multiplier: float | None,
    known: Mapping[int, int],
    timeout: float,
) -> tuple[dict[int, ShownLedger], dict[int, str]]:
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
    questions = []
    for node, client in clients.items():
        question = ConfigRecord({protocol.RUN: run, protocol.ROUND: round_number, protocol.KNOWN: known.get(client, 0)})
        if noise_multiplier is not None:
            question[protocol.NOISE_MULTIPLIER] = noise_multiplier
        questions.append(Message(RecordDict({protocol.LEDGER: question}), node, "query"))
    return answers(grid, clients, questions, _ledger, timeout=min(timeout, _PATIENCE))


def ask_keys(
    grid: Grid, clients: Mapping[int, int], *, timeout: float
) -> tuple[dict[int, PublicIdentity], dict[int, str]]:
    """Return the public key that each client shows, and why the others show none. For runs without ledgers.

    Args:
        grid: where the clients are.
        clients: the client of each node.
        timeout: seconds to wait.
    """
    question = RecordDict({protocol.KEY: ConfigRecord()})
    questions = [Message(question, node, "query") for node in clients]
    return answers(grid, clients, questions, _key, timeout=min(timeout, _PATIENCE))


def _ledger(_: int, content: RecordDict) -> ShownLedger:
    try:
        return ShownLedger.from_record(cast("ConfigRecord", content[protocol.LEDGER]))
    except (ForgeryError, KeyError) as error:
        raise TransportError(f"its answer cannot be used: {error}") from error


def _key(_: int, content: RecordDict) -> PublicIdentity:
    key = content.config_records.get(protocol.KEY, ConfigRecord()).get(protocol.KEY)
    try:
        return PublicIdentity.decode(key if isinstance(key, str) else "")
    except ValueError as error:
        raise TransportError(f"its key cannot be used: {error}") from error
