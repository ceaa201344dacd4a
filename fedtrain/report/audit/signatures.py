"""Whose signatures there are, and whether they hold."""

from collections import Counter

from fedtrain.ledger import Asked
from fedtrain.report.audit.evidence import Evidence
from fedtrain.report.audit.verdict import Finding, decide, fails, not_proven


def keys(evidence: Evidence) -> Finding:
    """The report names the keys that the auditor pinned."""
    claimed = evidence.claimed
    if isinstance(claimed, str):
        return fails(f"the roster of the report cannot be used: {claimed}")
    if evidence.pinned is None:
        return not_proven(
            "no keys were pinned (--roster): signatures are verified against the keys in the report itself, which "
            "whoever wrote it could have made"
        )
    pinned = evidence.pinned
    problems = []
    if claimed.server != pinned.server:
        problems.append("the server's key is another than the pinned one")
    for client in sorted(claimed.clients.keys() | pinned.clients.keys()):
        if client not in pinned.clients:
            problems.append(f"client {client} has no pinned key")
        elif client not in claimed.clients:
            problems.append(f"client {client} is missing from the report's roster")
        elif claimed.clients[client] != pinned.clients[client]:
            problems.append(f"client {client}'s key is another than the pinned one")
    return decide(problems, f"the server's and {len(pinned.clients)} clients' keys are the pinned ones")


def record(evidence: Evidence) -> Finding:
    """The server signed its record, and nothing is missing from its middle."""
    if isinstance(evidence.read, str):
        return fails(f"the server's record: {evidence.read}")
    if not evidence.read:
        return fails("the server's record is empty")
    return decide([], f"{len(evidence.read)} records, each signed by the server and linked to the one before")


def ledgers(evidence: Evidence) -> Finding:
    """Each client of the roster has one ledger, which it signed, and from whose middle nothing is missing."""
    shown = Counter(ledger.client for ledger in evidence.proof.ledgers)
    strangers = [client for client in shown if client not in evidence.roster.clients]
    if strangers:
        return decide([f"client {client} has a ledger and no key" for client in strangers], "")
    problems = [f"client {client} has more than one ledger" for client in sorted(shown) if shown[client] > 1]
    problems += [f"client {client} has no ledger" for client in evidence.roster.clients if client not in shown]
    owners: dict[str, int] = {}
    for ledger in evidence.ledgers.values():
        if ledger.problem is not None:
            problems.append(f"client {ledger.client}: {ledger.problem}")
        for entry in ledger.entries[:1]:
            other = owners.setdefault(entry.dataset, ledger.client)
            if other != ledger.client:
                problems.append(f"client {ledger.client}: its data set is that of client {other}")
    entries = sum(len(ledger.entries) for ledger in evidence.ledgers.values())
    return decide(
        problems,
        f"{entries} entries of {len(evidence.ledgers)} clients, each signed by its client and linked to the one before",
    )


def statements(evidence: Evidence) -> Finding:
    """Each client signed that its ledger in the report is all there is.

    Without that a tail could be cut off by whoever holds the server's key. It is excused where the client may have been
    gone when it was asked: the run did not complete, or the client did not answer the last round that it was asked in.
    """
    problems: list[str] = []
    excused: list[str] = []
    given = {copy.client for copy in evidence.copies if copy.problem is None}
    gone = _gone(evidence)
    for client, ledger in evidence.ledgers.items():
        stated = ledger.statement
        if ledger.problem is not None:
            continue
        if ledger.statement_problem is not None:
            problems.append(f"client {client}: its statement does not verify: {ledger.statement_problem}")
        elif stated is not None and stated.sequence > len(ledger.entries):
            problems.append(
                f"client {client}: it states that its ledger has {stated.sequence} entries, and the report has "
                f"{len(ledger.entries)}: the tail is cut off"
            )
        elif stated is None or not ledger.covered or stated.run != evidence.report.run:
            if client in given:
                continue
            what = _lacking(evidence, client)
            (excused if client in gone else problems).append(f"client {client}: {what}")
    if not problems and excused:
        return not_proven(
            f"{'; '.join(excused[:3])}{f'; and {len(excused) - 3} more' if excused[3:] else ''}: what they did after "
            "their last known entry is charged where the server asked them, and may be more in other runs; --ledger "
            "with their own files shows it"
        )
    return decide(problems, "each client states that its ledger in the report is all of it, or gave its own file")


def _lacking(evidence: Evidence, client: int) -> str:
    ledger = evidence.ledgers[client]
    if ledger.statement is None:
        return "no statement says that its ledger is all of it"
    if ledger.statement.run != evidence.report.run:
        return f"its statement is of another run, {ledger.statement.run}"
    return (
        f"its statement is of an earlier state, {ledger.statement.sequence} entries of {len(ledger.entries)}, or of "
        "another ledger"
    )


def _gone(evidence: Evidence) -> set[int]:
    """Return the clients that may have been gone at the end of the run."""
    if evidence.closed.status != "completed":
        return set(evidence.ledgers)
    last: dict[int, tuple[int, str]] = {}
    answered: dict[int, set[tuple[int, str]]] = {client: set() for client in evidence.ledgers}
    for entry in evidence.records:
        if isinstance(entry, Asked):
            last.update(dict.fromkeys(entry.cohort, (entry.round, entry.model)))
    for entry in evidence.completed:
        for update in entry.updates:
            answered.setdefault(update.client, set()).add((entry.round, entry.model))
    return {client for client, where in last.items() if where not in answered.get(client, set())}
