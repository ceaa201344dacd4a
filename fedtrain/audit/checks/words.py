"""Whether the words of the claim are those that follow from its plan, its noise and its transport."""

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide
from fedtrain.report import wording
from fedtrain.report.transport import Transport


def words(evidence: Evidence) -> Finding:
    """Who is bounded, who is trusted, what is promised and what is not covered: each as it follows, word by word.

    With secure noise nothing in the report may be read directly from the records: no charge would pay for it.
    """
    report, privacy = evidence.report, evidence.report.privacy
    plan, noise, transport = evidence.plan, evidence.opened.noise, Transport.of(evidence.records)
    pairs: dict[str, tuple[object, object]] = {
        "adversaries": (privacy.adversaries, wording.adversaries(plan, noise, transport)),
        "trusted": (privacy.trusted, wording.trusted(plan, transport)),
        "sampling": (privacy.sampling, wording.sampling(plan)),
        "composition": (privacy.composition, wording.COMPOSITION),
        "random_source": (privacy.random_source, wording.RANDOM_SOURCE[noise]),
        "statement": (privacy.statement, wording.statement(plan, privacy.epsilon or 0.0, noise, transport)),
        "accesses_not_covered": (
            privacy.accesses_not_covered,
            wording.accesses_not_covered(plan, noise),
        ),
        "not_covered": (privacy.not_covered, wording.not_covered(plan, transport)),
    }
    problems = [
        f"privacy.{name} does not say what follows from the plan, the noise, the transport and epsilon"
        for name, (told, found) in pairs.items()
        if told != found
    ]
    if noise == "secure":
        counts = {"data.train_records": report.data.train_records, "data.histogram": report.data.histogram}
        problems += [
            f"{name} is read directly from the records, and with secure noise it must not be there"
            for name, told in counts.items()
            if told is not None
        ]
    return decide(problems, "adversaries, trust, statement and gaps are those of the plan, the noise and the transport")
