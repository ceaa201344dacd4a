"""The grid of a sweep: which fields have which values, and what the report of each run says of it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any, Final, Self

from fedtrain.config import Experiment, from_flat, parse_settings, to_flat
from fedtrain.config.loading import Flat, Scalar, nearest
from fedtrain.errors import ConfigError
from fedtrain.sweep.declaration import caution, declared

MOST: Final = 1000
"""Runs of a sweep, at most."""

_REFUSED: Final = {
    "privacy.tuning": "the program fills it in",
    "name": "each run is named by what is varied",
    "output.directory": "each run has a folder of its own",
    "output.resume": "a sweep always goes on with what is there",
}
_NAME_LENGTH: Final = 80


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep.

    Attributes:
        number: which, from 1.
        folder: the name of its folder.
        settings: what is varied, each field with its value in this run.
        experiment: all of its configuration; its output is set when it is run.
    """

    number: int
    folder: str
    settings: Mapping[str, Scalar]
    experiment: Experiment

    @property
    def text(self) -> str:
        """What is varied, in words."""
        return ", ".join(f"{key}={_plain(value)}" for key, value in self.settings.items())


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All combinations of the values of some fields.

    Attributes:
        base: the configuration of all runs, as a flat mapping of what is set.
        over: the fields that are varied, each with its values.
        points: the runs.
        caution: what bounds a choice among them by their results, in words.
    """

    base: Flat
    over: Mapping[str, tuple[Scalar, ...]]
    points: tuple[Point, ...]
    caution: str

    @classmethod
    def of(cls, base: Mapping[str, Any], over: Iterable[str]) -> Self:
        """Return the grid over a configuration.

        Every run is checked as a configuration before one is begun.

        Args:
            base: the configuration, as a flat mapping.
            over: a text for each field that is varied, such as ``"privacy.epsilon=1,2,4"``.

        Raises:
            ConfigError: a field is unknown, cannot be varied or has a value twice, or a run is none that can be used.
        """
        base = dict(base)
        varied = _parsed(over)
        _check(base, varied)
        combinations = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
        experiments = [_experiment(base, settings) for settings in combinations]
        digits = len(str(len(experiments)))
        points = []
        for number, (settings, experiment) in enumerate(zip(combinations, experiments, strict=True), start=1):
            point = Point(
                number=number,
                folder=f"{number:0{digits}d}_{_folder(settings)}",
                settings=settings,
                experiment=experiment,
            )
            points.append(point)
        values = {key: tuple(map(_plain, listed)) for key, listed in varied.items()}
        told = tuple(_telling(point, declared(point.experiment, point.number, experiments, values)) for point in points)
        return cls(base=base, over=varied, points=told, caution=f"Epsilon does not cover {caution(experiments)}.")

    def as_json(self) -> dict[str, Any]:
        """Return what makes this sweep another than others, as JSON can hold it. What only shows runs is left out."""
        shown = ("output.", "data.cache")
        base = {key: value for key, value in sorted(self.base.items()) if not key.startswith(shown)}
        return {"base": base, "over": {key: list(values) for key, values in self.over.items()}}

    def series(self, along: str) -> dict[str, str]:
        """Return a name for the runs that differ in one field alone, by the folder of each run.

        Args:
            along: the field.
        """
        found = {}
        for point in self.points:
            others = [f"{key}={_plain(value)}" for key, value in point.settings.items() if key != along]
            found[point.folder] = ", ".join(others) or "sweep"
        return found


def _parsed(over: Iterable[str]) -> dict[str, tuple[Scalar, ...]]:
    varied: dict[str, tuple[Scalar, ...]] = {}
    for text in over:
        key, equals, listed = (part.strip() for part in text.partition("="))
        if not equals or not key or not listed:
            raise ConfigError(f"cannot read --over {text!r}: write it as key=value,value, as privacy.epsilon=1,2,4")
        if key in varied:
            raise ConfigError(f"--over names {key} twice; write all of its values in one")
        values = tuple(parse_settings([f"{key}={value}"])[key] for value in _split(listed))
        if twice := [value for value in values if values.count(value) > 1]:
            raise ConfigError(f"--over {key} has the value {twice[0]!r} twice")
        varied[key] = values
    if not varied:
        raise ConfigError("a sweep varies one field or more: name one with --over, as --over privacy.epsilon=1,2,4")
    if (runs := prod(map(len, varied.values()))) > MOST:
        raise ConfigError(f"the sweep has {runs} runs, and {MOST} are allowed; leave out values")
    return varied


def _split(listed: str) -> list[str]:
    """Return values that commas separate; a comma in quotes or brackets is a part of a value."""
    found = [match.strip() for match in re.findall(r'(?:"[^"]*"|\'[^\']*\'|\[[^\]]*\]|[^,])+', listed)]
    if len(found) != len(re.sub(r'"[^"]*"|\'[^\']*\'|\[[^\]]*\]', "x", listed).split(",")) or "" in found:
        raise ConfigError(
            f"cannot read the values {listed!r}: write them with one comma between each two, and no other"
        )
    return found


def _check(base: Mapping[str, Any], varied: Mapping[str, tuple[Scalar, ...]]) -> None:
    known = to_flat(Experiment())
    for key in varied:
        if key in _REFUSED or key.startswith("output."):
            raise ConfigError(f"--over cannot vary {key}: {_REFUSED.get(key, 'it changes no result')}")
        if key not in known:
            raise ConfigError(f"--over names {key}, which is no field{nearest(key, known)}")
    if base.get("output.directory"):
        raise ConfigError("output.directory is for one run: name the folder of a sweep with --out")


def _experiment(base: Mapping[str, Any], settings: Mapping[str, Scalar]) -> Experiment:
    text = ", ".join(f"{key}={_plain(value)}" for key, value in settings.items())
    try:
        found = from_flat({**base, **settings})
    except ConfigError as error:
        raise ConfigError(f"the run with {text} cannot be used: {error}") from error
    return found.model_copy(update={"name": f"{found.name}: {text}"})


def _telling(point: Point, tuning: str) -> Point:
    privacy = point.experiment.privacy.model_copy(update={"tuning": tuning})
    return replace(point, experiment=point.experiment.model_copy(update={"privacy": privacy}))


def _folder(settings: Mapping[str, Scalar]) -> str:
    text = "_".join(f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in settings.items())
    return re.sub(r"[^\w=.+-]", "-", text, flags=re.ASCII)[:_NAME_LENGTH].rstrip(".")


def _plain(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
