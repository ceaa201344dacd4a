"""What is not the same in several runs: their configurations, and what makes a comparison of their results untrue."""

from collections.abc import Sequence

from fedtrain.comparison.runs import ComparedRun
from fedtrain.config import Experiment, to_flat
from fedtrain.config.loading import Scalar
from fedtrain.report.numbers import short

# These say how a run is shown and called, and where, and not what it is.
_PRESENTATION = ("name", "output.", "data.cache", "privacy.tuning")
_SHOWN = 60


def differences(runs: Sequence[ComparedRun]) -> dict[str, tuple[Scalar, ...]]:
    """Return the configuration fields that are not the same in all runs, each with the value of each run.

    A field that a run of an earlier version does not have, has its default.
    """
    defaults = to_flat(Experiment())
    keys = [key for key in defaults if not key.startswith(_PRESENTATION)]
    found = {key: tuple(run.config.get(key, defaults[key]) for run in runs) for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def incomparable(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Return the runs whose results cannot be compared with those of the first, by label, each with the reason.

    Results compare only on the same test records. A report does not hold them: what determines them is compared, and
    what depends on them, as the baseline does. Where these are all alike the records may still be others, in a file
    that was changed between the runs.
    """
    found: dict[str, str] = {}
    for run in runs[1:]:
        if reason := _reason(runs[0], run):
            found[run.label] = reason
    return found


def _reason(first: ComparedRun, other: ComparedRun) -> str:
    if (first.metric.name, first.metric.direction) != (other.metric.name, other.metric.direction):
        return f"it measures {short(other.metric.name, _SHOWN)}, and {first.label} {short(first.metric.name, _SHOWN)}"
    for name, value in first.facts.items():
        if name in other.facts and other.facts[name] != value:
            ours, theirs = _shown(value), _shown(other.facts[name])
            also = f" is {theirs}, and {ours} in {first.label}" if ours != theirs else f" is not as in {first.label}"
            return f"it has other test records: {short(name, 2 * _SHOWN)}{also}"
    return ""


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return short(str(value), _SHOWN) or "unset"
