"""Runs side by side on a terminal, as CSV, and as a picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from fedtrain.comparison.differences import differences
from fedtrain.comparison.runs import ComparedRun
from fedtrain.errors import UsageError
from fedtrain.files import write_atomic
from fedtrain.report.numbers import between, count, duration, measured, short, upper

_FIELDS = 4  # configuration fields that a terminal has room for


def rows(runs: Sequence[ComparedRun]) -> list[dict[str, object]]:
    """Return a row for each run: what it reached, guarantees and cost, and the fields that are not the same in all.

    ``pandas.DataFrame(rows(runs))`` makes a table of them. What is not known is ``None``.
    """
    different = differences(runs)
    found = []
    for index, run in enumerate(runs):
        lower, above = run.interval or (None, None)
        row: dict[str, object] = {
            "run": run.label,
            "status": run.status,
            "mode": run.mode,
            "noise": run.noise or None,
            "epsilon": run.epsilon,
            "delta": run.delta,
            "rounds": run.rounds,
            "clients": run.clients,
            "cohort": run.cohort,
            "metric": run.metric.name,
            "value": run.value,
            "lower": lower,
            "upper": above,
            "best": run.best,
            "best_round": run.best_round,
            "baseline": run.baseline,
            "update_bytes": run.update_bytes,
            "seconds": run.seconds,
            "path": run.path,
        }
        found.append(row | {key: values[index] for key, values in different.items()})
    return found


def comparison_table(runs: Sequence[ComparedRun]) -> Table:
    """Return the table for a terminal. Numbers are rounded to what is worse."""
    different = dict(list(differences(runs).items())[:_FIELDS])
    name = runs[0].metric.name if len({run.metric.name for run in runs}) == 1 else "result"
    headings = ("run", short(name, 60), "95 % interval", "epsilon", "delta", "rounds", "bytes of an update", "duration")
    table = Table(*headings, *(key.rpartition(".")[2] for key in different), box=None, padding=(0, 2, 0, 0))
    for index, run in enumerate(runs):
        form = run.metric.format
        table.add_row(
            short(run.label, 60),
            "unknown" if run.value is None else measured(run.value, run.metric.direction, form),
            "" if run.interval is None else between(*run.interval, form),
            _epsilon(run),
            "" if run.delta is None else f"{run.delta:g}",
            f"{run.rounds}" if run.status == "completed" else f"{run.rounds} of {run.planned_rounds}, {run.status}",
            count(run.update_bytes),
            "secret" if run.seconds is None else duration(run.seconds),
            *(short(str(values[index]), 24) for values in different.values()),
        )
    return table


def _epsilon(run: ComparedRun) -> str:
    if run.epsilon is None:
        return "no privacy"
    return upper(run.epsilon) + (" (simulated)" if run.noise == "seeded" else "")


def write_csv(path: str | Path, runs: Sequence[ComparedRun]) -> None:
    """Write `rows` as CSV (RFC 4180). What is not known is an empty cell.

    Raises:
        StorageError: the file cannot be written; the previous one is kept.
    """
    write_rows(path, rows(runs))


def write_rows(path: str | Path, found: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV (RFC 4180). ``None`` is an empty cell.

    Raises:
        StorageError: the file cannot be written; the previous one is kept.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in found for key in row)))
    writer.writeheader()
    writer.writerows(found)
    write_atomic(Path(path), text.getvalue().encode())


def write_plot(path: str | Path, runs: Sequence[ComparedRun], *, series: Mapping[str, str] | None = None) -> None:
    """Draw the metric of runs with its interval against epsilon, rounds and bytes, as a PNG or an SVG.

    Runs that are not comparable do not belong into one picture: leave those out that `incomparable` names.

    Args:
        path: the file; its suffix, ``.png`` or ``.svg``, says what is written.
        runs: the runs, all of one metric.
        series: to which line a run belongs, by its label; default: each run is a point of its own.

    Raises:
        UsageError: the suffix is another, or no run has a value.
        StorageError: the file cannot be written; the previous one is kept.
    """
    path = Path(path)
    if path.suffix not in {".png", ".svg"}:
        raise UsageError(f"{path}: a picture is written as .png or .svg")
    if all(run.value is None for run in runs):
        raise UsageError("there is nothing to draw: no run was evaluated")
    from fedtrain.comparison.plot import drawn  # noqa: PLC0415 - matplotlib takes a second to import

    write_atomic(path, drawn(runs, series or {run.label: run.label for run in runs}, svg=path.suffix == ".svg"))
