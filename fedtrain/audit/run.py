"""The audit: every check, in order, and what no audit can prove."""

import json
from collections.abc import Callable, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, NoReturn

from pydantic import ValidationError

from fedtrain.audit.checks import accounting, claims, configuration, matching, rounds, signatures, transport
from fedtrain.audit.evidence import Evidence, read_copy
from fedtrain.audit.verdict import Check, Finding, UnprovenError, Verdict, fails, not_proven
from fedtrain.errors import ContradictionError, FedtrainError, ReportError
from fedtrain.privacy.mechanisms import mechanism_of_plan, private
from fedtrain.report.numbers import short
from fedtrain.report.schema import Report, body_digest
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
        "what the report says of its name, tuning, warnings, software and durations: the server alone signs them",
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


CHECKS: Final[tuple[tuple[str, Callable[[Evidence], Finding]], ...]] = (
    ("pinned keys", signatures.keys),
    ("server's record", signatures.record),
    ("clients' ledgers", signatures.ledgers),
    ("clients' statements", signatures.statements),
    ("clients' own files", signatures.copies),
    ("first record", rounds.first_record),
    ("configuration", configuration.configuration),
    ("rounds", rounds.rounds),
    ("closing", rounds.closing),
    ("updates have entries", matching.updates),
    ("entries were asked for", matching.entries),
    ("entries follow the plan", accounting.events),
    ("mechanism", claims.mechanism),
    ("claim", claims.claim),
    ("words", claims.words),
    ("clients", claims.clients),
    ("charges", claims.events),
    ("round log", rounds.log),
    ("transport", transport.transport),
    ("epsilon", accounting.largest),
    ("epsilon, second opinion", accounting.opinion),
    ("epsilon, ceiling", accounting.bound),
    ("accountants", accounting.accountants),
    ("epsilon over the rounds", accounting.curve),
    ("delta", configuration.delta),
    ("budget", configuration.budget),
    ("noise", _noise),
)
"""Each check by its name. What they are about is in docs/how-to/audit-a-report.md."""

# What arithmetic and parsing raise for numbers and structures that no honest run has.
_UNCHECKABLE = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, MemoryError, FedtrainError)

_EXACT = 2**53 - 1  # beyond it a JSON number is not exact in every reader
_QUOTED = 200  # characters of what is quoted in a message
_NO_COPIES: Mapping[str, bytes] = MappingProxyType({})


def read_report(data: bytes) -> Report:
    """Read a report that nobody vouches for.

    Raises:
        ContradictionError: its fields contradict each other.
        ReportError: it is no report of this version, or has what other programs may read in another way: a key twice, a
            number that is not finite, a whole number beyond 2**53 - 1, too much nesting.
    """
    try:
        json.loads(data, object_pairs_hook=_once, parse_int=_whole, parse_float=_finite, parse_constant=_no_number)
        report = Report.model_validate_json(data)
        body_digest(report)  # what has none cannot have been signed
    except ValidationError as error:
        found = error.errors(include_url=False)
        first = found[0]
        where = ".".join(map(str, first["loc"])) or "the report"
        what = first["msg"].removeprefix("Value error, ")
        told = f"{short(where, _QUOTED)}: {short(what, _QUOTED)}"
        if all(each["type"] == "value_error" for each in found):  # what the report's own checks raise
            raise ContradictionError(f"the report contradicts itself: {told}") from error
        raise ReportError(f"the report cannot be read: {told}") from error
    except json.JSONDecodeError as error:
        raise ReportError(
            f"the report cannot be read: it is no JSON, or not all of it: {short(str(error), _QUOTED)}; get the whole "
            "file again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"the report cannot be read: {short(str(error), _QUOTED)}") from error
    return report


def audit(report: Report, *, roster: Roster | None = None, ledgers: Mapping[str, bytes] = _NO_COPIES) -> Verdict:
    """Check everything that a report claims about privacy, trusting nothing in it.

    What holds afterwards, with pinned keys: unless the server and a client together signed a false story, every update
    that the server used is charged in the ledger that its client signed, and epsilon is at least what those charges
    compose to. The check "clients' statements" says whether a client vouches for its ledger being complete.

    Args:
        report: the report, as `read_report` gives it.
        roster: the keys that the auditor trusts, from elsewhere than the report; None leaves them unproven.
        ledgers: ledger files that clients handed to the auditor, by the name to call them.
    """
    if not private(report.privacy.mode):
        claim = fails("the report claims no privacy: there is nothing to audit")
        return Verdict(checks=(Check.of("claim", claim),), pinned=roster is not None)
    evidence = Evidence(report=report, pinned=roster, copies=())
    checks = []
    try:
        trusted = evidence.roster
    except UnprovenError:
        trusted = None
    if trusted is not None:
        files = tuple(read_copy(name, data, trusted) for name, data in ledgers.items())
        evidence = Evidence(report=report, pinned=roster, copies=files)
    for name, check in CHECKS:
        try:
            finding = check(evidence)
        except UnprovenError as error:
            finding = not_proven(str(error))
        except _UNCHECKABLE as error:
            finding = fails(f"cannot be checked: {type(error).__name__}: {error}")
        checks.append(Check.of(name, finding))
    unproven = (Check(name=name, status="not proven", detail=detail) for name, detail in LIMITS)
    return Verdict(checks=(*checks, *unproven), pinned=roster is not None)


def refuted(error: ContradictionError, *, pinned: bool) -> Verdict:
    """Return the verdict on a report that contradicts itself, of which nothing else is worth a check.

    Args:
        error: how it does.
        pinned: whether the auditor gave keys.
    """
    return Verdict(checks=(Check.of("consistency", fails(str(error))),), pinned=pinned)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has the key {short(name, _QUOTED // 2)!r} twice in one object")
        found[name] = value
    return found


def _whole(text: str) -> int:
    # Its length first: Python refuses to read thousands of digits.
    if len(text) > len(str(-_EXACT)) or abs(number := int(text)) > _EXACT:
        raise ValueError(f"the whole number {short(text, _QUOTED // 2)} is beyond 2**53 - 1")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"the number {short(text, _QUOTED // 2)} is too large")
    return number


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
