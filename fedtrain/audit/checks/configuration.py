"""Whether the plan, and what else follows from it, is that of the configuration, and whether its guarantee was kept."""

from dataclasses import fields

from fedtrain.audit.checks.accounting import near
from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide, fails, not_proven
from fedtrain.config import Experiment, from_flat
from fedtrain.config.sections import ADAPTED
from fedtrain.errors import ConfigError, PrivacySpecError
from fedtrain.privacy import PrivacySpec, claim
from fedtrain.privacy.mechanisms import mechanism_of, mechanism_of_plan
from fedtrain.privacy.spec import counted_of


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
        asked = mechanism_of(experiment)
        spec = asked.spec(experiment)
    except (ConfigError, PrivacySpecError, ValueError, ArithmeticError) as error:
        return fails("; ".join([*problems, f"the configuration gives no plan: {error}"]))
    problems += [
        f"{field.name} is {getattr(spec, field.name)} by the configuration, and {getattr(plan.spec, field.name)} in "
        "the plan"
        for field in fields(PrivacySpec)
        if getattr(spec, field.name) != getattr(plan.spec, field.name)
    ]
    if asked is not (planned := mechanism_of_plan(plan)):
        problems.append(f"the mechanism is {asked.kind} by the configuration, and {planned.kind} in the plan")
    problems += _repeated(evidence, experiment)
    problems += _clients(evidence, experiment)
    problems += _public(evidence, experiment)
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
    if experiment.data.schema_digest is not None:
        pairs["data.schema_digest"] = (experiment.data.schema_digest, report.data.schema_digest)
    return [
        f"{name} is {given} by the configuration, and {reported} in the report"
        for name, (given, reported) in pairs.items()
        if given != reported
    ]


def _public(evidence: Evidence, experiment: Experiment) -> list[str]:
    """Say where the report tells of public weights other than the configuration does.

    What a task of one's own declares is not in the configuration. The page of the report quotes it as not checked.
    """
    task, public = experiment.task, evidence.report.model.public
    problems = []
    if ":" not in task.name:
        origin = ADAPTED.get(task.model or "")
        if origin is None and public is not None:
            problems.append(
                f'the report has public weights, and the model of task.name = "{task.name}" has none by the '
                "configuration"
            )
        if origin is not None and public is None:
            problems.append(f'task.model = "{task.model}" has public weights, and the report names none')
        if origin is not None and public is not None and not public.origin.endswith(f"; fitted on {origin}"):
            problems.append(f'the public weights of task.model = "{task.model}" have another origin in the report')
    if public is not None and public.whole_bytes < public.sent_bytes + public.parameters:
        problems.append(
            f"the model has {public.parameters} public weights, and is {public.whole_bytes} bytes with them and "
            f"{public.sent_bytes} without"
        )
    return problems


def _clients(evidence: Evidence, experiment: Experiment) -> list[str]:
    """Say where the number of clients is another than the configuration's. In client privacy delta rests on it."""
    configured, spec, known = experiment.federation.clients, evidence.plan.spec, len(evidence.roster.clients)
    counts = {"data.clients": evidence.report.data.clients, "the first record": evidence.first_record.clients}
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


def delta(evidence: Evidence) -> Finding:
    """Delta is the plan's, and below one in the number of protected units."""
    reported, spec = evidence.delta, evidence.plan.spec
    problems = []
    if reported != spec.delta:
        problems.append(
            f"delta is {reported:g} in the report, and {spec.delta:g} in the plan that the clients agreed to"
        )
    if reported >= 1 / spec.population:
        problems.append(f"delta is {reported:g}, not below 1 / {spec.population:g}")
    clients = _configured(evidence)
    if mechanism_of_plan(evidence.plan).counts_clients and spec.population != clients:
        problems.append(f"the plan protects {spec.population:g} clients, and the configuration has {clients}")
    counted, constants = counted_of(spec.unit)
    implied = f" that {constants} implies" if constants else ""
    held = f"delta {reported:g} is the plan's, and below 1 / {spec.population:.6g}, the {counted}{implied}"
    return decide(problems, held)


def _configured(evidence: Evidence) -> int | None:
    """Return how many clients the configuration has; None if it cannot be read."""
    try:
        return from_flat(evidence.report.config).federation.clients
    except ConfigError:
        return None


def budget(evidence: Evidence) -> Finding:
    """This run charged no client more than its budget, and each client's own budget is the one that it signed."""
    privacy, spec, reported = evidence.report.privacy, evidence.plan.spec, evidence.delta
    problems = []
    if privacy.budget != spec.epsilon:
        problems.append(f"the budget is {privacy.budget} in the report, and {spec.epsilon} in the plan")
    for client, mine in evidence.spent.items():
        found = claim(mine.events(evidence.first_record.run), reported).epsilon
        if found > spec.epsilon and not near(spec.epsilon, found):
            problems.append(
                f"client {client}: this run charged epsilon {found:.6g}, beyond the budget of {spec.epsilon:g}"
            )
    for entry in privacy.clients:
        ledger = evidence.ledgers.get(entry.client)
        stated = None if ledger is None else ledger.statement
        own = None if stated is None or stated.delta != reported else stated.epsilon
        if entry.budget != own:
            problems.append(
                f"client {entry.client}: its own budget is {entry.budget} in the report, and it signed {own}"
            )
    beyond = [
        f"client {entry.client}: epsilon {entry.epsilon:.6g} is beyond its own budget of {entry.budget:g}, which it "
        "may have lowered since, or by rounds that it left unanswered"
        for entry in privacy.clients
        if entry.budget is not None and entry.epsilon > entry.budget
    ]
    if beyond and not problems:
        return not_proven(beyond[0])
    return decide(problems, f"this run charged no client more than epsilon {spec.epsilon:g}")
