"""Runs side by side on each group of the test records: as a table on a terminal, and as CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from fedtrain.comparison.differences import incomparable
from fedtrain.comparison.runs import ComparedRun
from fedtrain.comparison.table import write_rows
from fedtrain.errors import UsageError
from fedtrain.report import Group, Metric
from fedtrain.report.numbers import between, count, measured, short
from fedtrain.report.wording import title

_GROUPS, _RUNS = 20, 6  # that a terminal has room for


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """The groups of several runs on a terminal.

    Attributes:
        table: a row for each group, with its records and the result of each run.
        notes: what is not in it, and what to bear in mind.
    """

    table: Table
    notes: tuple[str, ...]


def group_rows(runs: Sequence[ComparedRun]) -> list[dict[str, object]]:
    """Return a row for each run and group of its test records. Runs whose report has no groups have none.

    Groups that a report does not show alone are one row of a run, without a name: ``together`` says how many they are.
    What is not known is ``None``.
    """
    found: list[dict[str, object]] = []
    for run in runs:
        if run.groups is None:
            continue
        parts = [(each.name, 1, each) for each in run.groups.groups]
        others = [] if run.groups.others is None else [(None, run.groups.others.groups, run.groups.others)]
        for name, together, part in (*parts, *others):
            interval = part.intervals.get(run.metric.name)
            found.append(
                {
                    "run": run.label,
                    "column": run.groups.column,
                    "group": name,
                    "together": together,
                    "records": part.records,
                    "metric": run.metric.name,
                    "value": part.values.get(run.metric.name),
                    "lower": None if interval is None else interval.lower,
                    "upper": None if interval is None else interval.upper,
                }
            )
    return found


def write_groups(path: str | Path, runs: Sequence[ComparedRun]) -> None:
    """Write `group_rows` as CSV (RFC 4180). What is not known is an empty cell.

    Raises:
        UsageError: no run has groups.
        StorageError: the file cannot be written; the previous one is kept.
    """
    if not (found := group_rows(runs)):
        raise UsageError(
            f"{path}: no run has groups of test records: data.group_column names the column that says them"
        )
    write_rows(path, found)


def group_comparison(runs: Sequence[ComparedRun]) -> GroupTable | None:
    """Return what runs reached on each group, of those runs that can be compared with the first one that has groups.

    Of many groups those are shown on which the worst of these runs is worst, and of many runs the first ones.

    Returns:
        The table; ``None`` where no report shows a group alone.
    """
    having = [run for run in runs if run.groups is not None and run.groups.groups]
    if not having:
        return None
    assert having[0].groups is not None
    column, metric = having[0].groups.column, having[0].metric
    different = incomparable(having)
    of_column = [
        run for run in having if run.label not in different and run.groups is not None and run.groups.column == column
    ]
    shown = of_column[:_RUNS]
    by_run = [_by_name(run) for run in shown]
    names = sorted({name for groups in by_run for name in groups}, key=lambda name: _rank(name, by_run, metric))
    table = Table(
        short(column, 40), "records", *(short(run.label, 40) for run in shown), box=None, padding=(0, 2, 0, 0)
    )
    for name in names[:_GROUPS]:
        records = next(groups[name].records for groups in by_run if name in groups)
        table.add_row(short(name, 40), count(records), *(_cell(groups.get(name), metric) for groups in by_run))
    notes = [
        f"{short(title(metric.name), 60)} on each group, by {short(column, 40)}, with its 95 % interval, worst first"
    ]
    if len(names) > _GROUPS:
        notes.append(f"{_GROUPS} of {count(len(names))} groups are shown; --groups FILE writes all")
    if len(of_column) > _RUNS:
        notes.append(f"{_RUNS} of {count(len(of_column))} runs are shown; --groups FILE writes all")
    return GroupTable(table=table, notes=(*notes, "of many groups some differ by chance alone: look at the intervals"))


def _by_name(run: ComparedRun) -> Mapping[str, Group]:
    assert run.groups is not None
    return {group.name: group for group in run.groups.groups}


def _rank(name: str, by_run: Sequence[Mapping[str, Group]], metric: Metric) -> tuple[bool, float, str]:
    """Return what sorts groups by the worst of their results, those without one last."""
    sign = -1.0 if metric.direction == "lower" else 1.0
    values = [groups[name].values.get(metric.name) for groups in by_run if name in groups]
    known = [sign * value for value in values if value is not None]
    return (not known, min(known, default=0.0), name)


def _cell(group: Group | None, metric: Metric) -> str:
    value = None if group is None else group.values.get(metric.name)
    if group is None or value is None:
        return "not shown alone" if group is None else "undefined"
    interval = group.intervals.get(metric.name)
    text = measured(value, metric.direction, metric.format)
    return text if interval is None else f"{text} ({between(interval.lower, interval.upper, metric.format)})"
