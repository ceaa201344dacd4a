"""The verdict as one page that stands alone: no scripts, no requests, readable offline and on paper."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedtrain.audit.verdict import Verdict
from fedtrain.report.numbers import exact, short, upper
from fedtrain.report.schema import Report

_ENVIRONMENT = Environment(
    loader=PackageLoader("fedtrain.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(upper_bound=upper, exact=exact, short=short)


def render_audit(verdict: Verdict, report: Report, *, digest: str, files: int) -> str:
    """Return the verdict as a page.

    Args:
        verdict: what the audit found.
        report: the report that it is about.
        digest: SHA-256 of the report's bytes, in hexadecimal, so that the page says which file it is about.
        files: how many ledger files the auditor gave.
    """
    return _ENVIRONMENT.get_template("audit.html.j2").render(verdict=verdict, report=report, digest=digest, files=files)
