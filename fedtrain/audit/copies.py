"""Whether the report has all of the ledgers that clients handed to the auditor themselves."""

from collections import Counter

from fedtrain.audit.evidence import CopiedLedger, Evidence
from fedtrain.audit.verdict import Finding, decide, not_proven


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


def _compared(evidence: Evidence, copy: CopiedLedger) -> tuple[list[str], int]:
    """Return what is wrong, and how many later entries of other runs the file has."""
    if copy.client is None or copy.problem is not None:
        whose = "" if copy.client is None else f" of client {copy.client}"
        return [f"{copy.name}{whose}: {copy.problem}"], 0
    known = evidence.ledgers.get(copy.client)
    if known is None:
        return [f"client {copy.client} is missing: it has a ledger, {copy.name}, and the report has none of it"], 0
    where = f"client {copy.client}"
    for number, (told, own) in enumerate(zip(known.envelopes, copy.envelopes, strict=False)):
        if told.digest != own.digest:
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
