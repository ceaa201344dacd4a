"""What a run says of itself: its report, from its state and its signed records, and what it has spent so far."""

import os
import platform
import sys
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import distribution, version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

import fedtrain
from fedtrain import __version__
from fedtrain.config import to_flat
from fedtrain.data.types import Columns, DataInfo, Tokens
from fedtrain.encoders import Encoder
from fedtrain.errors import AppError, ConfigError
from fedtrain.flower.app import ENTRY_POINTS, shipped
from fedtrain.privacy import Event, merge
from fedtrain.privacy.mechanisms import mechanism_of_plan
from fedtrain.report import (
    SCHEMA,
    DataSummary,
    EncoderSummary,
    Evaluation,
    Evaluations,
    Groups,
    Intervals,
    ModelFile,
    ModelSummary,
    PublicSummary,
    Report,
    RoundEntry,
    SignedTrail,
    TextSample,
    best_of,
)
from fedtrain.report.claim import coarse, derive_claim, no_claim, site_names
from fedtrain.report.evaluation import LARGE
from fedtrain.serverapp import result_warnings
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.checkpoint import RunState
from fedtrain.serverapp.preparation import Preparation
from fedtrain.tasks import held_by, weights_of

Status = Literal["completed", "interrupted", "failed"]

# Numbers of a histogram beyond which it is in a file of its own.
_CELLS = 100_000

# Stands in a report's proof until the report is signed; its digest leaves the proof out.
_UNSIGNED = SignedTrail(roster={}, record=(), ledgers=())


def require_pictures() -> None:
    """Refuse to train where the report could not be drawn at the end.

    The library of the pictures takes half a second to load. It is tried where settings of the user's could keep it
    from loading, and waits for the end elsewhere.

    Raises:
        ConfigError: it does not load with them.
    """
    if not ({"MPLBACKEND", "MATPLOTLIBRC"} & os.environ.keys() or Path("matplotlibrc").exists()):
        return
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415 - what draws with it waits for the end
    except Exception as error:
        raise ConfigError(
            f"the report could not be drawn: matplotlib does not load, {type(error).__name__}: {error}; look at the "
            "variable MPLBACKEND, which names no window system here and may be unset, and at a file matplotlibrc in "
            "the current folder"
        ) from error


def build_report(
    preparation: Preparation,
    state: RunState,
    trail: AuditTrail | None,
    *,
    run: str,
    status: Status,
    reason: str | None,
    final: ModelFile | None,
    best: ModelFile | None,
    matrices: ModelFile | None = None,
    intervals: Intervals | None = None,
    groups: Groups | None = None,
    sample: TextSample | None = None,
) -> Report:
    """Return the report of a run that stands at ``state``, signed where the run has a trail.

    What `matrices_of` returns is left out of it, and is in a file of its own. How long a run took depends on how many
    trained: where cohorts are secret it is left out, and when the report was written is told to the day.

    Raises:
        StorageError: the closing record cannot be written.
    """
    experiment, info = preparation.experiment, preparation.store.info
    withheld, created = trail is not None and trail.withheld, datetime.now(UTC)
    if withheld:
        created = created.replace(hour=0, minute=0, second=0, microsecond=0)
    history, shown, owners = state.evaluations, preparation.shown_histogram, preparation.shown_owners
    evaluations = Evaluations(
        metrics=preparation.metrics,
        final=history[-1] if history else None,
        best=best_of(history, preparation.metrics),
        history=history,
        baseline=preparation.baseline,
        intervals=intervals,
        groups=groups,
    )
    log = tuple(_published(entry, withheld=withheld) for entry in state.round_log)
    report = Report(
        schema=SCHEMA,
        fedtrain=__version__,
        name=experiment.name,
        run=run,
        created=created,
        status=status,
        reason=reason,
        warnings=(
            *preparation.warnings,
            *result_warnings.of_rounds(log, owners),
            *result_warnings.of_unheard({} if trail is None else trail.unheard, owners),
            *result_warnings.of_results(evaluations, info.classes),
            *filter(None, [result_warnings.of_sample(sample, experiment.privacy.mode)]),
        ),
        rounds=state.round_number,
        planned_rounds=experiment.federation.rounds,
        seconds=0.0 if withheld else state.seconds,
        config=to_flat(experiment),
        evaluation=_without_matrices(evaluations),
        privacy=no_claim(experiment)
        if trail is None
        else derive_claim(experiment, trail.roster, trail.log.records, trail.ledgers, rounds=state.round_number),
        data=DataSummary(
            kind=info.kind,
            shape=info.shape,
            target=info.target.kind,
            classes=info.classes,
            train_records=preparation.shown_records,
            test_records=len(preparation.store.test),
            clients=experiment.federation.clients,
            histogram=None if shown is None or shown.size > _CELLS else tuple(map(tuple, shown.tolist())),
            owners=owners or None,
            features=info.columns,
            schema_digest=info.features.schema if isinstance(info.features, Columns) else None,
            sites=()
            if trail is None
            else site_names({client: trail.copies.stated(client) for client in trail.roster.clients}),
            vocabulary=_vocabulary(info),
            rate=info.rate,
        ),
        round_log=log,
        model=ModelSummary(
            parameters=_sent(preparation.model),
            final=final,
            best=best,
            gradients=preparation.gradients,
            encoder=_encoder(preparation.encoder),
            public=_public(preparation.model),
        ),
        sample=sample,
        matrices=matrices,
        software=software_versions(),
        software_digests=software_digests(),
        proof=None if trail is None else _UNSIGNED,
    )
    return report if trail is None else report.model_copy(update={"proof": trail.closed(report)})


def _encoder(encoder: Encoder | None) -> EncoderSummary | None:
    if encoder is None:
        return None
    return EncoderSummary(
        name=encoder.name,
        origin=encoder.origin,
        digest=encoder.digest,
        shape=encoder.info.shape,
        vocabulary=_vocabulary(encoder.info),
    )


def _sent(model: nn.Module) -> int:
    """Return how many numbers of a model are parameters, those aside that every machine has."""
    every = held_by(model) is None
    return sum(parameter.numel() for parameter in model.parameters() if every or parameter.requires_grad)


def _public(model: nn.Module) -> PublicSummary | None:
    held = held_by(model)
    if held is None:
        return None
    sent = sum(value.numel() * value.element_size() for value in weights_of(model).values())
    return PublicSummary(
        origin=held.origin,
        digest=held.digest,
        parameters=held.numbers,
        sent_bytes=sent,
        whole_bytes=sent + held.size,
    )


def _vocabulary(info: DataInfo) -> int | None:
    return info.features.vocabulary if isinstance(info.features, Tokens) else None


def matrices_of(preparation: Preparation, state: RunState) -> dict[str, NDArray[np.generic]]:
    """Return what is too large for a report, by name, each int64 of shape (rows, columns).

    ``confusion/final`` and ``confusion/best``: confusion matrices of more than 100 classes, of the last and the best
    evaluation. ``histogram``: training records of each client and class, where these are more than 100,000 numbers.
    """
    found: dict[str, NDArray[np.generic]] = {}
    best = best_of(state.evaluations, preparation.metrics)
    for evaluation in state.evaluations:
        if evaluation.confusion is None or len(evaluation.confusion) <= LARGE:
            continue
        matrix = np.asarray(evaluation.confusion, dtype=np.int64)
        if evaluation is state.evaluations[-1]:
            found["confusion/final"] = matrix
        if best is not None and best.round == evaluation.round:
            found["confusion/best"] = matrix
    shown = preparation.shown_histogram
    if shown is not None and shown.size > _CELLS:
        found["histogram"] = shown
    return found


def _without_matrices(evaluations: Evaluations) -> Evaluations:
    def without(evaluation: Evaluation) -> Evaluation:
        large = evaluation.confusion is not None and len(evaluation.confusion) > LARGE
        return evaluation.model_copy(update={"confusion": None}) if large else evaluation

    history = tuple(map(without, evaluations.history))
    return evaluations.model_copy(update={"history": history, "final": history[-1] if history else None})


def _published(entry: RoundEntry, *, withheld: bool) -> RoundEntry:
    """Return a round without its cohort, where the accounting relies on that being secret.

    How long the round took is left out too.
    """
    secret = {"cohort": None, "completed": None, "dropped": None, "seconds": 0.0}
    return entry.model_copy(update=secret) if withheld else entry


def largest_epsilon(trail: AuditTrail, *, up_to: int) -> float:
    """Return a quick upper bound on the largest epsilon after a round of this run."""
    return max(spent_epsilons(trail, up_to=up_to).values(), default=0.0)


def spent_epsilons(trail: AuditTrail, *, up_to: int) -> dict[int, float]:
    """Return a quick upper bound on the epsilon of each client after a round of this run, over all its runs."""
    asked = trail.participations(done=up_to)
    delta, event = trail.plan.spec.delta, mechanism_of_plan(trail.plan).event(trail.plan, 1)
    spent = {}
    for client in trail.roster.clients:
        mine = _charged(trail, client, up_to=up_to)
        # What was asked and is not known to be refused may have been spent.
        steps = asked[client] * trail.plan.spec.steps_per_round - sum(charged.steps for charged in mine)
        missing = [event.with_steps(steps)] if client not in trail.refused and steps > 0 else []
        spent[client] = coarse(merge([*trail.copies.totals(client).events_besides(trail.run), *mine, *missing]), delta)
    return spent


def _charged(trail: AuditTrail, client: int, *, up_to: int) -> tuple[Event, ...]:
    """Return what a client's ledger has charged for this run up to a round, those of one mechanism joined."""
    totals = trail.copies.totals(client)
    if totals.latest(trail.run) <= up_to:
        return totals.events_of(trail.run)
    return merge(
        entry.event
        for entry in trail.copies.entries(client)
        if entry.status == "reserved" and entry.run == trail.run and entry.round <= up_to
    )


_PACKAGES = ("torch", "opacus", "flwr", "dp-accounting", "cryptography", "numpy")


def software_versions() -> dict[str, str]:
    """Return the version of Python and of each package that the results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


@cache
def software_digests() -> dict[str, str]:
    """Return a SHA-256 for our own source files, and for each package.

    Of ours, over the names and bytes of all Python files of the library and of the app's entry points: the same from a
    checkout, from a wheel, and from Flower's copy of a bundle. Of a package, over the list of its files that was
    installed with it, which has a digest of each: it tells which release was installed, not whether its files were
    changed since.

    Raises:
        AppError: a file cannot be read.
    """
    library, app = Path(fedtrain.__file__).resolve().parent, entry_points()
    found = {f"fedtrain/{file.relative_to(library).as_posix()}": file for file in library.rglob("*.py")}
    # A wheel has the entry points inside of the library; those that run may be others.
    found = {name: file for name, file in found.items() if not name.startswith("fedtrain/app/")}
    found |= {name: app / name for name in ENTRY_POINTS}
    ours = sha256()
    for name, file in sorted(found.items()):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise AppError(f"cannot read {file}, which is a part of what runs: {error.strerror or error}") from error
        ours.update(f"{name} {len(data)}\n".encode())
        ours.update(data)
    installed = {name: (distribution(name).read_text("RECORD") or "").encode() for name in _PACKAGES}
    return {"fedtrain": ours.hexdigest(), **{name: sha256(data).hexdigest() for name, data in installed.items()}}


def entry_points() -> Path:
    """Return the folder that has ``server/app.py``: where Python imported it from, else where it is installed.

    Flower unpacks a bundle into a folder of its own and imports the entry points from there. A program that simulates
    may have a module of the same name, which is none of them.
    """
    module = sys.modules.get("server.app")
    file = getattr(module, "__file__", None)
    if file is None or not isinstance(module, ModuleType) or not _takes_from_server(module):
        return shipped()
    return Path(file).resolve().parent.parent


def _takes_from_server(module: ModuleType) -> bool:
    """Say whether a module has something of this package, as the entry point has ``run_experiment``."""
    server = __name__.rpartition(".")[0]
    names = (
        value.__module__ if isinstance(value, FunctionType) else value.__name__
        for value in list(vars(module).values())
        if isinstance(value, FunctionType | ModuleType)
    )
    return any(f"{name}.".startswith(f"{server}.") for name in names)
