"""The audit: every check, in order."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from fedtrain.crypto import Roster
from fedtrain.errors import ReportError
from fedtrain.report.audit import accounting, claims, copies, course, curve, limits, matching, promise, signatures
from fedtrain.report.audit.evidence import Evidence, read_copy
from fedtrain.report.audit.verdict import Check, Finding, UnprovenError, Verdict, not_proven
from fedtrain.report.schema import Report

CHECKS: Final[tuple[tuple[str, Callable[[Evidence], Finding]], ...]] = (
    ("pinned keys", signatures.keys),
    ("server's record", signatures.record),
    ("clients' ledgers", signatures.ledgers),
    ("clients' statements", signatures.statements),
    ("clients' own files", copies.copies),
    ("opening", course.opening),
    ("rounds", course.rounds),
    ("closing", course.closing),
    ("updates have entries", matching.updates),
    ("entries were asked for", matching.entries),
    ("entries follow the plan", accounting.events),
    ("mechanism", claims.mechanism),
    ("clients", claims.clients),
    ("charges", claims.events),
    ("round log", course.log),
    ("epsilon", accounting.largest),
    ("epsilon, second opinion", accounting.opinion),
    ("epsilon, ceiling", accounting.bound),
    ("accountants", accounting.accountants),
    ("epsilon over the rounds", curve.curve),
    ("delta", promise.delta),
    ("budget", promise.budget),
    ("noise", limits.noise),
)
"""Each check by its name. What they are about is in docs/how-to/audit-a-report.md."""

_NO_COPIES: Mapping[str, bytes] = MappingProxyType({})


def read_report(data: bytes) -> Report:
    """Read a report that nobody vouches for.

    Raises:
        ReportError: it is no report of this version, contradicts itself, or has a key twice, which other programs may
            read in another way.
    """
    try:
        json.loads(data, object_pairs_hook=_once)
        return Report.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the report"
        raise ReportError(f"the report cannot be read: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"the report cannot be read: {error}") from error


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
    if report.privacy.mode == "none":
        return Verdict(checks=(Check(name="claim", status="not proven", detail="the report claims no privacy"),))
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
        checks.append(Check(name=name, status=finding.status, detail=finding.detail))
    return Verdict(checks=(*checks, *limits.limits()))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice!r} twice in one object")
    return found
