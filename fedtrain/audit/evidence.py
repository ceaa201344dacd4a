"""What a report offers as proof, verified as far as it goes.

Nothing here decides: what cannot be read or verified is kept with the reason, for the check that is about it. What
depends on something that did not verify is not looked at: asking for it raises `UnprovenError`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from fedtrain.audit.verdict import UnprovenError
from fedtrain.config import from_flat
from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import ForgeryError, PrivacySpecError
from fedtrain.ledger import (
    EMPTY,
    Asked,
    Closed,
    Completed,
    FirstRecord,
    LedgerEntry,
    Record,
    Statement,
    enrolled_keys,
    read_chain,
    read_records,
    read_statement,
)
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import mechanism_of_plan, read_plan
from fedtrain.report.claim import ClientLedger, Spent, charged, derive_claim, derive_guarantee
from fedtrain.report.parts import LedgerTrail, SignedTrail
from fedtrain.report.privacy import Mechanism, Privacy
from fedtrain.report.schema import Report
from fedtrain.report.wording import Transport, earlier_statement
from fedtrain.trust import Roster


@dataclass(frozen=True, kw_only=True)
class KnownLedger:
    """A client's ledger as the report has it.

    Attributes:
        client: the client.
        envelopes: its entries as they were signed; as many as could be read.
        entries: the same, read; empty if they do not verify.
        problem: why the entries do not verify; None if they do.
        statement: the client's last word about its ledger; None if there is none, or it does not verify.
        statement_problem: why the statement does not verify; None if it does.
    """

    client: int
    envelopes: tuple[SignedEnvelope, ...]
    entries: tuple[LedgerEntry, ...]
    problem: str | None
    statement: Statement | None
    statement_problem: str | None

    @property
    def head(self) -> str:
        """Digest of the last entry."""
        return self.envelopes[-1].digest if self.envelopes else EMPTY.digest

    @property
    def covered(self) -> bool:
        """Whether the client's statement says that these entries are all."""
        return self.statement is not None and self.statement.covers(len(self.envelopes), self.head)


@dataclass(frozen=True, kw_only=True)
class LedgerCopy:
    """A ledger file that the auditor got from a client, and not from the report.

    Attributes:
        name: how to call it in messages.
        client: whose it is; None if it is not known.
        envelopes: its entries as they were signed.
        entries: the same, read; empty if they do not verify.
        problem: why it cannot be used; None if it can.
    """

    name: str
    client: int | None
    envelopes: tuple[SignedEnvelope, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """All that an audit looks at.

    Attributes:
        report: the report, of a private mode.
        pinned: the keys that the auditor trusts; None if none were given.
        copies: ledgers that the auditor got from clients.
        from_elsewhere: whether the keys are from elsewhere than the run.
    """

    report: Report
    pinned: Roster | None
    copies: tuple[LedgerCopy, ...]
    from_elsewhere: bool = True

    @property
    def proof(self) -> SignedTrail:
        """The proof of the report."""
        assert self.report.proof is not None  # it is set in every private mode
        return self.report.proof

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism that the report claims."""
        assert self.report.privacy.mechanism is not None  # likewise
        return self.report.privacy.mechanism

    @property
    def delta(self) -> float:
        """The delta that the report claims."""
        assert self.report.privacy.delta is not None  # likewise
        return self.report.privacy.delta

    @cached_property
    def claimed(self) -> Roster | str:
        """The keys that the report names, or why they cannot be read."""
        try:
            return Roster.from_json(self.proof.roster)
        except ValueError as error:
            return str(error)

    @property
    def roster(self) -> Roster:
        """The keys that signatures are verified against: the pinned ones, or else those of the report."""
        if self.pinned is not None:
            return self.pinned
        if isinstance(self.claimed, str):
            raise UnprovenError("there are no keys to verify with: none are pinned, and the report's cannot be read")
        return self.claimed

    @cached_property
    def read(self) -> tuple[Record, ...] | str:
        """The server's record, or why it does not verify."""
        try:
            return read_records(read_envelopes(self.proof.record), self.roster.server)
        except ForgeryError as error:
            return str(error)

    @property
    def records(self) -> tuple[Record, ...]:
        """The server's record."""
        if isinstance(self.read, str):
            raise UnprovenError("the server's record does not verify")
        return self.read

    @property
    def first_record(self) -> FirstRecord:
        """The first record of the run, with which the server opened it."""
        first = self.records[0] if self.records else None
        if not isinstance(first, FirstRecord):
            raise UnprovenError("the server's record lacks the first record of a run")
        return first

    @property
    def closed(self) -> Closed:
        """The end of the server's record."""
        last = self.records[-1] if self.records else None
        if not isinstance(last, Closed):
            raise UnprovenError("the server's record has no end")
        return last

    @cached_property
    def opening(self) -> Roster:
        """The keys that were pinned before anyone was asked: those of the roster that the record pins nowhere else."""
        later = enrolled_keys(self.records)
        clients = {client: public for client, public in self.roster.clients.items() if client not in later}
        return Roster(server=self.roster.server, clients=clients)

    @cached_property
    def asked(self) -> tuple[Asked, ...]:
        """What the server asked, in order."""
        return tuple(record for record in self.records if isinstance(record, Asked))

    @cached_property
    def completed(self) -> tuple[Completed, ...]:
        """What the server completed, in order."""
        return tuple(record for record in self.records if isinstance(record, Completed))

    @cached_property
    def plan(self) -> PrivacyPlan:
        """The plan that the server opened the run with."""
        try:
            return read_plan(self.first_record.plan)
        except PrivacySpecError as error:
            raise UnprovenError(f"the plan of the first record is no plan: {error}") from error

    @property
    def secret(self) -> bool:
        """Whether the accounting relies on nobody knowing who took part."""
        return mechanism_of_plan(self.plan).requires.hidden_cohorts

    @cached_property
    def ledgers(self) -> Mapping[int, KnownLedger]:
        """The ledger of each client whose key is known."""
        keys = self.roster.clients
        return {ledger.client: _known(ledger, self.roster) for ledger in self.proof.ledgers if ledger.client in keys}

    @cached_property
    def spent(self) -> Mapping[int, Spent]:
        """What is charged to each client: the reservations of its ledger, and what it left unanswered."""
        broken = [client for client, ledger in self.ledgers.items() if ledger.problem is not None]
        if broken:
            raise UnprovenError(f"the ledger of client {broken[0]} does not verify")
        return {client: self._spent(ledger) for client, ledger in self.ledgers.items()}

    @cached_property
    def derived(self) -> Privacy:
        """The claim as an honest server derives it from the signed records, without the curve.

        Raises:
            UnprovenError: something that it rests on does not verify.
            PrivacySpecError: nothing can be derived from it, though it verifies.
            ConfigError: the configuration cannot be read.
        """
        known = self.spent.keys()
        if missing := [client for client in self.roster.clients if client not in known]:
            raise UnprovenError(f"there is no ledger of client {missing[0]}")
        ledgers = {client: _as_charged(ledger) for client, ledger in self.ledgers.items()}
        return derive_claim(from_flat(self.report.config), self.roster, self.records, ledgers, rounds=None)

    @cached_property
    def guarantee(self) -> Mapping[str, object]:
        """The fields of the claim that follow from first record and transport, at the epsilon that is claimed."""
        epsilon = self.report.privacy.epsilon or 0.0
        seen = Transport.of(self.records)
        return derive_guarantee(self.plan, self.first_record, seen, self.report.config, epsilon=epsilon)

    @cached_property
    def earlier_statement(self) -> str:
        """The statement of the guarantee as reports had it before, in which delta was read as is usual."""
        epsilon, seen = self.report.privacy.epsilon or 0.0, Transport.of(self.records)
        return earlier_statement(self.plan, epsilon, self.first_record.noise, seen)

    def _spent(self, ledger: KnownLedger) -> Spent:
        return charged(ledger.client, _as_charged(ledger), self.plan, self.first_record, self.records)


def read_copy(name: str, data: bytes, roster: Roster) -> LedgerCopy:
    """Read a ledger file, and find out by its signatures whose it is."""
    lines = data.split(b"\n")
    if lines.pop():
        return LedgerCopy(name=name, client=None, problem="its last line is torn")
    try:
        envelopes = tuple(SignedEnvelope.from_line(line + b"\n") for line in lines)
    except ForgeryError as error:
        return LedgerCopy(name=name, client=None, problem=str(error))
    if not envelopes:
        return LedgerCopy(name=name, client=None, problem="it has no entry, so that nothing says whose it is")
    owners = {public.key_id: client for client, public in roster.clients.items()}
    client = owners.get(envelopes[0].key_id)
    if client is None:
        problem = f"it is signed with key {envelopes[0].key_id[:16]}, which is of no client"
        return LedgerCopy(name=name, client=None, problem=problem)
    try:
        entries = read_chain(envelopes, roster.clients[client])
    except ForgeryError as error:
        return LedgerCopy(name=name, client=client, envelopes=envelopes, problem=str(error))
    return LedgerCopy(name=name, client=client, envelopes=envelopes, entries=entries)


def _as_charged(ledger: KnownLedger) -> ClientLedger:
    return ClientLedger(entries=ledger.entries, head=ledger.head, stated=ledger.statement)


def _known(ledger: LedgerTrail, roster: Roster) -> KnownLedger:
    public = roster.clients[ledger.client]
    envelopes: tuple[SignedEnvelope, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    statement, problem, statement_problem = None, None, None
    try:
        envelopes = read_envelopes(ledger.entries)
        entries = read_chain(envelopes, public)
    except ForgeryError as error:
        problem = str(error)
    if ledger.statement is not None:
        try:
            statement = read_statement(SignedEnvelope.from_json(ledger.statement), public)
        except ForgeryError as error:
            statement_problem = str(error)
    return KnownLedger(
        client=ledger.client,
        envelopes=envelopes,
        entries=entries,
        problem=problem,
        statement=statement,
        statement_problem=statement_problem,
    )


def read_envelopes(values: Sequence[dict[str, JsonValue]]) -> tuple[SignedEnvelope, ...]:
    """Read envelopes.

    Raises:
        ForgeryError: one is none; it is said which.
    """
    found = []
    for number, value in enumerate(values):
        try:
            found.append(SignedEnvelope.from_json(value))
        except ForgeryError as error:
            raise ForgeryError(f"number {number} is {error}") from error
    return tuple(found)
