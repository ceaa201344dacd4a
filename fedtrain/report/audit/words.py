"""Whether the words of the claim are those that follow from its mode, its plan and its noise."""

from fedtrain.report import grounds
from fedtrain.report.audit.evidence import Evidence
from fedtrain.report.audit.verdict import Finding, decide


def words(evidence: Evidence) -> Finding:
    """Who is bounded, who is trusted, what is promised and what is not covered: each as it follows, word by word.

    With secure noise nothing in the report may be read directly from the records: no charge would pay for it.
    """
    report, privacy = evidence.report, evidence.report.privacy
    plan, noise = evidence.plan, evidence.opened.noise
    mode = plan.spec.unit
    pairs: dict[str, tuple[object, object]] = {
        "adversaries": (privacy.adversaries, grounds.adversaries(mode, noise)),
        "trusted": (privacy.trusted, grounds.TRUSTED[mode]),
        "sampling": (privacy.sampling, grounds.sampling(plan)),
        "composition": (privacy.composition, grounds.COMPOSITION),
        "random_source": (privacy.random_source, grounds.RANDOM_SOURCE[noise]),
        "statement": (privacy.statement, grounds.statement(plan, privacy.epsilon or 0.0, noise)),
        "accesses_not_covered": (privacy.accesses_not_covered, grounds.accesses_not_covered(mode, noise)),
        "not_covered": (privacy.not_covered, grounds.NOT_COVERED),
    }
    problems = [
        f"privacy.{name} does not say what follows from the mode, the plan, the noise and epsilon"
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
    return decide(problems, "adversaries, trust, statement and gaps are those of the mode, the plan and the noise")
