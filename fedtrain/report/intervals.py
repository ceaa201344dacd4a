"""The table of intervals on the page of a report, and the interval of the headline."""

from fedtrain.report.evaluation import Evaluations, Interval, Metric
from fedtrain.report.numbers import between, count, measured, short
from fedtrain.report.tables import Table
from fedtrain.report.wording import title

_NONE = "no interval"


def headline_interval(evaluations: Evaluations) -> str:
    """Return the interval of the metric that chooses the best model, after the last round; empty without one."""
    for metric in evaluations.metrics[:1]:
        if (found := evaluations.interval(metric.name)) is not None:
            return _shown(metric, found)
    return ""


def interval_table(evaluations: Evaluations) -> Table | None:
    """Return each metric with its interval, after the last and the best round; ``None`` where there are none."""
    intervals, final, best = evaluations.intervals, evaluations.final, evaluations.best
    if intervals is None or final is None:
        return None
    columns = {f"after round {count(final.round)}": (final, intervals.final)}
    if intervals.best is not None and best is not None:
        (evaluation,) = (each for each in evaluations.history if each.round == best.round)
        columns[f"best, round {count(best.round)}"] = (evaluation, intervals.best)
    rows = []
    for metric in evaluations.metrics:
        row = [short(title(metric.name), 40)]
        for evaluation, found in columns.values():
            value, interval = evaluation.value(metric.name), found.get(metric.name)
            row.append("undefined" if value is None else measured(value, metric.direction, metric.format))
            row.append(_NONE if interval is None else _shown(metric, interval))
        rows.append(tuple(row))
    level = f"{100 * intervals.level:g} % interval"
    headings = [heading for name in columns for heading in (name, level)]
    note = (
        f"By the percentile bootstrap, {count(intervals.resamples)} resamples of the test records: how much their "
        "choice matters, and nothing of other seeds, noise or training records. A metric has no interval where the "
        "resamples all agree, where some leave it undefined, or where they are biased, as of the calibration error."
    )
    if len(columns) > 1:
        note += " The best round was chosen on the same records, so that its values and intervals are too good."
    return Table(headings=("metric", *headings), rows=rows, note=note)


def _shown(metric: Metric, interval: Interval) -> str:
    return between(interval.lower, interval.upper, metric.format)
