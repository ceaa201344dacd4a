"""Whether every client that had a part in the run is accounted for, and what is known of the others.

In a simulation of many, clients are asked who they are when they are first drawn, and the server's record pins their
keys then. So a report may have fewer ledgers than the federation has clients, and it must have that of each client that
was drawn.
"""

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide, not_proven
from fedtrain.crypto import PublicIdentity
from fedtrain.ledger import Asked, Completed, Enrolled, named_clients


def enrolled(evidence: Evidence) -> Finding:
    """Every client that the record names has a pinned key and a ledger, and was enrolled once before it was asked.

    Keys are pinned one by one in simulations on the local engine alone. It knows who was not drawn; a server whose
    clients are elsewhere, or are in a session, asks all of them first.

    Clients that no record names had no part by the server's word alone, unless the auditor pins their keys: then each
    needs a ledger, and its own statement about it.
    """
    roster, shown = evidence.roster, {ledger.client for ledger in evidence.proof.ledgers}
    problems = [
        f"client {client} is named by the server's record, and {'has no ledger' if client in roster.clients else _KEY}"
        for client in sorted(named_clients(evidence.records))
        if client not in roster.clients or client not in shown
    ]
    problems += _order(evidence)
    if any(isinstance(record, Enrolled) for record in evidence.records):
        problems += _where_all_are_asked(evidence)
    clients, members = evidence.first_record.clients, roster.clients.keys() | named_clients(evidence.records)
    if len(members) > clients:
        problems.append(f"{len(members)} clients have a key or are named, and the federation has {clients}")
    others = clients - len(roster.clients)
    if not problems and others > 0:
        return not_proven(
            f"{len(roster.clients)} clients are accounted for, and {others} more of the federation have no key here: "
            "that they had no part is the server's word. In a simulation all keys are its author's; for any other run, "
            "get the keys of all members from the parties themselves"
        )
    return decide(problems, f"each of the {len(roster.clients)} clients that could take part has its ledger here")


_KEY = "has no key in the roster: what it spent is unknown"


def _where_all_are_asked(evidence: Evidence) -> list[str]:
    """Say why clients were not to be enrolled one by one in this run; nothing if they were."""
    clients = evidence.first_record.clients
    problems = [
        f"client {client} is none of the federation, which numbers its {clients} clients from 0"
        for client in sorted(evidence.roster.clients.keys() | named_clients(evidence.records))
        if client >= clients
    ]
    if evidence.secret:
        problems.append("the record says when clients were first drawn, and the accounting needs cohorts to be secret")
    if any(record.sealed or record.secagg for record in evidence.asked):
        problems.append(
            "clients were enrolled one by one, and messages were sealed or summed, as in a deployment: a session "
            "begins with all keys"
        )
    if evidence.opening.clients:
        problems.append(
            f"client {min(evidence.opening.clients)} has a key that no record pins, and other clients were enrolled "
            "one by one: either all are, or none"
        )
    return problems


def _order(evidence: Evidence) -> list[str]:
    """Say where a client was enrolled twice, with another key than that of the roster, or after it was asked."""
    roster, problems = evidence.roster, list[str]()
    pinned = set(evidence.opening.clients)
    for record in evidence.records:
        if isinstance(record, Enrolled):
            for each in record.keys:
                if each.client in pinned:
                    problems.append(f"client {each.client} was enrolled twice")
                if roster.clients.get(each.client) not in {None, PublicIdentity.decode(each.key)}:
                    problems.append(f"client {each.client} was enrolled with another key than that of the roster")
                pinned.add(each.client)
        elif isinstance(record, Asked):
            problems += [
                f"round {record.round}: client {client} was asked before its key was pinned"
                for client in record.cohort
                if client not in pinned
            ]
        elif isinstance(record, Completed):
            named = (*(update.client for update in record.updates), *(drop.client for drop in record.dropped))
            problems += [
                f"round {record.round}: client {client} is named before its key was pinned"
                for client in named
                if client not in pinned
            ]
    return list(dict.fromkeys(problems))
