"""What a command says as JSON of a run that it made: the figures of the report in the run folder."""

from pathlib import Path
from typing import Any

from fedtrain.report import Report


def summary(folder: Path | None, *, since: float) -> dict[str, Any]:
    """Return what a run folder's report says, if it was written since a time; an older one is of another run.

    Args:
        folder: the run folder; ``None`` where a run has none.
        since: seconds since 1970.
    """
    file = None if folder is None else folder / "report.json"
    if file is None or not file.is_file() or file.stat().st_mtime < since:
        return {}
    try:
        report = Report.model_validate_json(file.read_bytes())
    except ValueError:  # the app writes reports of another kind
        return {}
    final = report.evaluation.final
    return {
        "status": report.status,
        "rounds": report.rounds,
        "accuracy": final and final.accuracy,
        "metrics": {metric.name: final and final.value(metric.name) for metric in report.evaluation.metrics},
        "intervals": report.evaluation.intervals and report.evaluation.intervals.model_dump(mode="json"),
        "groups": report.evaluation.groups and report.evaluation.groups.model_dump(mode="json"),
        "baseline": report.evaluation.baseline,
        "warnings": list(report.warnings),
        "epsilon": report.privacy.epsilon,
        "delta": report.privacy.delta,
        "report": str(file.with_suffix(".html")),
    }
