"""Whether the ledgers that the runs of a sweep share have room for all of them, before the first is begun."""

from collections import defaultdict
from collections.abc import Sequence

from fedtrain.config import Experiment
from fedtrain.errors import ConfigError
from fedtrain.ledger.site import client_folder, find_policy
from fedtrain.privacy import COARSE, Event, epsilon_of
from fedtrain.privacy.mechanisms import adds_up, mechanism_of
from fedtrain.privacy.plan import PrivacyPlan
from fedtrain.sweep.declaration import same_split
from fedtrain.sweep.grid import Point


def check_room(points: Sequence[Point], plans: Sequence[PrivacyPlan | None]) -> None:
    """Refuse a sweep of which some run would surely be refused by the ledgers of ``federation.sites``.

    Runs charge the same ledgers where they have the same folder of sites, and each client the same records. Only what a
    run surely charges is counted: rounds in which all clients train, and whole runs that are reserved at once. Charges
    of runs outside of the sweep are not looked at, since a ledger is known by records that are not opened yet; clients
    look at them before they train.

    Args:
        points: the runs, in order.
        plans: of each; ``None`` without privacy.

    Raises:
        ConfigError: a run would go beyond the budget of a client, or protects something else than one before.
        PrivacySpecError: the composition cannot be bounded.
        SiteError: a site file cannot be used.
    """
    shared: dict[tuple[object, ...], list[tuple[Point, PrivacyPlan]]] = defaultdict(list)
    for point, plan in zip(points, plans, strict=True):
        if plan is not None and point.experiment.federation.sites is not None:
            shared[point.experiment.federation.sites, *same_split(point.experiment)].append((point, plan))
    for runs in shared.values():
        charged: list[Event] = []
        first = runs[0][0].experiment
        for place, (point, plan) in enumerate(runs):
            _check_sums(first, point)
            charged += _surely(point.experiment, plan)
            if place > 0:
                _check_budget(point, charged)


def _surely(experiment: Experiment, plan: PrivacyPlan) -> list[Event]:
    mechanism, federation = mechanism_of(experiment), experiment.federation
    if mechanism.reserves_run:
        return [mechanism.reservation(plan)]
    if federation.cohort < federation.clients:
        return []
    return [mechanism.event(plan, min(federation.rounds, plan.spec.rounds))]


def _check_sums(first: Experiment, point: Point) -> None:
    one, other = mechanism_of(first), mechanism_of(point.experiment)
    assert one.unit is not None  # they have plans
    assert other.unit is not None
    if not adds_up(one.unit, other.unit) or first.privacy.noise != point.experiment.privacy.noise:
        raise ConfigError(
            f"the run with {point.text} charges the ledgers of federation.sites that a run before it charges, and "
            "protects another unit or has another source of noise: their charges do not add up. Leave federation.sites "
            "out, so that each run has ledgers of its own"
        )


def _check_budget(point: Point, charged: Sequence[Event]) -> None:
    privacy = point.experiment.privacy
    limits = {
        (privacy.epsilon, privacy.delta) if policy is None else (policy.epsilon, policy.delta)
        for client in range(point.experiment.federation.clients)
        for policy in (find_policy(client_folder(point.experiment, client)),)
    }
    for epsilon, delta in sorted(limits):
        spent = epsilon_of(charged, delta, discretization=COARSE)
        if spent > epsilon and (spent := epsilon_of(charged, delta)) > epsilon:
            raise ConfigError(
                f"the run with {point.text} and those before it charge the same ledgers, of federation.sites, and "
                f"would bring epsilon to {spent:.4g}, beyond the budget of {epsilon:g} at delta {delta:g}: it would be "
                "refused when those before it are paid for. Leave runs out, or raise the budget in site.toml of the "
                "sites; without federation.sites each run has ledgers of its own"
            )
