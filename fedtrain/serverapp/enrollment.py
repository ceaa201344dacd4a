"""Enroll the clients of a run: in a simulation by number, and from machines of their own by what they sign."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_bytes, token_hex

from flwr.serverapp import Grid

from fedtrain.config import Experiment, to_flat
from fedtrain.config.loading import config_digest
from fedtrain.crypto import Identity, SealingKey, SignedEnvelope
from fedtrain.engine import LocalGrid
from fedtrain.engine.worker import FIRST_NODE_ID
from fedtrain.errors import ClientError, ConfigError, KeyFileError, LedgerError
from fedtrain.files import write_atomic
from fedtrain.flower.grids.base import by_client, cause
from fedtrain.flower.grids.common_folder import in_common_folder
from fedtrain.flower.introductions import ask_keys, ask_numbers
from fedtrain.flower.sessions import meet_members
from fedtrain.flower.summing import Summing
from fedtrain.ledger import RunLog, client_folder
from fedtrain.machines import ServerFolder, read_membership
from fedtrain.messaging import SessionOffer
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.serverapp.audit_trail import AuditTrail, first_record, open_trail
from fedtrain.serverapp.channel import SESSION_TIMEOUT, Channel, Transport, open_channel
from fedtrain.serverapp.pinned import PinnedKeys, begun_when_drawn, check_pinned
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.trust import Membership, Roster


@dataclass(frozen=True, kw_only=True)
class Enrollment:
    """The clients of a run.

    Attributes:
        run: id of the run.
        channel: the way to them.
        trail: the record of a private run; ``None`` without privacy.
    """

    run: str
    channel: Channel
    trail: AuditTrail | None


def clients_of(grid: Grid, *, clients: int, timeout: float) -> dict[int, int]:
    """Return the client of each node of a simulation. The local engine knows it; nodes elsewhere are asked.

    Raises:
        ConfigError: the nodes are not exactly the clients.
        RunError: a node cannot say which client it is.
    """
    if isinstance(grid, LocalGrid):
        numbers = {node: node - FIRST_NODE_ID for node in grid.get_node_ids()}
    else:
        numbers = ask_numbers(grid, grid.get_node_ids(), timeout=timeout)
    if sorted(numbers.values()) != list(range(clients)):
        raise ConfigError(f"{len(numbers)} nodes answered and federation.clients = {clients}; make them equal")
    return numbers


@contextmanager
def one_folder(grid: Grid, experiment: Experiment) -> Iterator[Grid]:
    """Give a grid over which simulated clients answer that have their files in the server's folder, and no others.

    The local engine is on the server's machine. Elsewhere any process of a cluster may answer for any client.

    Raises:
        ConfigError: no place for the clients' files is named.
        StorageError: it cannot be written, or its file system has no locks.
    """
    if isinstance(grid, LocalGrid):
        yield grid
        return
    with in_common_folder(grid, client_folder(experiment, 0).parent) as common:
        yield common


def enroll_simulated(
    grid: Grid,
    clients: Mapping[int, int],
    preparation: Preparation,
    transport: Transport,
    summing: Summing | None,
    folder: RunFolder,
    *,
    done: int,
) -> Enrollment:
    """Enroll simulated clients. Their keys are those that they show at the first start of a run.

    Args:
        grid: where the nodes are.
        clients: the client of each node.
        preparation: what was made before.
        transport: which layers the run uses.
        summing: how updates are summed; ``None`` if they are not.
        folder: the run folder.
        done: rounds that are complete.

    Raises:
        ClientError: fewer clients take part than a cohort needs.
        RunError: as `open_trail`.
    """
    experiment, federation = preparation.experiment, preparation.experiment.federation
    layered = transport.sealed or transport.secagg
    if preparation.plan is None and not layered:
        run, _ = folder.started()
        folder.begin(experiment)
        return Enrollment(run=run, channel=Channel(grid=grid, clients=clients), trail=None)
    identity = Identity.load_or_create(folder.key)
    run, start, log = _begun(folder, preparation, identity, done=done)
    if log is not None and _when_drawn(grid, preparation, log, identity, layered=layered):
        keys = PinnedKeys.opened(folder, identity, log)
        return _enrolled(preparation, folder, Channel(grid=grid, clients=clients), keys, log, run=run, done=done)
    roster = _pinned_roster(grid, clients, folder, identity, cohort=federation.cohort, timeout=federation.deadline)
    channel = Channel(grid=grid, clients={node: client for node, client in clients.items() if client in roster.clients})
    if layered:
        channel = open_channel(
            grid,
            channel.clients,
            experiment,
            transport,
            offer=SessionOffer(run=run, session=token_hex(16), roster=roster.digest, start=start),
            identity=identity,
            roster=roster,
            summing=summing,
        )
    return _enrolled(preparation, folder, channel, PinnedKeys(roster), log, run=run, done=done)


def _when_drawn(grid: Grid, preparation: Preparation, log: RunLog, identity: Identity, *, layered: bool) -> bool:
    """Say whether clients are asked for their keys when they are first drawn.

    Only the local engine knows, of clients that it never sent anything, that they spent nothing. A session needs the
    keys of all of its members at its beginning, and where cohorts are secret each client reserves the run.

    Raises:
        LedgerError: the run was begun so, and goes on where it cannot.
    """
    can = isinstance(grid, LocalGrid) and not layered and not mechanism_of(preparation.experiment).reserves_run
    if not log.records:
        return can
    begun = begun_when_drawn(first_record(log), identity)
    if begun and not can:
        raise LedgerError(
            "the run was begun by the local engine, which asks clients who they are when they are first drawn; what "
            "those that it did not draw have spent is known there alone. Go on with fedtrain simulate, or begin "
            "another run"
        )
    return begun


def _pinned_roster(
    grid: Grid, clients: Mapping[int, int], folder: RunFolder, identity: Identity, *, cohort: int, timeout: float
) -> Roster:
    """Return the keys of a simulation: those that the clients show at the first start, and then no others.

    Raises:
        ClientError: fewer clients show a key than a cohort needs.
        KeyFileError: the roster in the run folder cannot be read, or was made for another key of the server.
        StorageError: the run folder cannot be written.
    """
    if folder.roster.exists():
        roster = Roster.read(folder.roster)
        if roster.server != identity.public:
            raise KeyFileError(f"{folder.roster} names another key of the server than {folder.key} holds; put it back")
        # Without clients it is of a start that was to ask them when drawn, and that a kill ended before its record.
        if roster.clients:
            return roster
    keys, silent = ask_keys(grid, clients, timeout=timeout)
    if len(keys) < cohort:
        raise ClientError(f"{len(keys)} clients joined, and federation.cohort = {cohort}:\n{by_client(silent)}")
    roster = Roster(server=identity.public, clients=keys)
    roster.write(folder.roster)
    return roster


@dataclass(frozen=True, kw_only=True)
class Members:
    """Who belongs to the federation of a server.

    Attributes:
        membership: who they are.
        envelope: the same, as the operator signed it.
        identity: the server's own.
    """

    membership: Membership
    envelope: SignedEnvelope
    identity: Identity


def read_members(server: ServerFolder, *, clients: int) -> Members:
    """Return who belongs to the federation of a server.

    Raises:
        ConfigError: it has another number of members than the experiment has clients.
        SiteError: the membership cannot be used.
        KeyFileError: the server's identity is not the one that the membership names.
    """
    membership, envelope = read_membership(server.membership, server.federation)
    identity = Identity.load(server.identity)
    if membership.roster.server != identity.public:
        raise KeyFileError(
            f"{server.membership} names another key of the server than {server.identity} holds; copy the newest "
            "membership, or the key, from the operator"
        )
    if len(membership.names) != clients:
        names = ", ".join(membership.names.values()) or "none"
        raise ConfigError(
            f"federation.clients = {clients}, and the federation has {len(membership.names)} members ({names}); make "
            "them equal"
        )
    return Members(membership=membership, envelope=envelope, identity=identity)


def enroll_members(
    grid: Grid,
    members: Members,
    preparation: Preparation,
    transport: Transport,
    summing: Summing | None,
    folder: RunFolder,
    *,
    done: int,
) -> Enrollment:
    """Enroll the members of a federation. Their keys are in the membership, which the operator signed.

    What is sent before they have a session is its offer. Nodes tell which clients they are by what they sign.

    Args:
        grid: where the nodes are.
        members: who they are.
        preparation: what was made before.
        transport: which layers the run uses.
        summing: how updates are summed; ``None`` if they are not.
        folder: the run folder.
        done: rounds that are complete.

    Raises:
        ClientError: fewer of them take part than a cohort needs.
        LedgerError: the run was begun with other members.
        RunError: as `open_trail`.
    """
    experiment, federation = preparation.experiment, preparation.experiment.federation
    membership, identity = members.membership, members.identity
    roster, timeout = membership.roster, min(federation.deadline, SESSION_TIMEOUT)
    run, start, log = _begun(folder, preparation, identity, done=done)
    _pin(folder, members)
    session, clients, missing = meet_members(
        grid,
        _connected(grid, wanted=len(roster.clients), timeout=timeout),
        offer=SessionOffer(run=run, session=token_hex(16), roster=roster.digest, start=start),
        config=config_digest(to_flat(experiment)),
        identity=identity,
        key=SealingKey(token_bytes(32)),
        roster=roster,
        membership=members.envelope,
        timeout=timeout,
    )
    if len(clients) < federation.cohort:
        away = [
            f"client {client}, {name}, is not in the session"
            for client, name in membership.names.items()
            if client not in clients.values()
        ]
        said = [f"node {node}: {cause(reason)}" for node, reason in sorted(missing.items())]
        lines = "\n".join([*away, *said])
        raise ClientError(f"{len(clients)} members take part, and federation.cohort = {federation.cohort}:\n{lines}")
    channel = Channel.over(grid, clients, session, transport, summing)
    return _enrolled(preparation, folder, channel, PinnedKeys(roster), log, run=run, done=done)


def _begun(
    folder: RunFolder, preparation: Preparation, identity: Identity, *, done: int
) -> tuple[str, int, RunLog | None]:
    """Return the id of the run, which start of it this is, and its record if it is private."""
    run, start = folder.started()
    if preparation.plan is None:
        return run, start, None
    log = _open_log(folder, identity, done=done)
    return first_record(log).run if log.records else run, start, log


def _open_log(folder: RunFolder, identity: Identity, *, done: int) -> RunLog:
    """Open the record of a private run.

    Args:
        folder: the run folder.
        identity: the server's identity.
        done: rounds that are complete.

    Raises:
        LedgerError: it is damaged, or what was asked before is gone from it, or the keys that it names are.
        StorageError: it cannot be read.
    """
    log = RunLog.open(folder.record, identity)
    if not log.records and done:
        raise LedgerError(
            f"{folder.record} is gone, and {done} rounds were completed: without it the run's requests are unknown. "
            "Put it back, or begin another run"
        )
    if log.records:
        check_pinned(folder, identity, log)
    return log


def _enrolled(
    preparation: Preparation,
    folder: RunFolder,
    channel: Channel,
    keys: PinnedKeys,
    log: RunLog | None,
    *,
    run: str,
    done: int,
) -> Enrollment:
    folder.begin(preparation.experiment)
    if preparation.plan is None or log is None:
        return Enrollment(run=run, channel=channel, trail=None)
    trail = open_trail(
        channel.grid,
        channel.clients,
        preparation,
        preparation.plan,
        folder,
        log=log,
        run=run,
        keys=keys,
        done=done,
    )
    return Enrollment(run=run, channel=channel, trail=trail)


def _pin(folder: RunFolder, members: Members) -> None:
    """Keep the members of a run in its folder, for its auditors. A run is not resumed with different ones."""
    roster = members.membership.roster
    if not folder.roster.exists():
        write_atomic(folder.membership, members.envelope.line())
        roster.write(folder.roster)
    elif Roster.read(folder.roster).digest != roster.digest:
        raise LedgerError(
            f"the run in {folder.path} was begun with other members or keys than the federation has now: begin another "
            "run"
        )


def _connected(grid: Grid, *, wanted: int, timeout: float) -> list[int]:
    """Return the nodes that are connected, as soon as there are so many, or those that are after a while."""
    end = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < wanted and time.monotonic() < end:
        time.sleep(0.5)
    return nodes
