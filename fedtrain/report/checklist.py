"""What NIST SP 800-226 asks of a claim of differential privacy, with what the report itself has to say to each point.

The publication (Near, Darais, Lefkovitz and Howarth 2025, doi.org/10.6028/NIST.SP.800-226) puts what matters into a
pyramid: on top the parameters and the unit, below them what can undermine a guarantee, and at the bottom the collection
of the data. The questions here are in our own words, in that order. A point to which a report says nothing is called
"not stated".
"""

from fedtrain.report.meaning import group
from fedtrain.report.numbers import count, exact, measured, percent, quoted, short, upper
from fedtrain.report.privacy import Privacy
from fedtrain.report.schema import Report
from fedtrain.report.statements import NOT_STATED, said
from fedtrain.report.tables import Table, sampling
from fedtrain.report.wording import title

_LONG = 1000


def checklist(report: Report) -> Table | None:
    """Return the points with the evidence of a report; ``None`` for one that claims no privacy."""
    privacy, mechanism = report.privacy, report.privacy.mechanism
    if privacy.epsilon is None or privacy.delta is None or mechanism is None:
        return None
    unbounded = [adversary.who for adversary in privacy.adversaries if not adversary.bounded]
    rows = [
        (
            "How strong is the guarantee?",
            _strength(privacy),
        ),
        ("What is the unit of privacy?", f"{group(privacy)} Neighbouring data sets: {privacy.neighbouring}."),
        ("How do records and people go together?", _stated(report, "report.people")),
        ("Does the guarantee cover every use of the data?", privacy.composition),
        (
            "Which algorithm, and which noise?",
            (
                f"{mechanism.name}, noise multiplier {exact(mechanism.noise_multiplier)}, clipping norm "
                f"{exact(mechanism.clip_norm)}; {privacy.random_source}"
            ),
        ),
        ("How are units sampled?", sampling(privacy)),
        (
            "Is the accounting right?",
            ", ".join(f"{one.role}: {upper(one.epsilon)} by {one.name} {one.version}" for one in privacy.accountants)
            + "; anyone can compute it again from the signed charges",
        ),
        ("Were parameters tuned on the same data?", _declared(privacy.tuning)),
        ("Whom does it rely on?", " ".join(privacy.trusted) or "nobody is listed"),
        ("From whom does it not protect?", "; ".join(unbounded) or "nobody is listed as unbounded"),
        (
            "What is not covered?",
            " ".join((*privacy.accesses_not_covered, *privacy.not_covered)) or "nothing is listed",
        ),
        ("How useful is the result, and for whom not?", _utility(report)),
        (
            "What is it meant for, and what not?",
            _stated(report, "report.intended_use", "report.limits"),
        ),
        ("Where are the data from?", _stated(report, "report.data_origin")),
        (
            "How are stored data and access to them secured?",
            f"{NOT_STATED}: a report knows nothing of the machines that hold records",
        ),
    ]
    return Table(headings=("question", "what this report says"), rows=rows)


def _declared(tuning: str) -> str:
    return (
        NOT_STATED
        if tuning == "not declared"
        else f"the operator declares, not verified: {quoted(short(tuning, _LONG))}"
    )


def _stated(report: Report, *fields: str) -> str:
    """Return what the operator says in some fields, and that it is the operator who says so."""
    texts = [text for field in fields if (text := said(report, field))]
    return f"the operator states, not verified: {' '.join(texts)}" if texts else NOT_STATED


def _strength(privacy: Privacy) -> str:
    assert privacy.epsilon is not None
    assert privacy.delta is not None
    text = f"epsilon {upper(privacy.epsilon)} at delta {exact(privacy.delta)}, for the client that spent most"
    if privacy.budget is not None:
        text += f"; this run may spend {exact(privacy.budget)}"
    if privacy.exceeded:
        text += f"; a budget is exceeded: {'; '.join(privacy.exceeded)}"
    if privacy.noise == "seeded":
        return f"none: a simulation protects nobody. A deployment with secure noise would have {text}"
    return text


def _utility(report: Report) -> str:
    """Return what was reached, what one constant answer reaches, and the classes that fare worst and best."""
    evaluation = report.evaluation
    metric, final = next(iter(evaluation.metrics), None), evaluation.final
    value = final.value(metric.name) if metric is not None and final is not None else None
    if metric is None or final is None or value is None:
        return NOT_STATED

    def shown(number: float) -> str:
        return measured(number, metric.direction, metric.format)

    text = f"{short(title(metric.name), 40)} {shown(value)}"
    if final.records is not None:
        text += f" on {count(final.records)} test records"
    baseline = (evaluation.baseline or {}).get(metric.name)
    text += "; baseline not stated" if baseline is None else f"; one answer for all of them reaches {shown(baseline)}"
    if final.per_class is not None and final.per_class.f1:
        text += f"; F1 of the classes {percent(min(final.per_class.f1))} to {percent(max(final.per_class.f1))}"
    return text
