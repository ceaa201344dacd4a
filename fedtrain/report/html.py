"""The report as one page that stands alone: no scripts, no requests, readable offline and on paper."""

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedtrain.report import numbers, plots, view
from fedtrain.report.evaluation import Evaluation, Metric
from fedtrain.report.schema import Report
from fedtrain.report.transport import summary

_ENVIRONMENT = Environment(
    loader=PackageLoader("fedtrain.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(
    percent=numbers.percent,
    upper_bound=numbers.upper,
    exact=numbers.exact,
    thousands=numbers.count,
    duration=numbers.duration,
    error_bound=numbers.error,
)


def render_html(report: Report) -> str:
    """Return the report as a page. The same report gives the same page, to the byte.

    Nothing is computed anew here: every number is one of the report, rounded so that it is never kinder than it is.
    """
    final = report.evaluation.final
    classes = _names(report, final)
    return _ENVIRONMENT.get_template("report.html.j2").render(
        report=report,
        final=final,
        figures={name: Markup(svg) for name, svg in _figures(report, classes).items()},  # noqa: S704 - our own drawing
        curve_name=numbers.short(view.title(_curve(report)), 40),
        headline=view.headline(report.evaluation),
        metric_name=numbers.short(view.title(metric.name), 40) if (metric := _metric(report)) is not None else "",
        measurements=view.measurements(final, report.evaluation.metrics) if final is not None else [],
        per_class=view.per_class(final, classes) if final is not None else None,
        factor=view.factor(report.privacy),
        mechanism=view.mechanism(report.privacy.mechanism, report.privacy) if report.privacy.mechanism else [],
        sampling=view.sampling(report.privacy),
        adversaries=view.adversaries(report.privacy),
        accountants=view.accountants(report.privacy),
        spending=view.spending(report.privacy),
        rounds=view.rounds(report),
        transport=summary(report.round_log),
        drops=view.drops(report),
        secret=any(entry.cohort is None for entry in report.round_log),
        configuration=view.configuration(report),
    )


def _metric(report: Report) -> Metric | None:
    """Return the metric that chooses the best model."""
    return next(iter(report.evaluation.metrics), None)


def _names(report: Report, final: Evaluation | None) -> tuple[str, ...]:
    """Return the names of the classes, or their numbers where a task measures others than the data has."""
    measured = len(final.confusion) if final is not None and final.confusion is not None else len(report.data.classes)
    return report.data.classes if measured == len(report.data.classes) else tuple(map(str, range(measured)))


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
        figures["metric"] = plots.metric_svg(history, metric, report.evaluation.best)
    measurement = _curve(report)
    if measurement:
        figures["curve"] = plots.curve_svg(history, measurement)
    if final is not None and final.confusion:
        figures["confusion"] = plots.confusion_svg(final.confusion, classes)
    if final is not None and final.per_class is not None and final.per_class.f1:
        figures["f1"] = plots.f1_svg(final.per_class.f1, classes)
    if report.privacy.curve:
        figures["epsilon"] = plots.epsilon_svg(report.privacy.curve, view.budgets(report.privacy))
    if report.data.histogram:
        figures["histogram"] = plots.histogram_svg(report.data.histogram, report.data.classes)
    return figures
