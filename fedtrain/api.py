"""The Python API: plan, simulate and check experiments from a program or a notebook.

    from fedtrain import Experiment, plan, simulate

    experiment = Experiment.load("demo.toml", {"federation.rounds": 3})
    print(plan(experiment))
    run = simulate(experiment, out="runs/first")
    run.report.privacy.epsilon
    pandas.DataFrame(run.metrics)
    run.model()

Every name here is also a name of ``fedtrain`` itself. Errors are those of `fedtrain.errors`, as on the command line.
What takes seconds to import is imported by the function that needs it.
"""

# ruff: noqa: PLC0415

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedtrain.config import Experiment, from_flat, to_flat
from fedtrain.errors import ConfigError, ReportError, StorageError, UsageError
from fedtrain.files import current_folder
from fedtrain.progress import shown

if TYPE_CHECKING:
    from torch import nn

    from fedtrain.audit import Verdict
    from fedtrain.data import DataInfo, DataStore
    from fedtrain.data.given import MapStyle
    from fedtrain.ledger.budget import BudgetRow
    from fedtrain.report import Report
    from fedtrain.report.plan import PlanSummary
    from fedtrain.serverapp.events import Event
    from fedtrain.statistics import Estimates
    from fedtrain.tasks import CallerObjects, Task
    from fedtrain.trust import Roster


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that has ended, as its folder has it.

    Attributes:
        path: the run folder.
        report: its report.
        task: makes the task, where that was an object of the program; ``None`` for one that the report names.
    """

    path: Path
    report: "Report"
    task: "Callable[[DataInfo], object] | None" = field(default=None, repr=False)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row for each central evaluation: the round, what was measured as a number, and in a private run epsilon.

        ``pandas.DataFrame(run.metrics)`` makes a table of them. Measurements of single classes are in
        ``report.evaluation``.
        """
        spent = {point.round: point.max for point in self.report.privacy.curve}
        rows = []
        for evaluation in self.report.evaluation.history:
            data = evaluation.model_dump(mode="json", exclude_none=True)
            row = {name: value for name, value in data.items() if isinstance(value, int | float | str)}
            if self.report.proof is not None:
                row["epsilon"] = spent.get(evaluation.round, 0.0)
            rows.append(row)
        return rows

    def model(self, which: Literal["final", "best"] = "final") -> "nn.Module":
        """Return the trained model on the CPU, in evaluation mode.

        Args:
            which: the weights after the last round, or those of the best central evaluation.

        Raises:
            StorageError: the run has saved no such weights, or the file is not the one of the report.
            TaskError: the task was an object of the program that trained: give it to `load_run`.
        """
        import torch
        from safetensors.torch import load

        from fedtrain.tasks import build_model, load_weights
        from fedtrain.tasks.least_squares import LeastSquares

        weights = self.weights(which)
        task = self.made_task()
        with torch.random.fork_rng(devices=[]):
            model = task.fitted() if isinstance(task, LeastSquares) else build_model(task)
        load_weights(model, load(weights))
        return model.eval()

    def statistics(self) -> "Estimates":
        """Return the statistics of a run of the task "statistics", each with the standard error that noise gives it.

        They are read from the noisy sum in the run folder, by what is public: no privacy is spent.

        Raises:
            UsageError: the run is of another task.
            StorageError: the run has no sum, or the file is not the one of the report.
        """
        from safetensors.numpy import load

        from fedtrain.privacy.mechanisms import mechanism_of_plan, read_plan
        from fedtrain.tasks.column_statistics import ColumnStatistics

        task, mechanism = self.made_task(), self.report.privacy.mechanism
        if not isinstance(task, ColumnStatistics) or mechanism is None:
            raise UsageError(f'{self.path} is no run of task.name = "statistics"')
        if not self.report.round_log:
            raise StorageError(f"the run in {self.path} has no sum: its only round was not completed")
        clients = len(self.report.round_log[0].completed or ())
        plan = read_plan(mechanism.plan)
        return task.read(
            load(self.weights("final")),
            from_flat(self.report.config),
            noise=mechanism_of_plan(plan).deviation(plan, clients),
            units=plan.spec.divisor * clients,
        )

    @property
    def info(self) -> "DataInfo":
        """The schema of a record, as it is stored."""
        from fedtrain.data.types import DataInfo

        data = self.report.data
        schema = {"kind": data.kind, "shape": data.shape, "target": data.target, "names": data.classes}
        told = {"columns": data.features, "schema": data.schema_digest, "rate": data.rate}
        return DataInfo.from_json(schema | told | {"vocabulary": data.vocabulary})

    @property
    def encoded_info(self) -> "DataInfo":
        """The schema of a record as its task gets it: encoded, where the run has an encoder."""
        from fedtrain.data.types import Encoded, Tokens

        encoder = self.report.model.encoder
        if encoder is None:
            return self.info
        shape, vocabulary = encoder.shape, encoder.vocabulary
        features = Encoded(shape=shape) if vocabulary is None else Tokens(shape=shape, vocabulary=vocabulary)
        return replace(self.info, features=features)

    def made_task(self) -> "Task":
        """Return the task of the run, made anew.

        Raises:
            TaskError: it was an object of the program that trained, and is not the one given to `load_run`.
        """
        from fedtrain.tasks import build_task
        from fedtrain.tasks.least_squares import with_solver

        info, experiment = self.encoded_info, from_flat(self.report.config)
        return with_solver(build_task(experiment.task, info, self.task), experiment, info)

    def weights(self, which: Literal["final", "best"] = "final") -> bytes:
        """Return the file of the weights, as safetensors; raises `StorageError` where it is not that of the report."""
        saved = self.report.model.final if which == "final" else self.report.model.best
        if saved is None:
            raise StorageError(f"the run in {self.path} has saved no {which} model")
        file = self.path / f"model-{which}.safetensors"
        try:
            weights = file.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read the model {file}: {error.strerror or error}") from error
        if sha256(weights).hexdigest() != saved.sha256:
            raise StorageError(f"{file} is not the model of the report: its SHA-256 is another")
        return weights


def plan(experiment: Experiment) -> "PlanSummary":
    """Return the privacy plan of an experiment, with what it costs and what it buys. Nothing is trained.

    >>> private = {"mode": "record", "sampling_rate": 0.2, "epsilon": 2.0, "delta": 1e-3}
    >>> summary = plan(Experiment.from_dict({"privacy": private, "federation": {"rounds": 2}}))
    >>> summary.epsilon <= summary.budget == 2.0
    True

    ``print(summary)`` shows what ``fedtrain privacy plan`` does.

    Raises:
        UsageError: the experiment guarantees nothing.
        PrivacySpecError: its parameters cannot give the guarantee.
        ConfigError: its cohorts are too small for its strategy, so that no run would begin.
    """
    from fedtrain.report.plan import summarize_plan

    return summarize_plan(experiment)


def simulate(
    experiment: Experiment,
    *,
    out: str | Path | None = None,
    task: object = None,
    data: "DataStore | tuple[MapStyle, MapStyle] | None" = None,
    resume: bool = False,
    workers: int | None = None,
    on_event: "Callable[[Event], None] | None" = None,
) -> Run:
    """Run an experiment on this machine: the server here, the clients in worker processes.

    >>> tiny = {"federation": {"clients": 2, "cohort": 2, "rounds": 1}, "data.max_records": 40, "output.screen": "none"}
    >>> run = simulate(Experiment.from_dict(tiny), out="runs/tiny")
    >>> run.report.status, [row["round"] for row in run.metrics]
    ('completed', [0, 1])

    Ctrl-C, or an interrupt in a notebook, leaves a folder that ``resume=True`` goes on in.

    Args:
        experiment: what is trained.
        out: the run folder; by default ``output.directory``, or else a folder of its own in ``runs/``.
        task: a task in the place of the one that the experiment names: a class or function that takes the ``DataInfo``
            and returns a task, or a task, which is used as it is. It may be defined in a notebook.
        data: records in the place of those that the experiment names; ``data.partition`` still splits them. A
            `DataStore`, or a pair of map-style data sets (``torch.utils.data.Dataset``), training and test, whose items
            are features and target (`fedtrain.data.given`).
        resume: go on from the last checkpoint in the folder. A task or records that are objects must be those of
            before: the folder has the name of the task alone.
        workers: worker processes; by default as many as the machine or container has cores and memory for.
        on_event: called with each event of the run, in this thread. An error that it raises ends the run, as soon as
            the round in progress is saved, and is raised here; the folder can be resumed.

    Workers are copies of this process where ``task`` or ``data`` is given (`fedtrain.engine.forking`): that needs
    Linux, and a process that has not used CUDA.

    Raises:
        UsageError: the input cannot be used; nothing was trained.
        RunError: the run failed; its folder holds what was reached.
        KeyboardInterrupt: likewise, when a person stopped it.
    """
    from fedtrain.serverapp.run_folder import RunFolder

    experiment = _with_output(experiment, out, resume=resume)
    if not experiment.output.resume:
        RunFolder.of(experiment)  # before what takes seconds

    import torch

    from fedtrain.clientapp.app import make_client_app
    from fedtrain.flower.app import shipped
    from fedtrain.flower.simulation import open_grid, quiet_flower
    from fedtrain.serverapp.run import run_experiment
    from fedtrain.tasks import NO_OBJECTS

    with nullcontext() if experiment.output.screen == "none" else shown():
        experiment, objects = _with_objects(experiment, task, data)
    directory = experiment.output.directory
    with (
        quiet_flower(),
        _current_folder_last(),
        torch.random.fork_rng(devices=[]),
        open_grid(
            "fedtrain.clientapp.app:app" if objects is NO_OBJECTS else make_client_app(objects),
            shipped(),
            to_flat(experiment),
            nodes=experiment.federation.clients,
            workers=workers,
            state_folder=None if directory is None else Path(directory) / "clients",
            together=experiment.training.stacked,
        ) as grid,
    ):
        path = run_experiment(grid, experiment, objects=objects, on_event=on_event)
    return replace(load_run(path), task=objects.task)


def load_run(path: str | Path, *, task: object = None) -> Run:
    """Return the run of a folder.

    Args:
        path: the run folder.
        task: the task, where it was an object of the program that trained; only `Run.model` needs it.

    Raises:
        ReportError: the folder holds no report that can be read.
        TaskError: ``task`` is no task.
    """
    from fedtrain.audit import read_report
    from fedtrain.tasks import factory_of

    folder = Path(path)
    return Run(
        path=folder,
        report=read_report(_read(folder / "report.json")),
        task=None if task is None else factory_of(task)[1],
    )


def audit_report(
    report: Run | str | Path, *, roster: "Roster | str | Path | None" = None, ledgers: Iterable[str | Path] = ()
) -> "Verdict":
    """Check everything that a report claims about privacy, trusting nothing in it.

    ``verdict.outcome`` is ``holds``, ``refuted`` or, where the noise is seeded and protects nobody, ``simulation``;
    ``verdict.checks`` are what each check found, ``verdict.summary`` is all in words.

    Args:
        report: a run, its folder, or ``report.json``. What is read is the file.
        roster: the public keys that you trust, from elsewhere; without them nothing is proven about who signed.
        ledgers: ledger files that clients gave you.

    A report that is not as fedtrain writes it is refuted.

    Raises:
        ReportError: the report or a ledger file cannot be read.
        KeyFileError: the roster cannot be used.
    """
    from fedtrain.audit import audit_bytes, lies_in_run_folder
    from fedtrain.trust import Roster

    path = report.path if isinstance(report, Run) else Path(report)
    file = path / "report.json" if path.is_dir() else path
    data = _read(file)
    trusted = roster if roster is None or isinstance(roster, Roster) else Roster.read(Path(roster))
    elsewhere = not (isinstance(roster, str | Path) and lies_in_run_folder(Path(roster)))
    files = {str(given): _read(Path(given)) for given in ledgers}
    _, verdict = audit_bytes(data, roster=trusted, from_elsewhere=elsewhere, ledgers=files)
    return verdict


def budget(path: Run | str | Path, *, experiment: Experiment | None = None) -> "tuple[BudgetRow, ...]":
    """Return the spent and the remaining budget of each data set, and how many more rounds fit.

    Args:
        path: a run, or the folder of a run, of all sites or of one client.
        experiment: whose rounds are to fit; by default the last run's.

    Raises:
        SiteError: there are no ledgers, or a site file cannot be used.
        PrivacySpecError: the experiment spends nothing.
        LedgerError: a ledger is damaged.
    """
    from fedtrain.ledger.budget import budget_rows

    return budget_rows(path.path if isinstance(path, Run) else Path(path), experiment)


def _with_output(experiment: Experiment, out: str | Path | None, *, resume: bool) -> Experiment:
    """Return the experiment with the folder of its run, which has a name before clients keep ledgers in it."""
    output = experiment.output
    if out is not None and not str(out):
        raise ConfigError('out = "" names no folder: leave it out for one of its own in runs/, or write "."')
    directory = str(out) if out is not None else output.directory
    resume = resume or output.resume
    if directory is None and not resume:
        directory = f"runs/{experiment.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return experiment.model_copy(
        update={"output": output.model_copy(update={"directory": directory, "resume": resume})}
    )


def _with_objects(
    experiment: Experiment, task: object, data: "DataStore | tuple[MapStyle, MapStyle] | None"
) -> "tuple[Experiment, CallerObjects]":
    """Return the experiment as it is recorded, and what the caller gives in the place of what it names."""
    from fedtrain.data import partition
    from fedtrain.data.given import opened
    from fedtrain.tasks import NO_OBJECTS, factory_of

    objects, flat = NO_OBJECTS, to_flat(experiment)
    if task is not None:
        flat["task.name"], factory = factory_of(task)
        objects = replace(objects, task=factory)
    if data is not None:
        store, section = opened(data, experiment.data)
        split = partition(store, section, clients=experiment.federation.clients, seed=experiment.seed)
        flat["data.source"] = section.source
        objects = replace(objects, records=(store, split))
    return from_flat(flat), objects


@contextmanager
def _current_folder_last() -> Iterator[None]:
    """Look for a task of the user's own in the current folder too, where no other place has it: as the command does.

    Workers look where this process does.
    """
    folder = str(current_folder())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added:
            sys.path.remove(folder)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror or error}") from error
