"""Whose signatures there are, whether they hold, and whether clients vouch for their ledgers being complete."""

from collections import Counter

from fedtrain.audit.evidence import Evidence, KnownLedger, LedgerCopy
from fedtrain.audit.verdict import Finding, decide, fails, not_proven
from fedtrain.ledger import Asked, Statement


def keys(evidence: Evidence) -> Finding:
    """The report names the keys that the auditor pinned."""
    claimed = evidence.claimed
    if isinstance(claimed, str):
        return fails(f"the roster of the report cannot be used: {claimed}")
    if evidence.pinned is None:
        return not_proven(
            "no keys were pinned (--roster): signatures are verified against the keys in the report itself, which "
            "its author could have made"
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
    found = decide(problems, f"the server's and {len(pinned.clients)} clients' keys are the pinned ones")
    keys_of = [{public.key_id for public in (roster.server, *roster.clients.values())} for roster in (claimed, pinned)]
    if keys_of[0].isdisjoint(keys_of[1]):
        return fails(f"no key is a pinned one: the roster is that of another run, or the report is; {found.detail}")
    if found.status == "holds" and not evidence.from_elsewhere:
        return not_proven(
            "the report names the keys of a run folder's own roster, and whoever made the one could have made the "
            "other: get the keys from the parties themselves"
        )
    return found


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


def statements(evidence: Evidence) -> Finding:
    """Each client signed that its ledger in the report is all there is.

    Without that a holder of the server's key could cut off a tail. It is excused where the client may have been
    gone when it was asked: the run did not complete, the client refused, or did not answer the last round that it was
    asked in. Where cohorts are secret nobody knows that, and it is excused where the client reserved the whole run.
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
        elif not vouched(evidence, ledger):
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
    times = [
        ledger.statement.time
        for ledger in evidence.ledgers.values()
        if ledger.statement is not None and vouched(evidence, ledger)
    ]
    oldest = f"; the oldest statement is of {min(times)}" if times else ""
    return decide(
        problems, f"each client states that its ledger in the report is all of it, or gave its own file{oldest}"
    )


def vouched(evidence: Evidence, ledger: KnownLedger) -> bool:
    """Say whether a client states, at the end of this run, that its ledger in the report is all of it.

    At the end of a run that completed each client is asked in the last round or after it. What a client stated when it
    joined does not speak of what it did since.
    """
    stated = ledger.statement
    return (
        stated is not None
        and ledger.covered
        and stated.run == evidence.first_record.run
        and not _early(evidence, stated)
    )


def refused(evidence: Evidence, ledger: KnownLedger) -> bool:
    """Say whether a client signed, of this very ledger, that it does not take part any more."""
    stated = ledger.statement
    return (
        stated is not None and ledger.covered and stated.run == evidence.first_record.run and stated.refusal is not None
    )


def _early(evidence: Evidence, stated: Statement) -> bool:
    return evidence.closed.status == "completed" and stated.round < _last(evidence)


def _last(evidence: Evidence) -> int:
    return max((record.round for record in evidence.asked), default=0)


def _lacking(evidence: Evidence, client: int) -> str:
    ledger = evidence.ledgers[client]
    if ledger.statement is None:
        return "no statement says that its ledger is all of it"
    if ledger.statement.run != evidence.report.run:
        return f"its statement is of another run, {ledger.statement.run}"
    if ledger.covered and _early(evidence, ledger.statement):
        return (
            f"its statement is of round {ledger.statement.round}, and the last round that anyone was asked in is "
            f"{_last(evidence)}"
        )
    return (
        f"its statement is of an earlier state, {ledger.statement.sequence} entries of {len(ledger.entries)}, or of "
        "another ledger"
    )


def _gone(evidence: Evidence) -> set[int]:
    """Return the clients that may have been gone at the end of the run."""
    if evidence.closed.status != "completed":
        return set(evidence.ledgers)
    left = {client for client, ledger in evidence.ledgers.items() if refused(evidence, ledger)}
    if evidence.secret:
        run = evidence.first_record.run
        return left | {
            client
            for client, ledger in evidence.ledgers.items()
            if any((entry.run, entry.status) == (run, "reserved") for entry in ledger.entries)
        }
    last: dict[int, tuple[int, str]] = {}
    answered: dict[int, set[tuple[int, str]]] = {client: set() for client in evidence.ledgers}
    for entry in evidence.records:
        if isinstance(entry, Asked):
            last.update(dict.fromkeys(entry.cohort, (entry.round, entry.model)))
    for entry in evidence.completed:
        for update in entry.updates:
            answered.setdefault(update.client, set()).add((entry.round, entry.model))
    return left | {client for client, where in last.items() if where not in answered.get(client, set())}


def copies(evidence: Evidence) -> Finding:
    """The report's ledger of a client is the beginning of the client's own file, and no charge of this run is beyond.

    That shows a fork (two entries with one number) and a tail that was cut off, also where server and client agreed on
    it when the report was written.
    """
    if not evidence.copies:
        return not_proven(
            "no client's own ledger was given (--ledger): a tail that server and client agreed to cut off, or a second "
            "version of an entry, would not be seen"
        )
    problems: list[str] = []
    later = 0
    for copy in evidence.copies:
        found, more = _compared(evidence, copy)
        problems += found
        later += more
    extra = f"; they have {later} later entries of other runs" if later else ""
    return decide(problems, f"{len(evidence.copies)} clients' own files begin with what the report has{extra}")


def _compared(evidence: Evidence, copy: LedgerCopy) -> tuple[list[str], int]:
    """Return what is wrong, and how many later entries of other runs the file has."""
    if copy.client is None or copy.problem is not None:
        whose = "" if copy.client is None else f" of client {copy.client}"
        return [f"{copy.name}{whose}: {copy.problem}"], 0
    known = evidence.ledgers.get(copy.client)
    if known is None:
        return [f"client {copy.client} is missing: it has a ledger, {copy.name}, and the report has none of it"], 0
    where = f"client {copy.client}"
    for number, (reported, own) in enumerate(zip(known.envelopes, copy.envelopes, strict=False)):
        if reported.digest != own.digest:
            problem = f"fork: there are two entries with the number {number}, in the report and in {copy.name}"
            return [f"{where}: {problem}"], 0
    if len(copy.envelopes) < len(known.envelopes):
        problem = f"{copy.name} has {len(copy.envelopes)} entries, and the report {len(known.envelopes)}"
        return [f"{where}: {problem}: the file is not its present ledger"], 0
    rest = copy.entries[len(known.envelopes) :]
    beyond = Counter(entry.round for entry in rest if entry.run == evidence.report.run and entry.status == "reserved")
    charged = Counter(evidence.spent[copy.client].unanswered)
    cut = sorted(number for number, count in beyond.items() if count > charged[number])
    problems = [
        f"{where}: truncated: round {number} of this run is in {copy.name}, and not charged in the report"
        for number in cut
    ]
    return problems, sum(entry.run != evidence.report.run for entry in rest)
