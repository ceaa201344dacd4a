"""Whether the guarantee is one, and was kept: its delta and its budgets."""

from fedtrain.audit.checks.accounting import near
from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide, not_proven
from fedtrain.config import from_flat
from fedtrain.errors import ConfigError
from fedtrain.privacy import claim
from fedtrain.privacy.mechanisms import mechanism_of_plan


def delta(evidence: Evidence) -> Finding:
    """Delta is the plan's, and below one in the number of protected units."""
    told, spec = evidence.delta, evidence.plan.spec
    problems = []
    if told != spec.delta:
        problems.append(f"delta is {told:g} in the report, and {spec.delta:g} in the plan that the clients agreed to")
    if told >= 1 / spec.population:
        problems.append(f"delta is {told:g}, not below 1 / {spec.population:g}")
    clients = _configured(evidence)
    if mechanism_of_plan(evidence.plan).counts_clients and spec.population != clients:
        problems.append(f"the plan protects {spec.population:g} clients, and the configuration has {clients}")
    return decide(problems, f"delta {told:g} is the plan's, and below 1 / {spec.population:g} {spec.unit}s")


def _configured(evidence: Evidence) -> int | None:
    """Return how many clients the configuration has; None if it cannot be read."""
    try:
        return from_flat(evidence.report.config).federation.clients
    except ConfigError:
        return None


def budget(evidence: Evidence) -> Finding:
    """This run charged no client more than its budget, and each client's own budget is the one that it signed."""
    privacy, spec, told = evidence.report.privacy, evidence.plan.spec, evidence.delta
    problems = []
    if privacy.budget != spec.epsilon:
        problems.append(f"the budget is {privacy.budget} in the report, and {spec.epsilon} in the plan")
    for client, mine in evidence.spent.items():
        found = claim(mine.events(evidence.first_record.run), told).epsilon
        if found > spec.epsilon and not near(spec.epsilon, found):
            problems.append(
                f"client {client}: this run charged epsilon {found:.6g}, beyond the budget of {spec.epsilon:g}"
            )
    for entry in privacy.clients:
        ledger = evidence.ledgers.get(entry.client)
        stated = None if ledger is None else ledger.statement
        own = None if stated is None or stated.delta != told else stated.epsilon
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
