"""The report as one page that stands alone: no scripts, no requests, readable offline and on paper."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from numpy.typing import NDArray

from fedtrain.report import meaning, plots
from fedtrain.report.checklist import checklist
from fedtrain.report.evaluation import Evaluation, Metric
from fedtrain.report.intervals import group_table, headline_interval, interval_table
from fedtrain.report.numbers import count, duration, error, exact, percent, short, upper
from fedtrain.report.pages import page_environment
from fedtrain.report.scale import scale
from fedtrain.report.schema import Report
from fedtrain.report.statements import statements
from fedtrain.report.tables import (
    accountants,
    adversaries,
    budgets,
    clients,
    configuration,
    confused,
    drops,
    headline,
    measurements,
    mechanism,
    per_class,
    rounds,
    sampling,
    spending,
    thresholds,
)
from fedtrain.report.wording import listed, summary, title

_ENVIRONMENT = page_environment(
    percent=percent,
    whole=lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%"),
    upper_bound=upper,
    exact=exact,
    thousands=count,
    duration=duration,
    error_bound=error,
    listed=listed,
    short=short,
)


def render_html(report: Report, matrices: Mapping[str, NDArray[Any]] | None = None) -> str:
    """Return the report as a page. The same report gives the same page, to the byte.

    Nothing is computed anew here: every number is one of the report, rounded so that it is never kinder than it is. The
    page does not grow with classes, clients or rounds: where they are many, it shows the most frequent and quantiles.

    Args:
        report: the report.
        matrices: what is too large for it, by name, as in the file that it names: ``confusion/final``, ``histogram``.
    """
    report = _with_matrices(report, matrices or {})
    final = report.evaluation.final
    classes = _names(report, final)
    return _ENVIRONMENT.get_template("report.html.j2").render(
        report=report,
        final=final,
        figures={name: Markup(svg) for name, svg in _figures(report, classes).items()},  # noqa: S704 - our own drawing
        curve_name=short(title(_curve(report)), 40),
        headline=headline(report.evaluation),
        headline_interval=headline_interval(report.evaluation),
        intervals=interval_table(report.evaluation),
        groups=group_table(report.evaluation),
        metric_name=short(title(metric.name), 40) if (metric := _metric(report)) is not None else "",
        measurements=measurements(final, report.evaluation.metrics) if final is not None else [],
        cells=plots.cells(final.confusion)[0] if final is not None and final.confusion is not None else "",
        per_class=per_class(final, classes) if final is not None else None,
        thresholds=thresholds(final) if final is not None else None,
        confused=confused(final, classes) if final is not None else None,
        permitted=meaning.factor(report.privacy),
        delta=meaning.meaning_of_delta(report.privacy),
        group=meaning.group(report.privacy),
        opinion=meaning.second_opinion(report.privacy),
        mechanism=mechanism(report.privacy.mechanism, report.privacy) if report.privacy.mechanism else [],
        sampling=sampling(report.privacy),
        adversaries=adversaries(report.privacy),
        accountants=accountants(report.privacy),
        spending=spending(report),
        scale=scale(report.privacy),
        checklist=checklist(report),
        statements=statements(report),
        rounds=rounds(report),
        transport=summary(report.round_log),
        drops=drops(report),
        clients=clients(report),
        secret=any(entry.cohort is None for entry in report.round_log),
        configuration=configuration(report),
    )


def _with_matrices(report: Report, matrices: Mapping[str, NDArray[Any]]) -> Report:
    """Return the report with what was left out of it for its size."""
    evaluation, data = report.evaluation, report.data
    if "confusion/final" in matrices and evaluation.final is not None:
        rows = tuple(map(tuple, matrices["confusion/final"].tolist()))
        final = evaluation.final.model_copy(update={"confusion": rows})
        evaluation = evaluation.model_copy(update={"final": final})
    if "histogram" in matrices:
        data = data.model_copy(update={"histogram": tuple(map(tuple, matrices["histogram"].tolist()))})
    return report.model_copy(update={"evaluation": evaluation, "data": data})


def _metric(report: Report) -> Metric | None:
    """Return the metric that chooses the best model."""
    return next(iter(report.evaluation.metrics), None)


def _names(report: Report, final: Evaluation | None) -> tuple[str, ...]:
    """Return the names of the classes, or their numbers where a task measures others than the data has."""
    classes = len(final.confusion) if final is not None and final.confusion is not None else len(report.data.classes)
    return report.data.classes if classes == len(report.data.classes) else tuple(map(str, range(classes)))


def _curve(report: Report) -> str:
    """Return the measurement to draw beside the metric of the best: the loss, another metric, or one of the task's."""
    history, metrics = report.evaluation.history, [metric.name for metric in report.evaluation.metrics]
    names = ["loss", *metrics[1:], *(history[-1].own if history else ())]
    return next((name for name in names if name not in metrics[:1] and plots.series(history, name)), "")


def _figures(report: Report, classes: tuple[str, ...]) -> Mapping[str, str]:
    figures = {}
    history, final = report.evaluation.history, report.evaluation.final
    metric = _metric(report)
    if metric is not None and plots.series(history, metric.name):
        baseline = (report.evaluation.baseline or {}).get(metric.name)
        figures["metric"] = plots.metric_svg(history, metric, report.evaluation.best, baseline)
    measurement = _curve(report)
    if measurement:
        figures["curve"] = plots.curve_svg(history, measurement)
    if final is not None and final.confusion:
        figures["confusion"] = plots.confusion_svg(final.confusion, classes)
    if final is not None and final.per_class is not None and final.per_class.f1:
        figures["f1"] = plots.f1_svg(final.per_class.f1, classes)
    if report.privacy.curve:
        figures["epsilon"] = plots.epsilon_svg(report.privacy.curve, budgets(report.privacy))
    if report.data.histogram:
        figures["histogram"] = plots.histogram_svg(report.data.histogram, report.data.classes)
    return figures
