"""The audit: every check, in order, and what no audit can prove."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fedtrain.audit.checks import accounting, claims, configuration, enrollment, matching, rounds, signatures, transport
from fedtrain.audit.evidence import Evidence, read_copy
from fedtrain.audit.reading import read_report, refuted
from fedtrain.audit.verdict import Check, Finding, Group, UnprovenError, Verdict, fails, not_proven
from fedtrain.errors import ContradictionError, FedtrainError
from fedtrain.privacy.mechanisms import mechanism_of_plan, private
from fedtrain.report.numbers import short
from fedtrain.report.schema import Report
from fedtrain.report.wording import Transport
from fedtrain.trust import Roster

LIMITS: Final = (
    (
        "data sets",
        "that a data set is the one it is said to be, and its records are in no other: a ledger knows a keyed digest",
    ),
    ("one ledger each", "that a client has no second ledger under another key, or uses the records without any"),
    (
        "collusion",
        "that server and clients did not agree on a false story: what all holders of keys sign together, verifies",
    ),
    (
        "measurements",
        "every measurement, and that the model files are those that the rounds gave: the server alone signs them",
    ),
    (
        "encryption",
        (
            "that models and updates were encrypted and updates masked, and that a sum is of the updates that entries "
            "commit to: the server alone signs it, and each client's program sees to its own part where its site file "
            "or configuration insists"
        ),
    ),
    ("software", "that the programs which ran were those of the digests in the report"),
    (
        "texts",
        (
            "what the report says of its name, tuning, warnings, software and durations, and what its operator states: "
            "the server alone signs them; and that a site is who its name says: each signed its own, and any other "
            "could have chosen the same"
        ),
    ),
)
"""What no audit of a report can prove, by name. It is listed every time, so that nobody takes it for proven."""


def _noise(evidence: Evidence) -> Finding:
    """Say what clients signed of the noise. Whether it was drawn at all, and from where, only those who drew it know.

    A reservation for seeded noise, of whatever run, is one that the epsilon of its client counts and that protects it
    from nobody who knows the seed.
    """
    if evidence.report.privacy.noise == "seeded":
        return not_proven(
            "seeded noise protects nobody: this is a simulation, and its numbers are those that a deployment with "
            "secure noise would have"
        )
    seeded = [
        f"client {client} (entry {entry.sequence})"
        for client, ledger in evidence.ledgers.items()
        for entry in ledger.entries
        if entry.noise == "seeded"
    ]
    if seeded:
        more = f" and {len(seeded) - 1} more" if seeded[1:] else ""
        return not_proven(
            f"seeded noise protects nobody, and ledgers have reservations for it, by {seeded[0]}{more}: epsilon counts "
            "them as if nobody could know the seed"
        )
    return not_proven(mechanism_of_plan(evidence.plan).unproven(Transport.of(evidence.records)))


_SIGNATURES = Group(title="Signatures", about="Who signed, and whether all of what they signed is here.")
_RUN = Group(
    title="The run",
    about="Rounds were asked and completed in order, as they were planned, and the report is the one that was signed.",
)
_CHARGES = Group(
    title="Charges", about="Each update that was used is charged to its client, by what the client itself signed."
)
_CLAIM = Group(
    title="The claim", about="What the report promises, in numbers and words, is what follows from what was signed."
)
_ARITHMETIC = Group(
    title="Arithmetic", about="Epsilon and delta, computed again from the charges by more than one library."
)
_LIMITS = Group(title="What no audit can prove", about="It is listed every time, so that nobody takes it for proven.")
GROUPS: Final = (_SIGNATURES, _RUN, _CHARGES, _CLAIM, _ARITHMETIC, _LIMITS)
"""What the checks are about."""

_GROUPED: Final[tuple[tuple[Group, tuple[tuple[str, Callable[[Evidence], Finding]], ...]], ...]] = (
    (
        _SIGNATURES,
        (
            ("pinned keys", signatures.keys),
            ("server's record", signatures.record),
            ("enrollment", enrollment.enrolled),
            ("clients' ledgers", signatures.ledgers),
            ("clients' statements", signatures.statements),
            ("clients' own files", signatures.copies),
        ),
    ),
    (
        _RUN,
        (
            ("first record", rounds.first_record),
            ("configuration", configuration.configuration),
            ("rounds", rounds.rounds),
            ("closing", rounds.closing),
            ("round log", rounds.log),
            ("transport", transport.transport),
        ),
    ),
    (
        _CHARGES,
        (
            ("updates have entries", matching.updates),
            ("entries were asked for", matching.entries),
            ("entries follow the plan", accounting.events),
            ("clients", claims.clients),
            ("charges", claims.events),
        ),
    ),
    (_CLAIM, (("mechanism", claims.mechanism), ("claim", claims.claim), ("words", claims.words))),
    (
        _ARITHMETIC,
        (
            ("epsilon", accounting.largest),
            ("epsilon, second opinion", accounting.opinion),
            ("epsilon, ceiling", accounting.bound),
            ("accountants", accounting.accountants),
            ("epsilon over the rounds", accounting.curve),
            ("delta", configuration.delta),
            ("budget", configuration.budget),
        ),
    ),
    (_LIMITS, (("noise", _noise),)),
)

CHECKS: Final = tuple(check for _, checks in _GROUPED for check in checks)
"""Each check by its name. What they are about is in docs/how-to/audit-a-report.md."""

# What arithmetic and parsing raise for numbers and structures that no honest run has.
_UNCHECKABLE = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, MemoryError, FedtrainError)

_TUNING = 600  # characters of what the author of a run declares of tuning

_NO_COPIES: Mapping[str, bytes] = MappingProxyType({})


def audit(
    report: Report,
    *,
    roster: Roster | None = None,
    from_elsewhere: bool = True,
    ledgers: Mapping[str, bytes] = _NO_COPIES,
) -> Verdict:
    """Check everything that a report claims about privacy, trusting nothing in it.

    What holds afterwards, with pinned keys: unless the server and a client together signed a false story, every update
    that the server used is charged in the ledger that its client signed, and epsilon is at least what those charges
    compose to. The check "clients' statements" says whether a client vouches for its ledger being complete.

    Args:
        report: the report, as `read_report` gives it.
        roster: the keys that the auditor trusts; None leaves them unproven.
        from_elsewhere: whether the auditor has the roster from elsewhere than the run: see `lies_in_run_folder`.
        ledgers: ledger files that clients handed to the auditor, by the name to call them.
    """
    pinned = roster is not None and from_elsewhere
    if not private(report.privacy.mode):
        claim = fails("the report claims no privacy: there is nothing to audit")
        return Verdict(checks=(Check.of(_CLAIM.title, "claim", claim),), groups=GROUPS, pinned=pinned, simulation=False)
    evidence = Evidence(report=report, pinned=roster, from_elsewhere=from_elsewhere, copies=())
    checks = []
    try:
        trusted = evidence.roster
    except UnprovenError:
        trusted = None
    if trusted is not None:
        files = tuple(read_copy(name, data, trusted) for name, data in ledgers.items())
        evidence = replace(evidence, copies=files)
    for group, of_group in _GROUPED:
        checks += [Check.of(group.title, name, _found(check, evidence)) for name, check in of_group]
    declared = {"texts": f"; of tuning it says: {short(report.privacy.tuning, _TUNING)}"}
    unproven = (Check.of(_LIMITS.title, name, not_proven(detail + declared.get(name, ""))) for name, detail in LIMITS)
    return Verdict(
        checks=(*checks, *unproven),
        groups=GROUPS,
        pinned=pinned,
        simulation=report.privacy.noise == "seeded",
    )


def audit_bytes(
    data: bytes, *, roster: Roster | None = None, from_elsewhere: bool = True, ledgers: Mapping[str, bytes] = _NO_COPIES
) -> tuple[Report | None, Verdict]:
    """Check a report as its bytes are. One that is not as fedtrain writes it is refuted, and not returned.

    Args:
        data: the report.
        roster: as for `audit`, and so are the others.
        from_elsewhere: likewise.
        ledgers: likewise.

    Raises:
        ReportError: it is no report of this version.
    """
    try:
        report = read_report(data)
    except ContradictionError as error:
        return None, refuted(error, data, roster=roster, from_elsewhere=from_elsewhere)
    return report, audit(report, roster=roster, from_elsewhere=from_elsewhere, ledgers=ledgers)


def lies_in_run_folder(roster: Path) -> bool:
    """Say whether a roster is that of a run folder, wherever the report is: its author is who made the run."""
    return (roster.resolve().parent / "record.jsonl").exists()


def _found(check: Callable[[Evidence], Finding], evidence: Evidence) -> Finding:
    try:
        return check(evidence)
    except UnprovenError as error:
        return not_proven(str(error))
    except _UNCHECKABLE as error:
        return fails(f"cannot be checked: {type(error).__name__}: {error}")
