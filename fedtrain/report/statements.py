"""What people say of a run, and nobody verifies: its operator in the experiment, and each site of its own name.

In a private run the server signs the one with the report, and each site the other with its ledger, so that nobody can
change them afterwards. That makes them no truer. All are quoted, so that none passes for words of the page.
"""

from collections import defaultdict
from collections.abc import Mapping
from unicodedata import normalize

from fedtrain.report.numbers import count, quoted, short
from fedtrain.report.schema import Report

LABELS: Mapping[str, str] = {
    "report.operator": "operator",
    "report.contact": "contact",
    "report.purpose": "purpose",
    "report.intended_use": "intended use",
    "report.limits": "limits",
    "report.data_origin": "origin of the data",
    "report.people": "people and records",
    "report.reference": "result to compare with",
}
"""What an operator may say, by the field of the experiment, as the page calls it."""

NOT_STATED = "not stated"
_LONGEST = 1000
_NAME = 100
_SITES = 40


def said(report: Report, field: str) -> str:
    """Return what an operator says in a field of the experiment, quoted; empty where nothing is said."""
    value = report.config.get(field)
    return quoted(short(value, _LONGEST)) if isinstance(value, str) and value.strip() else ""


def statements(report: Report) -> list[tuple[str, str]]:
    """Return all that the operator says, with the declared origins of encoder and public weights, each quoted."""
    rows = [(label, said(report, field)) for field, label in LABELS.items()]
    encoder = report.model.encoder
    if encoder is not None:
        rows.append(("origin of the encoder", quoted(short(f"{encoder.name}: {encoder.origin}", _LONGEST))))
    public = report.model.public
    if public is not None:
        rows.append(("origin of the public weights", quoted(short(public.origin, _LONGEST))))
    return [(label, text) for label, text in rows if text]


def called(report: Report) -> dict[int, str]:
    """Return the names that sites allow, quoted, by client. Of a name that others have too it says whose it is."""
    alike: dict[str, list[int]] = defaultdict(list)
    for site in report.data.sites:
        alike[_seen(site.name)].append(site.client)
    found = {}
    for site in report.data.sites:
        others = [str(client) for client in alike[_seen(site.name)] if client != site.client]
        what = f"client {others[0]} has" if len(others) == 1 else f"{count(len(others))} other clients have"
        found[site.client] = quoted(short(site.name, _NAME)) + (f"; {what} this name too" if others else "")
    return found


def _seen(name: str) -> str:
    return "".join(normalize("NFKC", name).casefold().split())


def names(report: Report) -> list[tuple[str, str]]:
    """Return the names that sites allow, of very many the first, by the number of the client."""
    rows = [(f"client {client}", name) for client, name in list(called(report).items())[:_SITES]]
    more = len(report.data.sites) - _SITES
    return [*rows, ("others", f"{count(more)} more; report.json has all")] if more > 0 else rows
