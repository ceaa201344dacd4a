"""Put the report of a run together from its state."""

import platform
from collections import Counter, defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median_high
from typing import Literal

from fedtrain import __version__
from fedtrain.config import to_flat
from fedtrain.privacy import ACCOUNTANT, COARSE, PrivacyPlan, epsilon_of
from fedtrain.report import (
    SCHEMA,
    ClientPrivacy,
    DataSummary,
    Evaluations,
    Mechanism,
    ModelFile,
    ModelSummary,
    Privacy,
    PrivacyEvent,
    PrivacyPoint,
    Report,
)
from fedtrain.report.numbers import upper
from server.preparation import Preparation
from server.state import RunState

Status = Literal["completed", "interrupted", "failed"]

_SOFTWARE = ("torch", "opacus", "flwr", "dp-accounting", "cryptography", "numpy")
_SEEDED = "seeded fast generator, for simulation only: whoever knows the seed can remove the noise"


def build_report(
    preparation: Preparation,
    state: RunState,
    *,
    status: Status,
    reason: str | None,
    final: ModelFile | None,
    best: ModelFile | None,
) -> Report:
    """Return the report of a run that stands at ``state``."""
    experiment, info = preparation.experiment, preparation.store.info
    evaluations = state.evaluations
    return Report(
        schema=SCHEMA,
        fedtrain=__version__,
        name=experiment.name,
        created=datetime.now(UTC),
        status=status,
        reason=reason,
        rounds=state.round_number,
        planned_rounds=experiment.federation.rounds,
        seconds=state.seconds,
        config=to_flat(experiment),
        evaluation=Evaluations(final=evaluations[-1] if evaluations else None, best=state.best, history=evaluations),
        privacy=_none() if preparation.plan is None else _record(preparation, preparation.plan, state),
        data=DataSummary(
            kind=info.kind,
            shape=info.shape,
            classes=info.classes,
            train_records=len(preparation.store.train),
            test_records=len(preparation.store.test),
            clients=experiment.federation.clients,
            histogram=tuple(map(tuple, preparation.histogram.tolist())),
        ),
        round_log=state.round_log,
        model=ModelSummary(
            parameters=sum(parameter.numel() for parameter in preparation.model.parameters()), final=final, best=best
        ),
        software={"python": platform.python_version(), **{name: version(name) for name in _SOFTWARE}},
    )


def largest_epsilon(plan: PrivacyPlan, state: RunState, *, up_to: int) -> float:
    """Return a quick upper bound on the epsilon, after a round, of the client that was charged most."""
    counts = Counter(client for number, cohort in state.charged.items() if number <= up_to for client in cohort)
    most = max(counts.values(), default=0)
    return epsilon_of([plan.event(most * plan.spec.steps_per_round)], plan.spec.delta, discretization=COARSE)


def _rounds_by_client(state: RunState) -> dict[int, list[int]]:
    rounds: dict[int, list[int]] = defaultdict(list)
    for number, cohort in sorted(state.charged.items()):
        for client in cohort:
            rounds[client].append(number)
    return rounds


def _record(preparation: Preparation, plan: PrivacyPlan, state: RunState) -> Privacy:
    spec, clients = plan.spec, preparation.experiment.federation.clients
    rounds = _rounds_by_client(state)

    def epsilon(participations: int) -> float:
        return epsilon_of([plan.event(participations * spec.steps_per_round)], spec.delta)

    spent = tuple(
        ClientPrivacy(
            client=client,
            epsilon=epsilon(len(rounds[client])),
            rounds=tuple(rounds[client]),
            steps=len(rounds[client]) * spec.steps_per_round,
        )
        for client in range(clients)
    )
    largest = max(client.epsilon for client in spent)
    return Privacy(
        mode="record",
        epsilon=largest,
        delta=spec.delta,
        budget=spec.epsilon,
        unit="record",
        neighbouring="add or remove one record",
        mechanism=Mechanism(
            name="Poisson-sampled Gaussian",
            sampling_rate=spec.sampling_rate,
            noise_multiplier=plan.noise_multiplier,
            clip_norm=spec.clip_norm,
            steps_per_round=spec.steps_per_round,
            expected_batch_size=spec.divisor,
        ),
        accountant=f"{ACCOUNTANT}, dp-accounting {version('dp-accounting')}",
        random_source=_SEEDED,
        composition=(
            "for each client over all its steps of all rounds of this run; over clients, whose records are disjoint, "
            "the largest epsilon. A round is charged to every client that it was sent to, answered or not."
        ),
        statement=(
            f"Whoever sees every model of this run, the server included, can hardly tell whether any one record was "
            f"among a client's training records: the odds of any conclusion change by a factor of at most "
            f"exp({upper(largest)}), except with probability {spec.delta:g}. This holds for noise that nobody can "
            "predict; this run is a simulation with seeded noise, and shows what a deployment would promise."
        ),
        not_covered=(
            "The label histogram in this report, and the sizes of the data sets: read directly from the data.",
            "The test records: they are held by the server, and the best model is selected on them.",
            "Other runs on the same records: each has its own account, and their epsilons add up.",
            "Tuning: the choice of the configuration by earlier runs on the same records.",
            "Records that belong to one person: the unit is one record, not one person.",
        ),
        clients=spent,
        events=tuple(
            PrivacyEvent(
                client=client,
                round=number,
                sampling_rate=spec.sampling_rate,
                noise_multiplier=plan.noise_multiplier,
                steps=spec.steps_per_round,
            )
            for number, cohort in sorted(state.charged.items())
            for client in sorted(cohort)
        ),
        curve=_curve(plan, state, clients=clients, largest=largest),
    )


def _curve(plan: PrivacyPlan, state: RunState, *, clients: int, largest: float) -> tuple[PrivacyPoint, ...]:
    """Return epsilon after each round: coarse bounds, none above the last, which is exact."""
    counts = [0] * clients
    points = []

    def epsilon(participations: int) -> float:
        event = plan.event(participations * plan.spec.steps_per_round)
        return min(epsilon_of([event], plan.spec.delta, discretization=COARSE), largest)

    for number, cohort in sorted(state.charged.items()):
        for client in cohort:
            counts[client] += 1
        points.append(PrivacyPoint(round=number, max=epsilon(max(counts)), median=epsilon(median_high(counts))))
    if points:
        points[-1] = points[-1].model_copy(update={"max": largest})
    return tuple(points)


def _none() -> Privacy:
    return Privacy(
        mode="none",
        epsilon=None,
        delta=None,
        budget=None,
        unit="record",
        neighbouring="add or remove one record",
        mechanism=None,
        accountant="none",
        random_source="none",
        composition="none",
        statement="This run gives no privacy guarantee. Its models may reveal the records that they were trained on.",
        not_covered=("Everything.",),
        clients=(),
        events=(),
        curve=(),
    )
