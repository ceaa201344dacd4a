"""Everything that is made once, before the first round."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedtrain.config import Experiment
from fedtrain.config.strategies import check_strategy, condition_of, results_needed
from fedtrain.data import (
    DataInfo,
    DataStore,
    Partitions,
    Split,
    client_names,
    format_histogram,
    label_histogram,
    lengths_of,
    open_simulated,
    open_test,
)
from fedtrain.data.cache import cache_folder, forget_pages
from fedtrain.encoders import Encoder, encoded, open_encoder
from fedtrain.errors import ConfigError, PrivacySpecError, TaskError
from fedtrain.ledger import find_policies
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.progress import working
from fedtrain.report import Metric
from fedtrain.report.numbers import count, counted, short
from fedtrain.report.parts import Way
from fedtrain.report.wording import called, listed
from fedtrain.seeding import derive_seed
from fedtrain.serverapp import run_warnings
from fedtrain.serverapp.checkpoint import Arrays
from fedtrain.serverapp.evaluation import try_task
from fedtrain.tasks import (
    NO_OBJECTS,
    CallerObjects,
    Records,
    Task,
    build_model,
    build_task,
    held_by,
    move_model,
    shared_names,
    weights_of,
)
from fedtrain.tasks.calls import resolve_device
from fedtrain.tasks.least_squares import LeastSquares, with_solver
from fedtrain.tasks.user_code import telling
from fedtrain.training import check_model, refused_alone
from fedtrain.training.stacked import why_not_stacked


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What the rounds work with.

    Attributes:
        store: the test records, and in a simulation the training records of all clients, as they are stored.
        inputs: the same as the model gets them: encoded, where there is an encoder.
        encoder: what computed them; ``None`` where they are as they are stored.
        histogram: training records, shape (clients, classes); ``None`` where they are on machines of their own, and
            where the target is no class.
        model: the initial model; also where weights are loaded into for evaluation.
        plan: the privacy plan; ``None`` without privacy.
        fitted: the layer that least squares fits from what is trained; ``None`` where that is evaluated as it is.
        metrics: how to read what the task measures; the first chooses the best model.
        slower: why the model trains slower than others, in words; empty where it does not.
        gradients: how clients compute the gradients of single records; ``None`` where they compute none.
        baseline: what the best constant answer reaches on the test records, by metric; ``None`` where it is not known.
        owners: the name of each client where it has one, in a simulation.
        warnings: what a person should know before anything is trained, and read in the report.
        private_warnings: what is read from training records beyond their counts: for the screen alone.
    """

    experiment: Experiment
    store: DataStore
    inputs: DataStore
    encoder: Encoder | None
    histogram: NDArray[np.int64] | None
    task: Task
    model: nn.Module
    plan: PrivacyPlan | None
    metrics: tuple[Metric, ...]
    fitted: nn.Module | None = None
    slower: str = ""
    gradients: Way | None = None
    baseline: dict[str, float] | None = None
    owners: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    private_warnings: tuple[str, ...] = ()

    @property
    def shown_records(self) -> int | None:
        """The number of training records where it is known and may be shown.

        With secure noise nothing is shown that is read directly from the data.
        """
        records = len(self.store.train)
        return records if records and _shows(self.experiment, self.plan) else None

    @property
    def shown_histogram(self) -> NDArray[np.int64] | None:
        """The histogram where the number of records may be shown."""
        return None if self.shown_records is None else self.histogram

    @property
    def shown_owners(self) -> tuple[str, ...]:
        """The names of the clients where the number of records may be shown, and there are names."""
        return () if self.shown_records is None else self.owners

    @property
    def released_model(self) -> nn.Module:
        """The model that is evaluated and saved."""
        return self.model if self.fitted is None else self.fitted

    def released(self, trained: Arrays) -> Arrays:
        """Return the weights that are evaluated and saved: what is trained, or what least squares makes of it."""
        if not isinstance(self.task, LeastSquares) or self.plan is None:
            return trained
        cohort = self.experiment.federation.cohort
        return self.task.solve(trained, noise=mechanism_of(self.experiment).deviation(self.plan, cohort))


def prepare(experiment: Experiment, *, deployed: bool = False, objects: CallerObjects = NO_OBJECTS) -> Preparation:
    """Open the data, build task and model, and make the privacy plan.

    Args:
        experiment: the experiment.
        deployed: whether clients are on machines of their own, and their training records with them.
        objects: what is trained in the place of what the experiment names.

    Raises:
        UsageError: what cannot be used, before anything is trained.
    """
    check_strategy(experiment)
    _refuse_deployed(experiment, deployed=deployed)
    device = resolve_device(experiment.device)
    plan = None
    mechanism = mechanism_of(experiment)
    if mechanism.private:
        with working("finding the noise that keeps the budget"):
            plan = mechanism.plan(experiment)
        if deployed and experiment.privacy.noise == "seeded":
            raise PrivacySpecError(
                'privacy.noise = "seeded" is for simulations: anyone with the seed can subtract the noise; set "secure"'
            )
        if not deployed:
            # A simulated client's site file is here: what is wrong with it is better said before anything is trained.
            find_policies(experiment)
    store, partitions = (open_test(experiment.data), None) if deployed else _simulated(experiment, objects)
    encoder = open_encoder(experiment.task, store.info, device=device, deployed=deployed)
    inputs = store if encoder is None else _encoded(store, encoder, cache_folder(experiment.data.cache))
    task = with_solver(build_task(experiment.task, inputs.info, objects.task), experiment, inputs.info)
    torch.manual_seed(derive_seed(experiment.seed, "model"))
    model = build_model(task)
    with telling("shared of the task"):
        shared = shared_names(task, model)
    metrics = metrics_of(task)
    fitted = task.fitted().to(device) if isinstance(task, LeastSquares) else None
    try_task(task, model, metrics, inputs.test, device=device, measured=fitted)
    with working("trying the model on synthetic records"):
        checked = check_model(model, mechanism.requires, task=task, info=inputs.info)
    owners, histogram, shown = tuple[str, ...](), None, None
    if partitions is not None:
        owners = client_names(store, experiment.data)
        histogram = label_histogram(store, partitions) if store.info.target.kind == "class" else None
        sizes = np.diff(partitions.offsets).tolist()
        shown = _Shown(sizes=sizes, owners=owners, histogram=histogram) if _shows(experiment, plan) else None
    with working("looking at the ranges of the records"):
        found, private = _looked_at(experiment, store, inputs, shown, task, model)
    for each in (store.train, store.test, inputs.train, inputs.test):
        forget_pages(each.features)
    found += [run_warnings.of_statistics(experiment, model), run_warnings.of_adapters(experiment, shared)]
    model = move_model(model, device)
    found.append(_stacking(experiment, model, task, inputs.info))
    if plan is not None:
        trained = sum(value.numel() for name, value in weights_of(model).items() if name in shared)
        if mechanism.shares_noise:
            plan.grid.check_length(trained)
            found.append(run_warnings.of_shares(plan))
        found.append(run_warnings.of_noise(plan, experiment, trained))
        if shown is not None:
            found += run_warnings.of_sizes(plan, shown.sizes, shown.owners)
    return Preparation(
        experiment=experiment,
        store=store,
        inputs=inputs,
        encoder=encoder,
        histogram=histogram,
        task=task,
        model=model,
        plan=plan,
        metrics=metrics,
        fitted=fitted,
        slower=checked.notice if checked else "",
        gradients=checked.way if checked else None,
        baseline=baseline_of(task, inputs),
        owners=owners,
        warnings=tuple(filter(None, found)),
        private_warnings=tuple(filter(None, private)),
    )


def _refuse_deployed(experiment: Experiment, *, deployed: bool) -> None:
    if deployed and experiment.training.stacked > 1:
        raise ConfigError(
            f"training.stacked = {experiment.training.stacked} is for a simulation, where one process trains several "
            "clients, and these clients are on machines of their own; leave it at 1"
        )


def _stacking(experiment: Experiment, model: nn.Module, task: Task, info: DataInfo) -> str:
    """Say why clients do not train at once, where several are to."""
    if experiment.training.stacked == 1:
        return ""
    with working("trying whether clients can train at once"):
        return run_warnings.of_stacking(why_not_stacked(model, task, info))


def _shows(experiment: Experiment, plan: PrivacyPlan | None) -> bool:
    """Say whether what is read from training records may be shown: with secure noise nothing is."""
    return plan is None or experiment.privacy.noise == "seeded"


def _simulated(experiment: Experiment, objects: CallerObjects) -> tuple[DataStore, Partitions]:
    clients = experiment.federation.clients
    return objects.records or open_simulated(experiment.data, clients=clients, seed=experiment.seed)


def _encoded(store: DataStore, encoder: Encoder, cache: Path) -> DataStore:
    """Return the records with the features of an encoder: all of a simulation, before clients wait for them."""
    train = encoded(store.train, encoder, cache) if len(store.train) else store.train
    return replace(store, info=encoder.info, train=train, test=encoded(store.test, encoder, cache))


class _Shown(NamedTuple):
    """What may be shown of the training records of a simulation: how many each client has, and their names."""

    sizes: list[int]
    owners: tuple[str, ...]
    histogram: NDArray[np.int64] | None


def _looked_at(
    experiment: Experiment,
    store: DataStore,
    inputs: DataStore,
    shown: _Shown | None,
    task: Task,
    model: nn.Module,
) -> tuple[list[str], list[str]]:
    """Return what is to be said of the records: in the report, and on the screen alone.

    Args:
        experiment: the experiment.
        store: the records.
        inputs: the records as the model gets them.
        shown: the clients' numbers of records where training records may be looked at; ``None`` where not.
        task: the task.
        model: a model of it.

    Raises:
        TaskError: the model cannot be trained on a batch of one record, and there would be no other.
    """
    found = run_warnings.of_ranges(task, inputs.test, inputs.info, which="test")
    single = "" if mechanism_of(experiment).requires.per_record_gradients else _refused_alone(model, task, inputs.test)
    if single and (experiment.training.batch_size == 1 or (shown is not None and max(shown.sizes) == 1)):
        raise TaskError(
            f"the model cannot be trained on a batch of one record, and there would be no other: {single}. Set "
            "training.batch_size to 2 or more, give clients more records, or use a model that normalises each record "
            "alone, for example with GroupNorm"
        )
    both = (store, inputs)
    cut = dict.fromkeys(run_warnings.of_lengths(each.test, each.info, which="test") for each in both)
    if shown is None:
        return [*found, *cut], []
    private = [] if found else run_warnings.of_ranges(task, inputs.train, inputs.info, which="training")
    private += dict.fromkeys(run_warnings.of_lengths(each.train, each.info, which="training") for each in both)
    private.append(run_warnings.of_overlap(store.train, store.test))
    found.append(run_warnings.of_single_records(shown.sizes, shown.owners, single))
    if shown.histogram is not None:
        found += run_warnings.of_classes(shown.histogram, store.test, store.info.classes)
    return [*found, *cut], private


def _refused_alone(model: nn.Module, task: Task, test: Split) -> str:
    rows = [0, len(test) - 1]
    two = Records(features=torch.from_numpy(test.features[rows]), targets=torch.from_numpy(test.targets[rows]))
    with telling("collate of the task"):
        return refused_alone(model, task, two)


def baseline_of(task: Task, records: DataStore) -> dict[str, float] | None:
    """Return what the best constant answer reaches on the test records, where the task's metrics say it.

    They are asked with the targets; of a text that is its own target, with the tokens.

    Raises:
        TaskError: they say something else than a finite number for each of some names.
    """
    measured = getattr(task.metrics(), "baseline", None)
    if not callable(measured):
        return None
    asked = records.test.features if records.info.target.kind == "text" else records.test.targets
    with telling("baseline of the task's metrics"):
        found: object = measured(torch.from_numpy(np.array(asked)))
    if not isinstance(found, Mapping):
        raise TaskError(f"baseline of the task's metrics is to return a number for each metric by name: {_MAPPING}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, int | float) or not isfinite(value):
            raise TaskError(f"baseline of the task's metrics has {value!r} for {name!r}, no finite number: {_MAPPING}")
    return {name: float(value) for name, value in found.items()}


_MAPPING = 'for example {"accuracy": 0.9}; leave out what is not known, and write float(...) around a tensor'


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return how to read what the task measures, as a report holds it; the first chooses the best model.

    Raises:
        TaskError: the task's metrics do not say so.
    """
    with telling("metrics of the task"):
        metrics = task.metrics()
    if not hasattr(metrics, "described"):
        raise TaskError(
            f"the metrics of the task, of type {type(metrics).__name__}, have no `described`: a tuple of "
            "fedtrain.tasks.Metric, the first of which chooses the best model; an empty one chooses none"
        )
    found: object = metrics.described
    try:
        return tuple(
            Metric(name=metric.name, direction=metric.direction, format=metric.format)
            for metric in cast("Iterable[Metric]", found)
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise TaskError(
            f"`described` of the task's metrics is {found!r:.80}, and is to be a tuple (no method) of "
            'fedtrain.tasks.Metric, each with a name, a direction ("higher" or "lower") and a format ("percent" or '
            '"number")'
        ) from error


def _of_public(model: nn.Module) -> str:
    """Say of a model with public weights how much travels, and where they come from; nothing of another one."""
    held = held_by(model)
    if held is None:
        return ""
    sent = sum(value.numel() for value in weights_of(model).values())
    return (
        f"model: {count(sent)} numbers are sent, and {count(held.numbers)} frozen ones are on every machine; origin: "
        f"{short(held.origin, 200)}\n"
    )


def introduction(preparation: Preparation) -> str:
    """Say what is trained, by whom and under which guarantee."""
    experiment, info = preparation.experiment, preparation.store.info
    federation = experiment.federation
    planned = counted(federation.rounds, "round")
    text = f"{experiment.name}: {planned}, {federation.cohort} of {federation.clients} clients a round, "
    records = "" if preparation.shown_records is None else f"{preparation.shown_records} training and "
    text += f"{records}{len(preparation.store.test)} test records\n"
    if info.columns:
        text += f"features: {listed(info.columns)}\n"
    if preparation.shown_records is not None and (lengths := lengths_of(preparation.store.train, info)):
        text += f"training {lengths}\n"
    if lengths := lengths_of(preparation.store.test, info):
        text += f"test {lengths}\n"
    if (encoder := preparation.encoder) is not None:
        shape = "x".join(map(str, encoder.info.shape))
        text += f"encoder: {short(encoder.name, 60)}, {shape} numbers for each record; "
        text += f"origin: {short(encoder.origin, 200)}\n"
    text += _of_public(preparation.model)
    owners = preparation.shown_owners
    if (histogram := preparation.shown_histogram) is not None:
        table = format_histogram(histogram, info.classes, owners)
        text += f"training records of each client and class:\n{table}\n"
    elif owners:
        text += f"{called(range(len(owners)), owners)}\n"
    metric, baseline = next(iter(preparation.metrics), None), preparation.baseline or {}
    if metric is not None and metric.name in baseline:
        text += f"baseline: one answer for all test records reaches {metric.name} {baseline[metric.name]:.4f}\n"
    if effect := condition_of(experiment).effect:
        text += f"{experiment.server.strategy} {effect}; a round needs {results_needed(experiment)} results\n"
    if (plan := preparation.plan) is None:
        return f"{text}no privacy: no guarantee is given"
    spec, noise = plan.spec, experiment.privacy.noise
    whose = mechanism_of(experiment).protects
    source = "noise from a seed, for simulation only" if noise == "seeded" else "noise that cannot be repeated"
    return (
        f"{text}{spec.unit} privacy: epsilon <= {spec.epsilon:g} at delta {spec.delta:g} {whose}, noise multiplier "
        f"{plan.noise_multiplier:g}, sampling rate {spec.sampling_rate:g}, {spec.steps} steps; {source}"
    )
