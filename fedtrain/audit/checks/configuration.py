"""Whether the plan, and what else follows from it, is that of the configuration in the report."""

from dataclasses import fields

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide, fails
from fedtrain.config import Experiment, from_flat
from fedtrain.errors import ConfigError, PrivacySpecError
from fedtrain.privacy import PrivacySpec
from fedtrain.privacy.mechanisms import mechanism_of, mechanism_of_plan


def configuration(evidence: Evidence) -> Finding:
    """The configuration gives the spec of the plan again, and the report repeats it truly.

    Mode and noise must be there: a key that is missing would be taken for its default.
    """
    report, plan = evidence.report, evidence.plan
    problems = [
        f"{key} is missing from the configuration"
        for key in ("privacy.mode", "privacy.noise")
        if key not in report.config
    ]
    try:
        experiment = from_flat(report.config)
        spec = mechanism_of(experiment).spec(experiment)
    except (ConfigError, PrivacySpecError, ValueError, ArithmeticError) as error:
        return fails("; ".join([*problems, f"the configuration gives no plan: {error}"]))
    problems += [
        f"{field.name} is {getattr(spec, field.name)} by the configuration, and {getattr(plan.spec, field.name)} in "
        "the plan"
        for field in fields(PrivacySpec)
        if getattr(spec, field.name) != getattr(plan.spec, field.name)
    ]
    problems += _repeated(evidence, experiment)
    problems += _clients(evidence, experiment)
    return decide(problems, "it gives the parameters of the plan, the noise, the rounds and the clients again")


def _repeated(evidence: Evidence, experiment: Experiment) -> list[str]:
    report, privacy = evidence.report, experiment.privacy
    pairs = {
        "the mode": (privacy.mode, report.privacy.mode),
        "the noise": (privacy.noise, report.privacy.noise),
        "the tuning": (privacy.tuning, report.privacy.tuning),
        "the name": (experiment.name, report.name),
        "planned_rounds": (experiment.federation.rounds, report.planned_rounds),
        "the noise multiplier": (
            evidence.plan.noise_multiplier if privacy.noise_multiplier is None else privacy.noise_multiplier,
            evidence.plan.noise_multiplier,
        ),
    }
    return [
        f"{name} is {given} by the configuration, and {told} in the report"
        for name, (given, told) in pairs.items()
        if given != told
    ]


def _clients(evidence: Evidence, experiment: Experiment) -> list[str]:
    """Say where the number of clients is another than the configuration's. In client privacy delta rests on it."""
    configured, spec, known = experiment.federation.clients, evidence.plan.spec, len(evidence.roster.clients)
    counts = {"data.clients": evidence.report.data.clients, "the opening": evidence.first_record.clients}
    if mechanism_of_plan(evidence.plan).counts_clients:
        counts["the plan's population"] = int(spec.population)
    problems = [
        f"there are {configured} clients by the configuration, and {count} by {name}"
        for name, count in counts.items()
        if count != configured
    ]
    if known > configured:
        problems.append(f"there are {configured} clients by the configuration, and {known} in the roster")
    return problems
