"""What a private run can show afterwards: the server's signed record, the pinned keys, the clients' ledgers.

It begins with a run, and goes on where the run is resumed.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, cast

from flwr.serverapp import Grid
from pydantic import JsonValue

from fedtrain import __version__
from fedtrain.config import to_flat
from fedtrain.config.loading import config_digest
from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import BudgetError, ClientError, ForgeryError, LedgerError
from fedtrain.flower.grids.base import by_client
from fedtrain.flower.introductions import ask_keys, ask_ledgers
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.ledger import (
    Asked,
    Closed,
    Completed,
    Drop,
    FirstRecord,
    LedgerCopyStore,
    Record,
    RunLog,
    SecureSum,
    Update,
    clients_with_ledgers,
    now,
)
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.report import LedgerTrail, Report, RoundEntry, SignedTrail
from fedtrain.report.claim import ClientLedger
from fedtrain.report.schema import body_digest
from fedtrain.serverapp.pinned import PinnedKeys
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.questions import Questions
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.trust import Roster


@dataclass(frozen=True, kw_only=True)
class AuditTrail:
    """The record of a private run, as it grows.

    Attributes:
        plan: the privacy plan.
        noise: where noise comes from.
        log: the server's signed record, on the disk.
        keys: the public keys of server and clients.
        copies: the server's copies of the clients' ledgers.
        withheld: whether cohorts are secret, and kept out of the record.
        refused: why clients do not take part, by client.
        unheard: why clients that have a ledger do not say who they are, by client; empty where all are asked at the
            beginning. What they have spent in other runs is in no epsilon.
    """

    plan: PrivacyPlan
    noise: Literal["seeded", "secure"]
    log: RunLog
    keys: PinnedKeys
    copies: LedgerCopyStore
    withheld: bool
    refused: dict[int, str] = field(default_factory=dict)
    unheard: dict[int, str] = field(default_factory=dict)
    _questions: Questions = field(default_factory=Questions, repr=False, compare=False)

    @property
    def run(self) -> str:
        """The id of the run."""
        return first_record(self.log).run

    @property
    def roster(self) -> Roster:
        """The public keys that are pinned so far."""
        return self.keys.roster

    def asked(self, round_number: int, cohort: tuple[int, ...], model: str, *, sealed: bool, secagg: bool) -> None:
        """Note durably what is about to be asked of whom. From here on it is charged, whatever becomes of it.

        Args:
            round_number: the round.
            cohort: the clients.
            model: digest of what they are asked with.
            sealed: whether models and updates are encrypted end to end.
            secagg: whether the server gets the sum of the updates alone.
        """
        self.log.append(
            Asked(
                time=self._time,
                round=round_number,
                cohort=() if self.withheld else cohort,
                model=model,
                sealed=sealed,
                secagg=secagg,
            )
        )

    def completed(self, entry: RoundEntry, request: str, *, aggregate: str, silent: tuple[int, ...] = ()) -> None:
        """Note what came of a round: whose updates were used, by commitment and ledger head, and the model's digest.

        Args:
            entry: the round as the report has it.
            request: digest of what was asked with.
            aggregate: digest of the new model.
            silent: with secure aggregation, the clients in the sum that did not answer the unmasking.
        """
        used, dropped = (entry.completed or (), entry.dropped or ()) if not self.withheld else ((), ())
        self.log.append(
            Completed(
                time=self._time,
                round=entry.round,
                model=request,
                updates=tuple(self._update(client, entry.round, request) for client in used),
                dropped=tuple(Drop(client=drop.client, reason=drop.reason) for drop in dropped),
                sealed=entry.sealed,
                secagg=_sum(entry, silent),
                aggregate=aggregate,
                clip_norm=entry.clip_norm or 0.0,
            )
        )

    def closed(self, report: Report) -> SignedTrail:
        """Sign a report as the end of the run so far, and return what proves it."""
        self.log.append(Closed(time=self._time, status=report.status, rounds=report.rounds, report=body_digest(report)))
        return SignedTrail(
            roster=cast("dict[str, JsonValue]", self.roster.as_json()),
            record=_as_json(self.log.envelopes),
            ledgers=tuple(self._ledger(client) for client in sorted(self.roster.clients)),
        )

    def _ledger(self, client: int) -> LedgerTrail:
        statement = self.copies.statement(client)
        return LedgerTrail(
            client=client,
            entries=_as_json(self.copies.envelopes(client)),
            statement=None if statement is None else _as_json([statement])[0],
        )

    def participations(self, *, done: int) -> Counter[int]:
        """Return how often each client was asked, if so many rounds are complete.

        With seeded noise a round that was asked and not completed is going to be repeated with the same clients, and
        counts then. With secure noise each time counts.
        """
        questions = self._questions
        questions.read(self.log.records)
        if self.noise == "secure":
            return Counter(questions.times)
        return questions.distinct(done=done)

    def latest(self, *, done: int) -> dict[int, int]:
        """Return the last round that each client was asked in, if so many rounds are complete, counted likewise."""
        questions = self._questions
        questions.read(self.log.records)
        return questions.latest(done=questions.highest if self.noise == "secure" else done)

    @property
    def ledgers(self) -> dict[int, ClientLedger]:
        """The ledger of each client, with its statement, as far as they are known."""
        return {
            client: ClientLedger(
                entries=self.copies.entries(client),
                head=self.copies.head(client).digest,
                stated=self.copies.stated(client),
            )
            for client in self.roster.clients
        }

    def drawable(self) -> list[int]:
        """Return the clients that have reserved a run with secret cohorts, as their ledgers show."""
        return [
            client
            for client in sorted(self.roster.clients)
            if client not in self.refused
            and any((entry.run, entry.round) == (self.run, 0) for entry in self.copies.entries(client))
        ]

    def meet(
        self, grid: Grid, clients: Mapping[int, int], wanted: Collection[int], *, timeout: float
    ) -> dict[int, str]:
        """Pin the keys of those of some clients that nobody has asked so far, and return why others show none.

        To be called before a message goes to any of them.

        Args:
            grid: where the clients are.
            clients: the client of each node.
            wanted: the clients that are about to be asked.
            timeout: seconds to wait.

        Raises:
            LedgerError: a copy of a ledger in the run folder is damaged.
            StorageError: the record cannot be written; then nobody is enrolled.
        """
        missing = set(wanted) - self.roster.clients.keys()
        new = {node: client for node, client in clients.items() if client in missing} if missing else {}
        if not new:
            return {}
        shown, silent = ask_keys(grid, new, timeout=timeout)
        pinned, taken = self.keys.enroll(shown, self.log)
        self.copies.add(pinned)
        return silent | dict.fromkeys(taken, "it shows the key of another")

    def refresh(self, grid: Grid, clients: Mapping[int, int], *, timeout: float, spent: Collection[int] = ()) -> None:
        """Ask every client for the rest of its ledger, with a statement that this is all, up to the last round asked.

        To be called when no message is under way, and none follows. Where clients are enrolled when they are first
        drawn, the others are asked that have spent something elsewhere.

        Args:
            grid: where the clients are.
            clients: the client of each node.
            timeout: seconds to wait.
            spent: clients that are known to have a ledger.
        """
        self.unheard.clear()
        self.unheard.update(self.meet(grid, clients, spent, timeout=timeout))
        clients = {node: client for node, client in clients.items() if client in self.roster.clients}
        known = {client: self.copies.length(client) for client in clients.values()}
        last = max((record.round for record in self.log.records if isinstance(record, Asked)), default=0)
        shown, _ = ask_ledgers(
            grid, clients, run=self.run, round_number=last, noise_multiplier=None, known=known, timeout=timeout
        )
        for client, ledger in shown.items():
            self.take(client, ledger, first=known[client])

    def take(self, client: int, proof: ConsistencyProof, *, first: int) -> None:
        """Take over what a client shows; what does not hold is not taken over, and the client is asked no more."""
        try:
            stated = self.copies.receive(client, proof.entries, proof.statement, first=first)
        except ForgeryError as error:
            self.refused[client] = str(error)
            return
        if stated is not None and stated.refusal is not None:
            self.refused[client] = stated.refusal

    @property
    def _time(self) -> str:
        """The time of the next record.

        How long a round takes tells how many trained: where that is secret, every record has the time of the first.
        """
        return first_record(self.log).time if self.withheld else now()

    def _update(self, client: int, round_number: int, model: str) -> Update:
        head = self.copies.head(client)
        key = (self.run, round_number, model, "settled")
        update = next(
            entry.update
            for entry in reversed(self.copies.entries(client))
            if (entry.run, entry.round, entry.model, entry.status) == key
        )
        return Update(client=client, update=update or "", sequence=head.sequence, head=head.digest)


def _sum(entry: RoundEntry, silent: tuple[int, ...]) -> SecureSum | None:
    """Return what the record says of secure aggregation in a round; ``None`` if it was without."""
    secagg = entry.secagg
    if secagg is None:
        return None
    return SecureSum(threshold=secagg.threshold, neighbours=secagg.neighbours, bits=secagg.bits, silent=silent)


def _as_json(envelopes: Sequence[SignedEnvelope]) -> tuple[dict[str, JsonValue], ...]:
    return tuple(cast("dict[str, JsonValue]", envelope.as_json()) for envelope in envelopes)


def first_record(log: RunLog) -> FirstRecord:
    """Return the record that opens a run.

    Raises:
        LedgerError: the log begins with another.
    """
    first = log.records[0]
    if not isinstance(first, FirstRecord):
        raise LedgerError(f"the record of the run begins with {first.kind!r}, and not with its first record")
    return first


def open_trail(
    grid: Grid,
    clients: Mapping[int, int],
    preparation: Preparation,
    plan: PrivacyPlan,
    folder: RunFolder,
    *,
    log: RunLog,
    run: str,
    keys: PinnedKeys,
    done: int,
) -> AuditTrail:
    """Begin the record of a run, or go on with that of a run that is resumed.

    Args:
        grid: where the clients are.
        clients: the client of each node; those that have a key are asked what they have spent.
        preparation: what was made before.
        plan: the privacy plan.
        folder: the run folder.
        log: the record so far.
        run: id of the run.
        keys: the pinned identities.
        done: rounds that are complete.

    Raises:
        LedgerError: the record or a copy of a ledger is damaged.
        ClientError: clients are asked when they are first drawn, and one that has a ledger does not say who it is.
        BudgetError: a round would have to be repeated that was released, and was reserved once.
        StorageError: the run folder cannot be written.
    """
    experiment = preparation.experiment
    federation, privacy = experiment.federation, experiment.privacy
    mechanism = mechanism_of(experiment)
    if privacy.noise == "secure":
        if mechanism.correlates and 0 < done < federation.rounds:
            raise BudgetError(
                f"{done} of {federation.rounds} rounds are complete, and the noise of the others takes a part of the "
                "noise of these back. With secure noise that was in the memory of the process that ended and nowhere "
                "else, since who has it can subtract it: such a run cannot be resumed; begin another one"
            )
        if mechanism.reserves_run or mechanism.correlates:
            _refuse_repetition(log.records, done)
    copies = LedgerCopyStore(folder.path / "ledgers", keys.roster.clients)
    trail = AuditTrail(
        plan=plan,
        noise=privacy.noise,
        log=log,
        keys=keys,
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
                roster=keys.roster.digest,
                clients=federation.clients,
                rounds=federation.rounds,
                fedtrain=__version__,
            )
        )
    if keys.when_drawn:
        if silent := trail.meet(grid, clients, clients_with_ledgers(experiment), timeout=federation.deadline):
            raise ClientError(
                f"{len(silent)} clients have a ledger and do not say who they are, so that what they have spent would "
                f"be missing from epsilon:\n{by_client(silent)}\nPut their keys back, or name another folder in "
                "federation.sites. Nothing was trained"
            )
        clients = {node: client for node, client in clients.items() if client in trail.roster.clients}
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
