"""Whose signatures there are, and whether they hold."""

from collections import Counter

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide, fails, not_proven


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
    seen: dict[str, int] = {}
    for ledger in evidence.ledgers.values():
        if ledger.problem is not None:
            problems.append(f"client {ledger.client}: {ledger.problem}")
        for entry in ledger.entries[:1]:
            other = seen.setdefault(entry.dataset, ledger.client)
            if other != ledger.client:
                problems.append(
                    f"clients {other} and {ledger.client} signed for one and the same data set; nothing here says "
                    "whose it is"
                )
    entries = sum(len(ledger.entries) for ledger in evidence.ledgers.values())
    return decide(
        problems,
        f"{entries} entries of {len(evidence.ledgers)} clients, each signed by its client and linked to the one before",
    )
