"""Whether every update that the server received is in a ledger, and every entry of a ledger was asked for."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from fedtrain.audit.checks.signatures import refused, vouched
from fedtrain.audit.evidence import Evidence, KnownLedger
from fedtrain.audit.verdict import Finding, decide
from fedtrain.ledger import LedgerEntry, Update

Key = tuple[int, str, str]
"""Round, digest of what was received, digest of what was sent."""


def updates(evidence: Evidence) -> Finding:
    """Every update that the server used was settled in its client's ledger: run, round, plan, model and update agree.

    With seeded noise a round that is done again with the same model gives the same update again, and has one entry.
    With secure noise it gives another, and each update has an entry of its own.

    What a client commits to is what it sends before masking. A server that receives single updates compares the two.
    One that receives them masked copies what the client signed, and whether that went into the sum nobody can tell.
    """
    problems: list[str] = []
    settled = {client: _settled(evidence, ledger) for client, ledger in evidence.ledgers.items()}
    used: Counter[tuple[int, Key]] = Counter()
    count = 0
    for record in evidence.completed:
        for update in record.updates:
            count += 1
            where = f"round {record.round}, client {update.client}"
            ledger = evidence.ledgers.get(update.client)
            if ledger is None or ledger.problem is not None:
                problems.append(f"{where}: an update was used, and the client has no ledger that verifies")
                continue
            key = (record.round, record.model, update.update)
            used[update.client, key] += 1
            found = settled[update.client].get(key, ())
            if not found:
                problems.append(f"{where}: {_why(evidence, ledger, key)}")
            elif evidence.first_record.noise == "secure" and used[update.client, key] > len(found):
                problems.append(f"{where}: two updates rest on one entry, number {found[0]}")
            else:
                problems += _head(ledger, update, found[0], where)
    if evidence.secret:
        named = count + sum(len(record.cohort) for record in evidence.asked)
        named += sum(len(record.dropped) for record in evidence.completed)
        problems += ["the record names clients, and the accounting needs cohorts to be secret"] if named else []
        return decide(problems, "cohorts are secret: no record names who took part")
    copied = sum(len(record.updates) for record in evidence.completed if record.secagg is not None)
    unseen = f"; the server saw {copied} of them in a sum alone, and could not compare them" if copied else ""
    return decide(problems, f"{count} updates, each settled in its client's ledger{unseen}")


def entries(evidence: Evidence) -> Finding:
    """Every reservation of this run was asked for, of this client, in this round, with this model.

    Where cohorts are secret, each client has one reservation for the whole run instead, or says that it has none.
    """
    if evidence.secret:
        return _joined(evidence)
    asked: Counter[tuple[int, int, str]] = Counter(
        (client, record.round, record.model) for record in evidence.asked for client in record.cohort
    )
    problems: list[str] = []
    count = 0
    for client, ledger in evidence.ledgers.items():
        reserved: Counter[tuple[int, str]] = Counter()
        for entry in _of_run(evidence, ledger, "reserved"):
            count += 1
            reserved[entry.round, entry.model] += 1
            times = asked[client, entry.round, entry.model]
            where = f"round {entry.round}, client {client}: entry {entry.sequence}"
            if not times:
                problems.append(f"{where} was never asked for by the server's record")
            elif reserved[entry.round, entry.model] > times:
                problems.append(f"{where} reserves a round that was asked only {times} times")
    return decide(problems, f"{count} reservations of this run, each asked for by the server's record")


def _joined(evidence: Evidence) -> Finding:
    problems, joined = [], 0
    for client, ledger in evidence.ledgers.items():
        reserved = list(_of_run(evidence, ledger, "reserved"))
        if not reserved and not (vouched(evidence, ledger) or refused(evidence, ledger)):
            problems.append(f"client {client}: no reservation for the run, and nothing signed says that it has none")
        elif len(reserved) > 1:
            problems.append(
                f"client {client}: {len(reserved)} reservations for one run, by entry {reserved[1].sequence}"
            )
        problems += [
            f"client {client}: entry {entry.sequence} is of round {entry.round}, and cohorts are secret"
            for entry in reserved
            if entry.round
        ]
        joined += bool(reserved)
    return decide(
        problems, f"{joined} clients reserved the whole run when they joined; the others state that they did not"
    )


def _of_run(evidence: Evidence, ledger: KnownLedger, status: str) -> Iterator[LedgerEntry]:
    return (entry for entry in ledger.entries if entry.run == evidence.report.run and entry.status == status)


def _settled(evidence: Evidence, ledger: KnownLedger) -> dict[Key, list[int]]:
    """Return the sequence numbers of the settled entries of this run and plan, by what must agree."""
    found: dict[Key, list[int]] = defaultdict(list)
    digest = evidence.plan.digest
    for entry in _of_run(evidence, ledger, "settled"):
        if entry.plan == digest and entry.update is not None:
            found[entry.round, entry.model, entry.update].append(entry.sequence)
    return found


def _why(evidence: Evidence, ledger: KnownLedger, key: Key) -> str:
    """Say what an update without an entry comes closest to."""
    number, model, update = key
    same = [entry for entry in _of_run(evidence, ledger, "settled") if entry.round == number]
    if not same:
        return "the ledger has no settled entry for this update"
    entry = same[-1]
    if entry.update != update:
        return f"entry {entry.sequence} settles another update than the one that the server used"
    if entry.model != model:
        return f"entry {entry.sequence} is of another model than the one that was asked with"
    return f"entry {entry.sequence} is of another plan, {entry.plan[:16]}, than the run's, {evidence.plan.digest[:16]}"


def _head(ledger: KnownLedger, update: Update, settled: int, where: str) -> list[str]:
    """Say whether the ledger that the server saw with an update is the beginning of the one in the report."""
    if not settled < update.sequence <= len(ledger.envelopes):
        seen, known = update.sequence, len(ledger.envelopes)
        return [f"{where}: the server saw {seen} entries, the report has {known}, with the update in entry {settled}"]
    if ledger.envelopes[update.sequence - 1].digest != update.head:
        return [f"{where}: the server saw another ledger: its entry {update.sequence - 1} is not the one in the report"]
    return []
