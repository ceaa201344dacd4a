"""Reports that an earlier fedtrain wrote: they are read, they hold, and their claims are derived again, field by field.

They are independent of the code that derives the claim: it did not make them.
"""

import json
from pathlib import Path

import pytest

from fedtrain.audit import audit, read_report
from fedtrain.audit.evidence import Evidence
from fedtrain.config import from_flat
from fedtrain.report.claim import ClientLedger, derive_claim
from fedtrain.trust import Roster

FILES = sorted((Path(__file__).parent / "reports").glob("*.json"))


def read(file):
    vector = json.loads(file.read_bytes())
    return read_report(json.dumps(vector["report"]).encode()), Roster.from_json(vector["roster"])


def without_versions(privacy):
    plain = privacy.model_dump(mode="json")
    for accountant in plain["accountants"]:
        del accountant["version"]
    return plain


def near(value):
    """Return what equals a value up to what a claim has for rounding since, far below the tolerance of an audit."""
    if isinstance(value, dict):
        return {key: near(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [near(entry) for entry in value]
    return pytest.approx(value, rel=1e-6) if isinstance(value, float) else value


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_report_of_an_earlier_version_holds(file):
    report, roster = read(file)
    verdict = audit(report, roster=roster)
    outcome = "simulation" if report.privacy.noise == "seeded" else "holds"
    assert verdict.outcome == outcome, [check.detail for check in verdict.of("fails")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_claim_is_derived_again_in_every_field(file):
    report, roster = read(file)
    evidence = Evidence(report=report, pinned=roster, copies=())
    ledgers = {
        client: ClientLedger(entries=ledger.entries, head=ledger.head, stated=ledger.statement)
        for client, ledger in evidence.ledgers.items()
    }
    derived = derive_claim(from_flat(report.config), roster, evidence.records, ledgers, rounds=report.rounds)
    assert report.privacy.statement == evidence.earlier_statement
    known = report.privacy.model_copy(update={"statement": derived.statement})
    assert without_versions(derived) == near(without_versions(known))
