"""What people say of a run, and nobody verifies: its operator in the experiment, and each site of its own name.

They are signed with the report, so that nobody can change them afterwards. That makes them no truer.
"""

from collections.abc import Mapping

from fedtrain.report.numbers import count, short
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
_SITES = 40


def said(report: Report, field: str) -> str:
    """Return what an operator says in a field of the experiment; empty where nothing is said."""
    value = report.config.get(field)
    return short(value, _LONGEST) if isinstance(value, str) else ""


def statements(report: Report) -> list[tuple[str, str]]:
    """Return all that the operator says, with the declared origin of an encoder."""
    rows = [(label, said(report, field)) for field, label in LABELS.items()]
    encoder = report.model.encoder
    if encoder is not None:
        rows.append(("origin of the encoder", short(f"{encoder.name}: {encoder.origin}", _LONGEST)))
    return [(label, text) for label, text in rows if text]


def names(report: Report) -> list[tuple[str, str]]:
    """Return the names that sites allow, of very many the first, by the number of the client."""
    sites = report.data.sites
    rows = [(f"client {site.client}", short(site.name, _LONGEST)) for site in sites[:_SITES]]
    more = len(sites) - _SITES
    return [*rows, ("others", f"{count(more)} more; report.json has all")] if more > 0 else rows
