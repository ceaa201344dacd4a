"""The tables of intervals and of groups on the page of a report, and the interval of the headline."""

from collections.abc import Sequence

from fedtrain.report.evaluation import Evaluations, Interval, Metric, OfGroup
from fedtrain.report.numbers import between, count, measured, short
from fedtrain.report.tables import Table
from fedtrain.report.wording import title

_NONE = "no interval"
_ROWS, _FEWER = 60, 20  # of groups: so many are shown, and of more so many
_METRICS = 2


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


def group_table(evaluations: Evaluations) -> Table | None:
    """Return what the last model reaches on each group of the test records; ``None`` where there are none.

    It has the first two metrics. Of many groups those are shown on which the first metric is worst.
    """
    groups = evaluations.groups
    if groups is None or not (groups.groups or groups.others):
        return None
    metrics = [metric for metric in evaluations.metrics if any(metric.name in each.values for each in groups.groups)]
    metrics = metrics[:_METRICS] or list(evaluations.metrics[:1])
    shown, notes = list(groups.groups), []
    if len(shown) > _ROWS:
        sign = -1 if metrics[0].direction == "lower" else 1
        shown.sort(key=lambda each: (sign * (each.values.get(metrics[0].name) or 0.0), each.name))
        shown = shown[:_FEWER]
        notes.append(
            f"The {_FEWER} groups of {count(len(groups.groups))} on which the first is worst; report.json has all."
        )
    rows = [(short(each.name, 60), *_row(each, metrics)) for each in shown]
    if groups.others is not None:
        many = groups.others.groups
        others = f"{count(many)} other groups together" if many > 1 else "1 group"
        rows.append((others, *_row(groups.others, metrics)))
        notes.append(
            f"A group of fewer than {count(groups.smallest)} records is not shown alone, nor what would give it away."
        )
    notes.append("Of many groups some differ by chance alone: look at the intervals.")
    headings = [heading for metric in metrics for heading in (short(title(metric.name), 40), "interval")]
    return Table(headings=(short(groups.column, 40), "records", *headings), rows=rows, note=" ".join(notes))


def _row(part: OfGroup, metrics: Sequence[Metric]) -> tuple[str, ...]:
    cells = [count(part.records)]
    for metric in metrics:
        value, interval = part.values.get(metric.name), part.intervals.get(metric.name)
        cells.append("undefined" if value is None else measured(value, metric.direction, metric.format))
        cells.append(_NONE if interval is None else _shown(metric, interval))
    return tuple(cells)


def _shown(metric: Metric, interval: Interval) -> str:
    return between(interval.lower, interval.upper, metric.format)
