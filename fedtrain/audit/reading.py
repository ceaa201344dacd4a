"""Reading a report that nobody vouches for, and what can be said of one that is not as fedtrain writes it."""

import json
from hashlib import sha256
from math import isfinite
from typing import Any, Final, NoReturn

from pydantic import ValidationError

from fedtrain.audit.evidence import read_envelopes
from fedtrain.audit.verdict import Check, Finding, Group, Verdict, decide, fails, not_proven
from fedtrain.config import UNKNOWN_MODE
from fedtrain.crypto import canonical
from fedtrain.errors import ContradictionError, ForgeryError, ReportError
from fedtrain.ledger import Closed, Record, read_records
from fedtrain.report.numbers import short
from fedtrain.report.schema import SCHEMA, Report, body_digest
from fedtrain.trust import Roster

_EXACT = 2**53 - 1  # beyond it a JSON number is not exact in every reader
_QUOTED = 200  # characters of what is quoted in a message
_GROUP: Final = Group(
    title="An edited report", about="Signatures first, and then what is wrong; nothing else of it is worth a check."
)


def read_report(data: bytes) -> Report:
    """Read a report that nobody vouches for.

    Raises:
        ContradictionError: it is a report, and not as fedtrain writes it: its fields contradict each other, are missing
            or of other types, or it has what other programs may read in another way: a key twice, a number that is not
            finite, a whole number beyond 2**53 - 1.
        ReportError: it is no report of this version, or no JSON.
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
        if any(each["type"] == UNKNOWN_MODE for each in found):
            raise ReportError(f"the report cannot be read: {told}") from error
        raise _refused(data, told) from error
    except json.JSONDecodeError as error:
        raise ReportError(
            f"the report cannot be read: it is no JSON, or not all of it: {short(str(error), _QUOTED)}; get the whole "
            "file again"
        ) from error
    except _AmbiguousError as error:
        raise _refused(data, str(error), ambiguous=True) from error
    except (ValueError, RecursionError) as error:
        raise _refused(data, short(str(error), _QUOTED)) from error
    return report


def refuted(
    error: ContradictionError, data: bytes, *, roster: Roster | None = None, from_elsewhere: bool = True
) -> Verdict:
    """Return the verdict on a report that is not as fedtrain writes it: what was signed of it, and what is wrong.

    Args:
        error: what is wrong.
        data: the report, as `read_report` refused it.
        roster: the keys that the auditor trusts.
        from_elsewhere: whether the auditor has them from elsewhere than the run.
    """
    tree = _tree(data)
    record = _record(tree.get("proof"), roster)
    found: tuple[tuple[str, Finding], ...] = (
        ("server's record", not_proven(record) if isinstance(record, str) else _signed(record)),
        (
            "closing",
            not_proven("the server's record does not verify") if isinstance(record, str) else _same(record, tree),
        ),
        ("consistency", fails(str(error))),
    )
    return Verdict(
        checks=tuple(Check.of(_GROUP.title, name, finding) for name, finding in found),
        groups=(_GROUP,),
        pinned=roster is not None and from_elsewhere,
        simulation=False,
    )


class _AmbiguousError(ValueError):
    """What programs read in more than one way."""


def _refused(data: bytes, why: str, *, ambiguous: bool = False) -> ReportError:
    """Return the error for what is JSON, and no report as fedtrain writes it.

    What is as its server signed it was not edited: another program wrote it. What can be read in two ways was.
    """
    tree = _tree(data)
    if tree.get("schema") != SCHEMA:
        return ReportError(f"the report cannot be read: {why}")
    record = _record(tree.get("proof"), None)
    if not ambiguous and not isinstance(record, str) and _same(record, tree).status == "holds":
        return ReportError(f"the report cannot be read: {why}. It is as its server signed it")
    return ContradictionError(f"the report is not as fedtrain writes it: {why}")


def _tree(data: bytes) -> dict[str, Any]:
    """Return a JSON object as any program may read it; an empty one for what is none."""
    try:
        tree = json.loads(data, parse_int=_any_whole)
    except (ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _record(proof: object, pinned: Roster | None) -> tuple[Record, ...] | str:
    """Return the server's record in what should be a proof, or why it does not verify."""
    if not isinstance(proof, dict):
        return "there is no proof in it"
    try:
        roster = Roster.from_json(proof.get("roster")) if pinned is None else pinned
        return read_records(read_envelopes(proof.get("record") or []), roster.server)
    except (ForgeryError, ValueError, TypeError, RecursionError) as error:
        return f"the server's record does not verify: {error}"


def _signed(record: tuple[Record, ...]) -> Finding:
    return decide([], f"{len(record)} records, each signed by the server and linked to the one before")


def _same(record: tuple[Record, ...], tree: dict[str, Any]) -> Finding:
    """The report is the one whose digest the server signed."""
    last = record[-1] if record else None
    if not isinstance(last, Closed):
        return fails("the server's record does not end with a closing")
    body = {name: value for name, value in tree.items() if name != "proof"}
    try:
        digest = sha256(canonical(body)).hexdigest()
    except (ValueError, TypeError, RecursionError) as error:
        return fails(f"the report was changed after it was signed: it has no digest: {error}")
    if digest == last.report:
        return decide([], "the report is the one that the server signed")
    return fails(
        f"the report was changed after it was signed: its digest is {digest[:16]}, and the server signed "
        f"{last.report[:16]}"
    )


def _any_whole(text: str) -> int | None:
    return int(text) if len(text) <= len(str(-_EXACT)) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            raise _AmbiguousError(f"it has the key {short(name, _QUOTED // 2)!r} twice in one object")
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
