"""What the points of the frontier reached: as a table for programs, as a table for a person, and as a picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from points import WORKLOADS, Point, Trust, Workload

from fedtrain.report.drawing import BLUE, MUTED, VERMILION, style, to_png

_COLUMNS = 3  # panels side by side
_LEAST_SPAN = 8.0  # of the axis of a panel, in percent
_COLOUR: Final[Mapping[Trust, str]] = {"none": MUTED, "local": VERMILION, "distributed": BLUE}
_WORDS: Final[Mapping[Trust, str]] = {"none": "no privacy", "local": "local noise", "distributed": "shared noise"}


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What a point reached, as its report says it.

    Attributes:
        point: the point.
        epsilon: the guarantee of the run, at most the budget; ``None`` without privacy.
        delta: its delta.
        rounds: rounds of the run.
        accuracy: on the test records, after the last round.
    """

    point: Point
    epsilon: float | None
    delta: float | None
    rounds: int
    accuracy: float


def as_csv(found: Sequence[Reached]) -> str:
    """Return a row for each point, with all its digits."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["workload", "trust", "series", "budget", "epsilon", "delta", "seed", "rounds", "accuracy", "report"])
    for reached in found:
        point = reached.point
        budget = "" if point.epsilon is None else f"{point.epsilon:g}"
        claim = ["", ""] if reached.epsilon is None else [repr(reached.epsilon), repr(reached.delta)]
        way = [point.workload.name, point.way.trust, point.series]
        rest = [str(point.seed), str(reached.rounds), repr(reached.accuracy), point.file]
        rows.writerow([*way, budget, *claim, *rest])
    return text.getvalue()


def as_markdown(found: Sequence[Reached]) -> str:
    """Return a row for each way to train, a column for each epsilon: mean accuracy, and its deviation over seeds."""
    budgets = sorted({reached.point.epsilon for reached in found if reached.point.epsilon is not None})
    heads = [
        "workload",
        "trust",
        "what is trained",
        "seeds",
        *(f"epsilon {budget:g}" for budget in budgets),
        "no privacy",
    ]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for workload in WORKLOADS.values():
        for name, series in workload.series.items():
            of = [reached for reached in found if reached.point.workload is workload and reached.point.series == name]
            if not of:
                continue
            cells = [
                _cell([reached.accuracy for reached in of if reached.point.epsilon == at]) for at in [*budgets, None]
            ]
            seeds = str(len({reached.point.seed for reached in of}))
            lines.append(f"| {' | '.join([workload.title, series.trust, series.what, seeds, *cells])} |")
    return "\n".join([*lines, ""])


def as_png(found: Sequence[Reached]) -> bytes:
    """Return a picture of mean accuracy against epsilon: a panel for each workload, a line for each way to train."""
    workloads = [workload for workload in WORKLOADS.values() if any(each.point.workload is workload for each in found)]
    columns = min(_COLUMNS, len(workloads))
    rows = -(-len(workloads) // columns)
    with style("frontier"):
        figure = Figure(figsize=(4.6 * columns, 3.8 * rows))
        for place, workload in enumerate(workloads, start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_title(workload.title, loc="left", fontsize=11)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
            axes.set_xlabel("epsilon")
            _draw(axes, workload, found)
        return to_png(figure)


def _draw(axes: Axes, workload: Workload, found: Sequence[Reached]) -> None:
    keys, labels, ticks = [], [], set[float]()
    others = iter("s^Dv")
    for name, series in workload.series.items():
        means = _means(found, workload, name)
        mark = "o" if series.main else next(others)
        private = sorted((epsilon, 100 * value) for epsilon, value in means.items() if epsilon is not None)
        ticks |= {epsilon for epsilon, _ in private}
        drawn: list[Line2D] = []
        if private:
            line = "-" if series.main else (0, (2, 1.5))
            x, y = zip(*private, strict=True)
            drawn = axes.plot(x, y, color=_COLOUR[series.trust], marker=mark, markersize=4, linestyle=line)
        elif None in means:
            drawn = [axes.axhline(100 * means[None], color=_COLOUR[series.trust], linestyle=(0, (5, 3)), linewidth=1.4)]
        keys += drawn
        labels += [f"{_WORDS[series.trust]}: {series.what}"] * len(drawn)
    axes.set_xticks(sorted(ticks))
    axes.minorticks_off()
    axes.margins(x=0.06, y=0.1)
    low, high = axes.get_ylim()
    if (missing := _LEAST_SPAN - (high - low)) > 0:  # a line of tenths of a percent is not to look steep
        axes.set_ylim(low - missing / 2, high + missing / 2)
    axes.legend(keys, labels, loc="best", fontsize=8)


def _means(found: Sequence[Reached], workload: Workload, series: str) -> dict[float | None, float]:
    at: dict[float | None, list[float]] = {}
    for each in found:
        if each.point.workload is workload and each.point.series == series:
            at.setdefault(each.point.epsilon, []).append(each.accuracy)
    return {epsilon: mean(values) for epsilon, values in at.items()}


def _cell(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return ""
    spread = f" ± {stdev(accuracies):.3f}" if len(accuracies) > 1 else ""
    return f"{mean(accuracies):.3f}{spread}"
