"""Begin the audit trail of a private run, or go on with that of a run that is resumed."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from flwr.serverapp import Grid

from fedtrain import __version__
from fedtrain.config import to_flat
from fedtrain.config.loading import config_digest
from fedtrain.crypto import Identity
from fedtrain.errors import BudgetError, ClientError, KeyFileError, LedgerError
from fedtrain.flower.grids.base import by_client
from fedtrain.flower.introductions import ask_keys, ask_ledgers
from fedtrain.ledger import Asked, Closed, Completed, FirstRecord, LedgerCopyStore, Record, RunLog
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.serverapp.audit_trail import AuditTrail, first_record
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.trust import Roster


def open_trail(
    grid: Grid,
    clients: Mapping[int, int],
    preparation: Preparation,
    plan: PrivacyPlan,
    folder: RunFolder,
    *,
    log: RunLog,
    run: str,
    roster: Roster,
    done: int,
) -> AuditTrail:
    """Begin the record of a run, or go on with that of a run that is resumed.

    Args:
        grid: where the clients are.
        clients: the client of each node; all are in the roster.
        preparation: what was made before.
        plan: the privacy plan.
        folder: the run folder.
        log: the record so far.
        run: id of the run.
        roster: the pinned identities.
        done: rounds that are complete.

    Raises:
        LedgerError: the record or a copy of a ledger is damaged.
        BudgetError: a round would have to be repeated that was released, and was reserved once.
        StorageError: the run folder cannot be written.
    """
    experiment = preparation.experiment
    federation, privacy = experiment.federation, experiment.privacy
    mechanism = mechanism_of(experiment)
    if mechanism.reserves_run and privacy.noise == "secure":
        _refuse_repetition(log.records, done)
    copies = LedgerCopyStore(folder.path / "ledgers", roster.clients)
    trail = AuditTrail(
        plan=plan,
        noise=privacy.noise,
        log=log,
        roster=roster,
        copies=copies,
        withheld=mechanism.requires.hidden_cohorts,
    )
    if not log.records:
        log.append(
            FirstRecord(
                run=run,
                mode=privacy.mode,
                config=config_digest(to_flat(experiment)),
                plan=plan.as_data(),
                noise=privacy.noise,
                roster=roster.digest,
                clients=federation.clients,
                rounds=federation.rounds,
                fedtrain=__version__,
            )
        )
    # What clients state now covers the rounds that are complete: later ones are asked again.
    shown, _ = ask_ledgers(
        grid,
        clients,
        run=run,
        round_number=done,
        noise_multiplier=plan.noise_multiplier if mechanism.reserves_run else None,
        known={},
        timeout=federation.deadline,
    )
    for client, ledger in shown.items():
        trail.take(client, ledger, first=0)
    return trail


def pinned_roster(
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
        return roster
    keys, silent = ask_keys(grid, clients, timeout=timeout)
    if len(keys) < cohort:
        raise ClientError(f"{len(keys)} clients joined, and federation.cohort = {cohort}:\n{by_client(silent)}")
    roster = Roster(server=identity.public, clients=keys)
    roster.write(folder.roster)
    return roster


def _refuse_repetition(records: Sequence[Record], done: int) -> None:
    """Refuse to repeat a round whose model was sent on or published: clients reserved each round of the run once.

    What has no checkpoint was not: a kill, or a full disk, between a round's record and its checkpoint is no release.
    """
    for record, following in pairwise(records):
        if not isinstance(record, Completed) or record.round <= done:
            continue
        repeated = isinstance(following, Asked) and following.round == record.round
        unpublished = isinstance(following, Closed) and following.rounds < record.round
        if not (repeated or unpublished):
            raise BudgetError(
                f"round {record.round} was completed, and the newest checkpoint is that of round {done}: with secure "
                "noise its repetition would be another release, which no client has reserved. Put the checkpoint back, "
                "or begin another run"
            )


def open_log(folder: RunFolder, identity: Identity, *, done: int) -> RunLog:
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
            f"{folder.record} is gone, and {done} rounds were completed: without it nobody can tell what was asked. "
            "Put it back, or begin another run"
        )
    if log.records:
        pinned = first_record(log).roster
        if not folder.roster.exists() or Roster.read(folder.roster).digest != pinned:
            raise LedgerError(
                f"{folder.roster} is gone, or does not hold the keys that the run was opened with. Put it back, or "
                "begin another run"
            )
    return log
