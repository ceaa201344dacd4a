"""Whether the promise is one, and was kept: its delta and its budgets."""

from fedtrain.privacy import claim
from fedtrain.report.audit.accounting import near
from fedtrain.report.audit.evidence import Evidence
from fedtrain.report.audit.verdict import Finding, decide


def delta(evidence: Evidence) -> Finding:
    """Delta is the plan's, and below one in the number of protected units."""
    told, spec = evidence.delta, evidence.plan.spec
    problems = []
    if told != spec.delta:
        problems.append(f"delta is {told:g} in the report, and {spec.delta:g} in the plan that the clients agreed to")
    if told >= 1 / spec.population:
        problems.append(f"delta is {told:g}, not below 1 / {spec.population:g}")
    clients = len(evidence.roster.clients)
    if spec.unit == "client" and spec.population > evidence.report.data.clients:
        problems.append(f"the plan protects {spec.population:g} clients, and there are {clients}")
    return decide(problems, f"delta {told:g} is the plan's, and below 1 / {spec.population:g} {spec.unit}s")


def budget(evidence: Evidence) -> Finding:
    """This run charged no client more than its budget, and no client spent more than its own, where it is known."""
    privacy, spec, told = evidence.report.privacy, evidence.plan.spec, evidence.delta
    problems = []
    if privacy.budget != spec.epsilon:
        problems.append(f"the budget is {privacy.budget} in the report, and {spec.epsilon} in the plan")
    for client, mine in evidence.spent.items():
        found = claim(mine.events(evidence.opened.run), told).epsilon
        if found > spec.epsilon and not near(spec.epsilon, found):
            problems.append(
                f"client {client}: this run charged epsilon {found:.6g}, beyond the budget of {spec.epsilon:g}"
            )
    problems += [
        f"client {entry.client}: epsilon {entry.epsilon:.6g} is beyond its own budget of {entry.budget:g}"
        for entry in privacy.clients
        if entry.budget is not None and entry.epsilon > entry.budget
    ]
    return decide(problems, f"this run charged no client more than epsilon {spec.epsilon:g}")
