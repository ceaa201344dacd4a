"""The pictures of a report, each a pure function from a part of the report to an inline SVG, or a PNG of a plan.

Where there are too many classes or clients to draw one by one, they are drawn as an image or in order of size. Only
matplotlib's object API is used: a `Figure` knows no window and no global list of figures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fedtrain.files import write_atomic
from fedtrain.report.descriptions import of_confusion, of_curve, of_epsilon, of_f1, of_histogram, of_metric
from fedtrain.report.drawing import (
    BLUE,
    COLOURS,
    HEAT,
    INK,
    LETTERS,
    MUTED,
    ON_LITTLE_HEAT,
    ON_MUCH_HEAT,
    TRACK,
    VERMILION,
    WIDTH,
    page_figure,
    page_style,
    plain_axes,
    style,
    to_page,
    to_png,
)
from fedtrain.report.evaluation import CLASSIFICATION, LARGE, Best, Evaluation, Metric
from fedtrain.report.numbers import count, exact, measured, percent, short, upper
from fedtrain.report.privacy import PrivacyPoint
from fedtrain.report.tables import MATRIX_CLASSES, NAMED_CLASSES

_MARKED_POINTS = 40
_BAR_CLIENTS = 40
_IMAGE_CLIENTS = 400  # beyond it a column of an image is narrower than a pixel
_BLOCKS = 200  # rows of a picture of a matrix, at most
_POINTS = 400  # of a line through all clients
_MUCH = 0.7  # opacity of a cell from which on its number has the other colour
_DIGIT = 8.0  # width of a digit, in units of the page
_DASHES = ((5, 3), (1, 1.5))  # of budgets, of which there are two at most
_NAMES_WIDTH = 84  # beside a confusion matrix
_PERCENT = FuncFormatter(lambda value, _: f"{value:.4g} %")
_BLUES = LinearSegmentedColormap.from_list("fedtrain", ["#ffffff", "#b9d8ea", "#4a98c9", BLUE, "#003a5d"])


def series(history: Sequence[Evaluation], measurement: str) -> list[tuple[int, float]]:
    """Return (round, value) of the evaluations that have a measurement that is a number."""
    values = ((entry.round, getattr(entry, measurement, None)) for entry in history)
    return [(number, value) for number, value in values if isinstance(value, int | float)]


def metric_svg(history: Sequence[Evaluation], metric: Metric, best: Best | None, baseline: float | None = None) -> str:
    """Draw the metric that chooses the best model over the rounds, on the test records, and its baseline."""
    with page_style(metric.name):
        figure = page_figure(270)
        axes = plain_axes(figure, "round", "")
        points, scale = series(history, metric.name), 100 if metric.format == "percent" else 1
        _line(axes, [(number, scale * value) for number, value in points], BLUE)
        if metric.format == "percent":
            axes.yaxis.set_major_formatter(_PERCENT)
        keys: dict[str, Line2D] = {}
        if best is not None:
            (dot,) = axes.plot(
                best.round, scale * best.reached, "o", color=VERMILION, markersize=7, clip_on=False, zorder=4
            )
            keys[f"best {measured(best.reached, metric.direction, metric.format)}"] = dot
        if baseline is not None:
            line = axes.axhline(scale * baseline, color=MUTED, linewidth=1.2, linestyle="--", zorder=1)
            keys[f"baseline {measured(baseline, metric.direction, metric.format)}"] = line
        _key(figure, keys)
        name = short(metric.name.capitalize(), 40)
        description = of_metric(points, metric, best, baseline)
        return to_page(figure, "metric", f"{name} on the test records over the rounds", description)


def curve_svg(history: Sequence[Evaluation], measurement: str) -> str:
    """Draw a measurement, for example the loss, over the rounds."""
    with page_style("curve"):
        figure, points = page_figure(270), series(history, measurement)
        _line(plain_axes(figure, "round", ""), points, BLUE)
        title = f"{short(measurement, 40)} over the rounds"
        return to_page(figure, "curve", title[:1].upper() + title[1:], of_curve(points))


def cells(confusion: Sequence[Sequence[int]]) -> tuple[str, list[list[str]]]:
    """Return what the numbers in a picture of a confusion matrix are, and the numbers; none where they do not fit.

    They are records where these fit into the cells, and else percent of the true class, rounded to the worse side.
    """
    classes = len(confusion)
    if not 0 < classes <= MATRIX_CLASSES:
        return "", []
    fits = int((WIDTH - _NAMES_WIDTH) / classes / _DIGIT)
    records = [[count(number) for number in row] for row in confusion]
    if max(len(text) for row in records for text in row) <= fits:
        return "records", records
    shares: list[list[str]] = []
    for place, row in enumerate(confusion):
        total = max(sum(row), 1)
        shares.append(
            [str(100 * n // total if place == column else -(-100 * n // total)) for column, n in enumerate(row)]
        )
    return "percent of the true class", shares


def confusion_svg(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Draw the confusion matrix. The shade is the share of the true class, on a square-root scale."""
    counts = np.asarray(confusion, dtype=np.float64)
    with page_style("confusion"):
        figure = page_figure(380)
        axes = plain_axes(figure, "predicted class", "true class")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        if len(counts) <= MATRIX_CLASSES:
            _draw_cells(axes, counts, cells(confusion)[1])
            names = [short(name, 11) for name in classes]
            ticks = np.arange(len(counts)) + 0.5
            axes.set_xticks(ticks, names, rotation=0 if max(map(len, names)) <= _letters(len(names)) else 90)
            axes.set_yticks(ticks, names)
            axes.tick_params(length=0)
        else:
            size = -(-len(counts) // _BLOCKS)
            shown = _blocks(counts, size)
            share = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
            extent = (-0.5, len(counts) - 0.5, len(counts) - 0.5, -0.5)
            norm = PowerNorm(0.5, vmin=0, vmax=1)
            axes.imshow(share, cmap=_BLUES, norm=norm, aspect="auto", extent=extent, interpolation="nearest")
            if size > 1:
                axes.set_xlabel(f"predicted class, in blocks of {size}")
                axes.set_ylabel(f"true class, in blocks of {size}")
        title = "Confusion matrix: true classes by predicted classes"
        return to_page(figure, "confusion", title, of_confusion(counts, classes))


def _draw_cells(axes: Axes, counts: NDArray[np.float64], numbers: Sequence[Sequence[str]]) -> None:
    """Draw each cell as one colour of an opacity, which is right on a light page and on a dark one."""
    opacity = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    axes.set_xlim(0, len(counts))
    axes.set_ylim(len(counts), 0)
    for (row, column), number in np.ndenumerate(counts):
        shade = float(opacity[row, column])
        if number:
            cell = Rectangle((column + 0.02, row + 0.02), 0.96, 0.96, facecolor=HEAT, alpha=shade, linewidth=0)
            axes.add_patch(cell)
        axes.text(
            column + 0.5,
            row + 0.5,
            numbers[row][column],
            ha="center",
            va="center",
            color=(ON_MUCH_HEAT if shade > _MUCH else ON_LITTLE_HEAT) if number else MUTED,
            in_layout=False,  # within the axes, so that it need not be measured
        )


def _blocks(counts: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the sums of a square matrix over square blocks, the last of which may be smaller."""
    starts = np.arange(0, len(counts), size)
    rows: NDArray[np.float64] = np.add.reduceat(counts, starts, axis=0)
    return np.asarray(np.add.reduceat(rows, starts, axis=1))


def f1_svg(f1: Sequence[float], classes: Sequence[str]) -> str:
    """Draw the F1 of each class: named bars, or all classes in order of F1 where they are many."""
    with page_style("f1"):
        figure = page_figure(max(380, 20 + 19 * len(f1)) if len(f1) <= NAMED_CLASSES else 380)
        if len(f1) > NAMED_CLASSES:
            axes = plain_axes(figure, f"{count(len(f1))} classes in order of F1", "")
            order, values = np.arange(1, len(f1) + 1), 100 * np.sort(f1)
            axes.fill_between(order, values, color=BLUE, alpha=0.12, step="mid", linewidth=0)
            axes.step(order, values, where="mid", color=BLUE)
            axes.yaxis.set_major_formatter(_PERCENT)
            axes.set_ylim(0, 100)
        else:
            axes = plain_axes(figure, "", "")
            axes.grid(visible=False)
            rows = np.arange(len(f1))
            axes.barh(rows, np.ones(len(f1)), color=TRACK, height=0.68)
            axes.barh(rows, f1, color=BLUE, height=0.68)
            axes.set_yticks(rows, [short(name, 16) for name in classes], color=INK)
            axes.set_xlim(0, 1.28)
            axes.spines["bottom"].set_visible(False)
            axes.set_xticks([])
            axes.invert_yaxis()
            for row, value in enumerate(f1):
                axes.text(1.03, row, percent(value).removesuffix(" %"), va="center", color=INK)
        return to_page(figure, "f1", "F1 of each class", of_f1(f1, classes))


def histogram_svg(histogram: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Draw the training records of each client by class: stacked bars, or an image where they are many."""
    counts = np.asarray(histogram, dtype=np.int64)
    with page_style("histogram"):
        figure = page_figure(380)
        if len(counts) <= _BAR_CLIENTS and len(classes) <= len(COLOURS):
            axes = plain_axes(figure, "client", "")
            base = np.zeros(len(counts), dtype=np.int64)
            for colour, column in zip(COLOURS, counts.T, strict=False):
                axes.bar(np.arange(len(counts)), column, bottom=base, color=colour, width=0.78)
                base += column
            axes.set_xlim(-0.6, len(counts) - 0.4)
            names = [short(name, 16) for name in classes]
            patches = [Patch(color=colour) for colour, _ in zip(COLOURS, names, strict=False)]
            columns = max(1, min(4, int(WIDTH / (_DIGIT * max(map(len, names)) + 36))))
            figure.legend(
                patches,
                names,
                loc="outside lower left",
                ncols=columns,
                handlelength=1,
                handleheight=1,
                columnspacing=1.2,
            )
        elif len(counts) > _IMAGE_CLIENTS or len(classes) > LARGE:
            figure.set_size_inches(WIDTH / 72, 470 / 72)
            _sizes(figure, counts)
        else:
            axes = plain_axes(figure, "client", "class")
            axes.grid(visible=False)
            image = axes.imshow(counts.T, cmap=_BLUES, aspect="auto", interpolation="nearest")
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            if len(classes) <= MATRIX_CLASSES:
                axes.set_yticks(np.arange(len(classes)), [short(name, 11) for name in classes])
            bar = figure.colorbar(image, ax=axes, pad=0.03, label="training records", location="bottom")
            bar.outline.set_visible(False)
            bar.ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        return to_page(figure, "histogram", "Training records of each client by class", of_histogram(counts))


def _sizes(figure: Figure, counts: NDArray[np.int64]) -> None:
    """Draw how many records clients have, and of how many classes, each in order of size."""
    places = np.unique(np.linspace(0, len(counts) - 1, _POINTS).round().astype(int))
    drawn = {"training records": counts.sum(axis=1), "classes with records": np.count_nonzero(counts, axis=1)}
    for index, (label, values) in enumerate(drawn.items(), start=1):
        axes = figure.add_subplot(2, 1, index)
        axes.set_xlabel(f"{count(len(counts))} clients in order of size")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_title(
            f"{label}: {count(int(values.min()))} to {count(int(values.max()))}, "
            f"median {exact(float(np.median(values)))}",
            loc="left",
            fontsize=LETTERS,
        )
        ordered = np.sort(values)[places]
        axes.fill_between(places + 1, ordered, color=BLUE, alpha=0.12, linewidth=0)
        axes.plot(places + 1, ordered, color=BLUE)
        axes.set_ylim(bottom=0)


def epsilon_svg(curve: Sequence[PrivacyPoint], budgets: Mapping[str, float]) -> str:
    """Draw what the clients had spent after each round, and the budgets by their labels.

    Few clients are drawn as a line each; of many, the largest and the median with the band between the extremes.
    """
    rounds = [point.round for point in curve]
    largest, median = [point.max for point in curve], [point.median for point in curve]
    clients = list(zip(*(point.clients for point in curve), strict=True)) if all(p.clients for p in curve) else []
    with page_style("epsilon"):
        figure = page_figure(330)
        axes = plain_axes(figure, "round" if rounds[-1] else "round (0: all are charged at the start)", "")
        few = 1 < len(clients) <= len(COLOURS)
        for colour, values in zip(COLOURS, clients if few else (), strict=False):
            axes.plot(rounds, values, color=colour, linewidth=1.2, alpha=0.8)
        labels = [
            (largest[-1], f"largest {upper(largest[-1])}", _line(axes, list(zip(rounds, largest, strict=True)), BLUE))
        ]
        if median != largest:
            lowest = median if few or not clients else [min(point.clients) for point in curve]
            (line,) = axes.plot(rounds, median, color=MUTED, linewidth=1.4, linestyle=(0, (1, 1.5)) if few else "-")
            axes.fill_between(rounds, lowest, largest, color=BLUE, alpha=0 if few else 0.12, linewidth=0)
            labels.append((median[-1], f"median {upper(median[-1])}", line))
        for dashes, (label, budget) in zip(_DASHES, budgets.items(), strict=False):
            line = axes.axhline(budget, color=VERMILION, linestyle=(0, dashes), linewidth=1.4)
            labels.append((budget, f"{label} {exact(budget)}", line))
        axes.set_ylim(0, 1.15 * max(largest[-1], *budgets.values(), 0) or 1)
        if len(rounds) == 1:
            axes.set_xticks(rounds)
        ordered = sorted(labels, key=lambda entry: entry[:2], reverse=True)
        _key(figure, {label: line for _, label, line in ordered})
        return to_page(figure, "epsilon", "Epsilon over the rounds", of_epsilon(curve, budgets))


def _key(figure: Figure, lines: Mapping[str, Line2D]) -> None:
    """Write what lines are below a picture, where no line can run through it: side by side as far as they fit."""
    if not lines:
        return
    columns = max(1, min(len(lines), int(WIDTH / (_DIGIT * max(map(len, lines)) + 40))))
    figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside lower left",
        ncols=columns,
        labelcolor="linecolor",
        handlelength=1.6,
        columnspacing=1.4,
    )


def curve_png(path: Path, runs: Mapping[str, Sequence[Evaluation]], metric: Metric = CLASSIFICATION[0]) -> None:
    """Write a PNG of a metric over the rounds, by default the accuracy, a line for each run, labelled by its key.

    Raises:
        StorageError: the file cannot be written; the previous one is kept.
    """
    with style("runs"):
        figure = Figure(figsize=(7.2, 3.8))
        axes = plain_axes(figure, "round", f"{short(metric.name, 40).replace('_', ' ')} on the test records")
        if metric.format == "percent":
            axes.yaxis.set_major_formatter(_PERCENT)
        scale = 100 if metric.format == "percent" else 1
        lines = []
        for index, history in enumerate(runs.values()):
            points = [(number, scale * value) for number, value in series(history, metric.name)]
            lines.append(_line(axes, points, COLOURS[index % len(COLOURS)]))
        axes.legend(
            lines,
            [short(label, 40) for label in runs],
            loc="lower right" if metric.direction == "higher" else "upper right",
        )
        write_atomic(path, to_png(figure))


def plan_png(path: Path, points: Sequence[tuple[int, float]], budget: float) -> None:
    """Write a PNG of the epsilon that a plan spends over the (rounds, epsilon) of it, with its budget.

    Raises:
        StorageError: the file cannot be written; the previous one is kept.
    """
    with style("plan"):
        figure = Figure(figsize=(7.2, 3.8))
        axes = plain_axes(figure, "rounds that a client trains in", "epsilon")
        line = _line(axes, points, BLUE)
        limit = axes.axhline(budget, color=VERMILION, linestyle=(0, (5, 3)), linewidth=1.4)
        axes.set_ylim(0, 1.15 * max(budget, *(epsilon for _, epsilon in points)))
        axes.legend([limit, line], [f"budget {exact(budget)}", f"plan {upper(points[-1][1])}"], loc="lower right")
        write_atomic(path, to_png(figure))


def _line(axes: Axes, points: Sequence[tuple[float, float]], colour: str) -> Line2D:
    marker = "o" if len(points) <= _MARKED_POINTS else ""
    x, y = [x for x, _ in points], [y for _, y in points]
    (line,) = axes.plot(x, y, color=colour, marker=marker, markersize=3.6, clip_on=False)
    axes.margins(x=0.02)
    return line


def _letters(columns: int) -> int:
    """Return how many letters of a name fit across one of so many columns of the confusion matrix."""
    return int((WIDTH - _NAMES_WIDTH) / columns / _DIGIT)
