"""Put the report of a run together from its state and its signed records."""

from datetime import UTC, datetime
from typing import Literal

from fedtrain import __version__
from fedtrain.config import to_flat
from fedtrain.report import (
    SCHEMA,
    DataSummary,
    Evaluations,
    ModelFile,
    ModelSummary,
    Report,
    RoundEntry,
    SignedTrail,
    best_of,
)
from fedtrain.report.claim import derive_claim, no_claim
from fedtrain.serverapp import software
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.checkpoint import RunState
from fedtrain.serverapp.preparation import Preparation

Status = Literal["completed", "interrupted", "failed"]

# Stands in a report's proof until the report is signed; its digest leaves the proof out.
_UNSIGNED = SignedTrail(roster={}, record=(), ledgers=())


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
) -> Report:
    """Return the report of a run that stands at ``state``, signed where the run has a trail.

    Raises:
        StorageError: the closing record cannot be written.
    """
    experiment, info = preparation.experiment, preparation.store.info
    evaluations, shown = state.evaluations, preparation.shown_histogram
    report = Report(
        schema=SCHEMA,
        fedtrain=__version__,
        name=experiment.name,
        run=run,
        created=datetime.now(UTC),
        status=status,
        reason=reason,
        rounds=state.round_number,
        planned_rounds=experiment.federation.rounds,
        seconds=state.seconds,
        config=to_flat(experiment),
        evaluation=Evaluations(
            metrics=preparation.metrics,
            final=evaluations[-1] if evaluations else None,
            best=best_of(evaluations, preparation.metrics),
            history=evaluations,
        ),
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
            histogram=None if shown is None else tuple(map(tuple, shown.tolist())),
        ),
        round_log=tuple(_published(entry, withheld=trail is not None and trail.withheld) for entry in state.round_log),
        model=ModelSummary(
            parameters=sum(parameter.numel() for parameter in preparation.model.parameters()), final=final, best=best
        ),
        software=software.versions(),
        software_digests=software.digests(),
        proof=None if trail is None else _UNSIGNED,
    )
    return report if trail is None else report.model_copy(update={"proof": trail.closed(report)})


def _published(entry: RoundEntry, *, withheld: bool) -> RoundEntry:
    """Return a round without its cohort, where the accounting relies on that being secret.

    How long the round took depends on how many trained, and is left out too.
    """
    secret = {"cohort": None, "completed": None, "dropped": None, "seconds": 0.0}
    return entry.model_copy(update=secret) if withheld else entry
