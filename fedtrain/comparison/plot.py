"""The picture of several runs: what they reached against what they guarantee and what they cost."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from fedtrain.comparison.runs import ComparedRun
from fedtrain.report.drawing import COLOURS, MUTED, style, to_png, to_svg
from fedtrain.report.numbers import count, short
from fedtrain.report.wording import title

Axis = Callable[[ComparedRun], float | None]

_PANEL, _ALONE, _HIGH = 4.4, 7.2, 4.2  # inches: the width of a panel beside others and alone, and the height
_NAMED = 20  # series that have a name in the legend
_DECADE = 10  # of a quantity that is drawn on a logarithmic scale, the largest over the smallest
_AXES: dict[str, Axis] = {
    "epsilon (smaller is stronger)": lambda run: run.epsilon,
    "rounds": lambda run: run.rounds,
    "bytes of a client's update": lambda run: run.update_bytes,
}
_PLAIN = FuncFormatter(lambda value, _: count(int(value)) if float(value).is_integer() else f"{value:.3g}")
_PERCENT = FuncFormatter(lambda value, _: f"{value:.4g} %")


def drawn(runs: Sequence[ComparedRun], series: Mapping[str, str], *, svg: bool) -> bytes:
    """Return the picture as a file: a panel for each of epsilon, rounds and bytes that is not the same in all runs.

    Bars are 95 % intervals over the test records. A run without privacy is a line across the panel of epsilon.

    Args:
        runs: the runs, of which one at least has a value.
        series: to which line each belongs, by its label.
        svg: whether it is an SVG, or else a PNG.
    """
    runs = [run for run in runs if run.value is not None]
    panels = {name: axis for name, axis in _AXES.items() if len({axis(run) for run in runs}) > 1}
    if not panels:
        name = next(iter(_AXES)) if runs[0].epsilon is not None else "rounds"
        panels = {name: _AXES[name]}
    metric = title(runs[0].metric.name)
    with style("comparison"):
        figure = Figure(figsize=(_ALONE if len(panels) == 1 else _PANEL * len(panels), _HIGH))
        named: dict[str, Artist] = {}
        for place, (name, axis) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(1, len(panels), place)
            axes.set_xlabel(name)
            axes.set_ylabel(f"{metric} on the test records" if place == 1 else "")
            _panel(axes, runs, series, axis, named)
        if len(named) <= _NAMED:
            names = [short(name, 40) for name in named]
            figure.legend(list(named.values()), names, loc="outside lower center", ncols=min(3, len(names)))
        if not svg:
            return to_png(figure)
        text = to_svg(figure, "comparison", f"{metric} of {len(runs)} runs by {', '.join(panels)}")
    return text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).encode()


def _panel(
    axes: Axes, runs: Sequence[ComparedRun], series: Mapping[str, str], axis: Axis, named: dict[str, Artist]
) -> None:
    """Draw the runs by one quantity, and add what is drawn of each series to those that are named."""
    scale = 100 if runs[0].metric.format == "percent" else 1
    lines: dict[str, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        lines[series[run.label]].append(run)
    placed = [found for run in runs if (found := axis(run)) is not None]
    for number, (name, members) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        known = [(place, run) for run in members if (place := axis(run)) is not None]
        for run in members if not known else ():
            named[name] = axes.axhline(scale * (run.value or 0.0), color=colour, linestyle=(0, (5, 3)), linewidth=1.4)
        if known:
            named[name] = _line(axes, sorted(known, key=itemgetter(0)), colour, scale)
    if placed and min(placed) > 0 and max(placed) >= _DECADE * min(placed):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if placed and len(set(placed)) <= _DECADE:
        axes.set_xticks(sorted(set(placed)))
    axes.xaxis.set_major_formatter(_PLAIN)
    if scale > 1:
        axes.yaxis.set_major_formatter(_PERCENT)
    baselines = {run.baseline for run in runs}
    if len(baselines) == 1 and (baseline := baselines.pop()) is not None:
        named["baseline: one answer for all"] = axes.axhline(
            scale * baseline, color=MUTED, linestyle=":", linewidth=1.2
        )


def _line(axes: Axes, known: Sequence[tuple[float, ComparedRun]], colour: str, scale: int) -> Artist:
    """Draw runs in the order of a quantity, joined by a line, each with a bar for its interval."""
    places, values = [place for place, _ in known], [scale * (run.value or 0.0) for _, run in known]
    for (place, run), value in zip(known, values, strict=True):
        if run.interval is not None:
            lower, upper = (scale * end for end in run.interval)
            # A value may be outside of its interval, by the bias of what is measured.
            away = [[max(0.0, value - lower)], [max(0.0, upper - value)]]
            axes.errorbar([place], [value], yerr=away, color=colour, capsize=3, linewidth=1.2)
    (line,) = axes.plot(places, values, color=colour, marker="o", markersize=5)
    return line
