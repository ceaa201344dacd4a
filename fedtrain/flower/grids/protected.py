"""The server's side of a protection, for any Flower app: `protect_grid` wraps the grid that its strategy drives.

With secure aggregation or client privacy the strategy gets one reply in the place of all. It is made anew here, and
holds an average, a weight that is public or a sum, and nothing else. So what the strategy computes of it is
post-processing, whatever the strategy is.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from flwr.app import ConfigRecord, Error, Message
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedtrain.errors import ConfigError, StorageError
from fedtrain.flower.client_dp import release_round, release_total
from fedtrain.flower.collectors import Collected, Collector, EachReply, SecureSum
from fedtrain.flower.grids.base import GridWrapper, by_client, collect
from fedtrain.flower.grids.sealed import SealedGrid
from fedtrain.flower.grids.validating import ValidatingGrid
from fedtrain.flower.introductions import meet
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.training import CohortRequest
from fedtrain.flower.participations import Participations, Spent
from fedtrain.flower.protection import ClientPrivacy, Protection, asked_arrays, floating, is_training, own_folder
from fedtrain.flower.sessions import ServerSession, end_session
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import open_source
from fedtrain.secagg import check_noise
from fedtrain.seeding import derive_seed

_log = logging.getLogger(__name__)

# How long clients have to delete the keys of a session that is over, in seconds.
_FAREWELL = 30.0


def protect_grid(
    grid: Grid,
    protection: Protection,
    *,
    folder: str | Path,
    strategy: Strategy | None = None,
    patience: float = 120.0,
) -> "ProtectedGrid":
    """Meet the clients of an app, and return the grid to give its strategy. Close it at the end, or use ``with``.

    Args:
        grid: that of the ServerApp.
        protection: the same that the clients were given.
        folder: the server's own: its identity, the identities of the clients, and what was spent of their privacy. The
            first start pins the identities that all clients show; put a ``roster.json`` there before it to pin others.
        strategy: the strategy that is going to be started; it is refused if it is known to need single updates.
        patience: seconds to wait for the clients.

    Raises:
        ConfigError: the strategy cannot work on one average, or the folder is relative.
        PrivacySpecError: no noise keeps the guarantee of client privacy.
        ClientError: too few clients take part, or they are others than expected.
        KeyFileError: a key file or the roster cannot be used.
        BudgetError: the folder counts what was spent with other parameters.
        StorageError: the folder cannot be used, or another run uses it.
    """
    if strategy is not None:
        protection.check_strategy(strategy)
    place = own_folder(folder)
    participations = None
    lock = _only_one(place)
    try:
        if protection.client_privacy is not None:
            participations = Participations(
                place / "participations.json", protection.plan(), noise=protection.client_privacy.noise
            )
        clients, session = meet(grid, protection, place, patience=patience)
    except BaseException:
        lock.release()
        raise
    return ProtectedGrid(grid, protection, clients=clients, session=session, participations=participations, lock=lock)


class ProtectedGrid(GridWrapper):
    """A grid for unmodified strategies of Flower; made by `protect_grid`."""

    def __init__(
        self,
        inner: Grid,
        protection: Protection,
        *,
        clients: Mapping[int, int],
        session: ServerSession | None,
        participations: Participations | None,
        lock: FileLock,
    ) -> None:
        """Wrap a grid.

        Args:
            inner: where the nodes are.
            protection: what protects their messages.
            clients: the client of each node that takes part.
            session: the session with them; ``None`` if no layer needs one.
            participations: counts the rounds of client privacy; ``None`` without it.
            lock: of the folder; released at the end.
        """
        grid, collector = _layers(inner, protection, clients, session)
        super().__init__(grid)
        self._protection = protection
        self._clients = dict(clients)
        self._session = session
        self._participations = participations
        self._lock = lock
        self._collector = collector
        self._round = 0
        self._open = True

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that take part. Those that connect later do not."""
        return list(self._clients)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what the grid inside knows of them."""
        return [node for node in self._inner.get_nodes() if node.node_id in self._clients]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages whose replies are one for each.

        Raises:
            ConfigError: a message asks for what is not to be seen of a single client; nothing was sent.
        """
        messages = list(messages)
        self._check(messages)
        if self._protection.hides_updates and any(is_training(message.metadata.message_type) for message in messages):
            raise ConfigError(
                "with secagg or client_privacy updates come as one average: ask for them with send_and_receive, as "
                "Flower's strategies do; nothing was sent"
            )
        return self._inner.push_messages(messages)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the replies, or with secure aggregation or client privacy one of a whole cohort.

        Args:
            messages: as a strategy writes them.
            timeout: seconds to wait. For what comes as one reply, the deadline of the protection is what counts.

        Raises:
            ConfigError: a message asks for what is not to be seen of a single client, or the cohort is not one that
                the protection allows; nothing was sent.
            TransportError: a message that asks for an update holds other things than the model and the settings.
            AggregationError: the clients of a cohort are asked for different work; nothing was sent.
            BudgetError: a client would take part in more rounds than the noise was calibrated for; nothing was sent.
        """
        messages = list(messages)
        self._check(messages)
        if not messages:
            return []
        if self._protection.hides_updates and is_training(messages[0].metadata.message_type):
            return self._averaged(messages)
        return collect(self._inner, messages, timeout=timeout)

    def close(self) -> Spent | None:
        """End the session, so that clients delete its keys, and return what was spent, with client privacy."""
        if self._open:
            self._open = False
            try:
                if self._session is not None:
                    silent = end_session(self._inner, self._clients, self._session, timeout=_FAREWELL)
                    if silent:
                        _log.warning("clients %s did not say that they deleted the keys of the session", list(silent))
            finally:
                self._lock.release()
        return self.spent

    @property
    def spent(self) -> Spent | None:
        """What the rounds so far have spent of each client's privacy; ``None`` without client privacy."""
        return None if self._participations is None else self._participations.spent

    def __enter__(self) -> Self:
        """Return the grid."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _check(self, messages: list[Message]) -> None:
        if not self._open:
            raise ConfigError("the protected grid is closed; nothing was sent")
        strangers = {message.metadata.dst_node_id for message in messages} - self._clients.keys()
        if strangers:
            raise ConfigError(
                f"node {min(strangers)} takes no part in this run: ask the nodes of get_node_ids(); nothing was sent"
            )
        if not self._protection.hides_updates:
            return
        kinds = {message.metadata.message_type for message in messages}
        training = {kind for kind in kinds if is_training(kind)}
        others = kinds - training
        if others and not self._protection.reveal_results:
            raise ConfigError(
                f"messages of the type {min(others)!r} ask each client for results of its own, which the Protection "
                "does not reveal: set fraction_evaluate = 0.0 in the strategy and evaluate on the server "
                "(evaluate_fn), or, without client_privacy, set reveal_results = True; nothing was sent"
            )
        if training and (others or len(training) > 1):
            raise ConfigError(f"messages of the types {', '.join(sorted(kinds))} cannot be averaged; nothing was sent")

    def _averaged(self, messages: list[Message]) -> list[Message]:
        """Ask a cohort, and return one reply in the place of all."""
        asked = self._request(messages)
        cohort = [self._clients[message.metadata.dst_node_id] for message in messages]
        if self._participations is not None:
            self._participations.reserve(cohort)
        self._round = asked.round_number
        collected = self._collector.collect(asked, on_reply=lambda _: None)
        self._tell(asked, collected)
        if collected.outcome is not None and collected.outcome.total is None:
            # Why is in the server's log: what a client says of itself is not for the strategy.
            error = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason="the round was aborted; see the server's log")
            return [Message(error, reply_to=asked.messages[0])]
        if self._participations is None or self._protection.client_privacy is None:
            return collected.replies
        return self._released(asked, collected, self._protection.client_privacy, self._participations.plan)

    def _request(self, messages: list[Message]) -> CohortRequest:
        """Return the request that a strategy's messages are, if a cohort may be asked that."""
        protection = self._protection
        nodes = [message.metadata.dst_node_id for message in messages]
        if len(set(nodes)) < len(nodes):
            raise ConfigError("a client is asked twice in one round, and would count twice; nothing was sent")
        if protection.secagg is not None and len(messages) < protection.secagg.minimum:
            raise ConfigError(
                f"the strategy asks {len(messages)} clients, and secagg.minimum = {protection.secagg.minimum}; nothing "
                "was sent"
            )
        privacy = protection.client_privacy
        if privacy is not None and len(messages) != privacy.cohort:
            raise ConfigError(
                f"the strategy asks {len(messages)} clients, and client_privacy.cohort = {privacy.cohort}, by which "
                "their sum is divided: make them equal; nothing was sent"
            )
        models = [asked_arrays(message.content) for message in messages]
        asked = CohortRequest(
            round_number=self._round + 1,
            messages=tuple(messages),
            arrays=models[0],
            settings=messages[0].content.config_records.get(protocol.CONFIG, ConfigRecord()),
        )
        _ = asked.digest  # which is there if all are asked for the same
        if protection.secagg is not None:
            parameters = protection.summing.parameters(members=len(messages), sent=models[0])
            if self._participations is not None:
                plan = self._participations.plan
                check_noise(parameters, clip_norm=plan.spec.clip_norm, noise_multiplier=plan.round_noise_multiplier)
        return asked

    def _tell(self, asked: CohortRequest, collected: Collected) -> None:
        """Say in the server's log who was lost, and why. The strategy is not told."""
        if collected.outcome is not None:
            lost = dict(collected.outcome.dropped)
            if collected.outcome.total is None:
                _log.warning("round %d was aborted: %s", asked.round_number, collected.outcome.problem)
        else:
            lost = {
                self._clients[reply.metadata.src_node_id]: reply.error.reason or "no reason given"
                for reply in collected.replies
                if reply.has_error() and reply.metadata.src_node_id in self._clients
            }
        if lost:
            _log.warning("round %d went on without\n%s", asked.round_number, by_client(lost))

    @staticmethod
    def _released(
        asked: CohortRequest, collected: Collected, privacy: ClientPrivacy, plan: PrivacyPlan
    ) -> list[Message]:
        """Return the noisy mean in the place of all replies."""
        outcome = collected.outcome
        release: Callable[..., tuple[list[Message], float]]
        if outcome is None or outcome.total is None:
            release = partial(release_round, collected.replies)
        else:
            release = partial(release_total, outcome.total, clients=len(outcome.masked))
        replies, _ = release(
            sent=asked.arrays,
            trainable=floating(asked.arrays),
            plan=plan,
            clip_norm=plan.spec.clip_norm,
            source=open_source(privacy.noise, derive_seed(privacy.seed, "noise", asked.round_number)),
        )
        return replies


def _layers(
    grid: Grid, protection: Protection, clients: Mapping[int, int], session: ServerSession | None
) -> tuple[Grid, Collector]:
    """Return the grid that messages pass through, and what collects the updates of a cohort over it."""
    if session is not None:
        if protection.sealed:
            grid = SealedGrid(grid, clients=clients, session=session)
        if protection.secagg is not None:
            return grid, SecureSum(grid, clients=clients, session=session, summing=protection.summing)
    # An app does not say what is trained: any number that was not finite may come back as it was sent.
    checked = ValidatingGrid(
        grid,
        metrics=frozenset({protocol.WEIGHT}),
        weight_key=protocol.WEIGHT,
        public_weight=1.0,
        trained=frozenset(),
    )
    return grid, EachReply(checked, deadline=protection.deadline)


def _only_one(folder: Path) -> FileLock:
    """Lock a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(f"another run uses the folder {folder}: wait for its end, or use another") from error
    except OSError as error:
        raise StorageError(f"cannot use the folder {folder}: {error.strerror or error}") from error
    return lock
