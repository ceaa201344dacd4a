"""All that is wrong with a configuration at once, each with what is allowed. Nothing else is imported."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedtrain.config.described import described
from fedtrain.config.experiment import Experiment
from fedtrain.config.loading import from_flat, nearest, to_flat
from fedtrain.config.strategies import check_strategy
from fedtrain.errors import ConfigError

_SHOWN = 200  # characters of a value
_PATHS = ("data.path", "data.test_path", "federation.sites")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong with a configuration.

    Attributes:
        field: the dotted key of the field; empty where it is several.
        message: what is wrong.
        allowed: what the field takes; empty where it is several, or unknown.
        about: what the field means; likewise.
    """

    field: str
    message: str
    allowed: str = ""
    about: str = ""

    def __str__(self) -> str:
        """Say it in a few lines."""
        lines = [f"{self.field}: {self.message}" if self.field else self.message]
        lines += [f"    allowed: {self.allowed}"] if self.allowed else []
        lines += [f"    meaning: {self.about}"] if self.about else []
        return "\n".join(lines)


def problems(flat: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Return all that is wrong with a flat mapping as an experiment, in the order of the fields; empty if nothing is.

    What fields must agree on is looked at with the defaults in the place of fields that are wrong themselves, and what
    is said of such a field then is left out.
    """
    known = to_flat(Experiment())
    found = [
        Problem(field=key, message=f"there is no such field (its value is {_shown(value)}){nearest(key, known)}")
        for key, value in flat.items()
        if key not in known
    ]
    kept, removed = {key: value for key, value in flat.items() if key in known}, set[str]()
    while (error := _refused(kept)) is not None:
        new = _explained(error, kept)
        found += [problem for scope, problem in new if not _rests_on(scope, problem, removed)]
        faulty = {key for key in kept for scope, _ in new if scope and (key == scope or key.startswith(f"{scope}."))}
        if not faulty:
            break
        removed |= faulty
        kept = {key: value for key, value in kept.items() if key not in faulty}
    order = {key: place for place, key in enumerate(known)}
    if not found:
        try:
            check_strategy(from_flat(kept))
        except ConfigError as refused:
            found.append(Problem(field="", message=str(refused)))
    return tuple(sorted(found, key=lambda problem: order.get(problem.field, len(order))))


def missing_files(experiment: Experiment) -> tuple[str, ...]:
    """Return what an experiment names and this machine does not have, in words. Patterns are not looked for."""
    flat = to_flat(experiment)
    return tuple(
        f"{key} = {name!r}: there is no such file or folder on this machine"
        for key in _PATHS
        if (name := str(flat[key])) and not set("*?[") & set(name) and not _exists(name)
    )


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError):  # a path that is too long, or in the home of nobody
        return False


def _refused(flat: Mapping[str, Any]) -> ValidationError | None:
    try:
        from_flat(flat)
    except ConfigError as error:
        if isinstance(error.__cause__, ValidationError):  # what else there is, an unknown key, is left out before
            return error.__cause__
        raise
    return None


def _explained(error: ValidationError, flat: Mapping[str, Any]) -> list[tuple[str, Problem]]:
    """Return each problem, with the field or the section that it is of; empty for the whole experiment."""
    found = []
    for problem in error.errors(include_url=False):
        scope = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        field = described().get(scope)
        if field is None:  # what a whole section says names its fields itself
            found.append((scope, Problem(field="", message=f"{scope}: {message}" if scope else message)))
            continue
        value = flat.get(scope, problem["input"])
        own = f": {message}" if problem["type"] == "value_error" else ""
        told = Problem(
            field=scope, message=f"{_shown(value)} is not allowed{own}", allowed=field.allowed, about=field.about
        )
        found.append((scope, told))
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _rests_on(scope: str, problem: Problem, removed: set[str]) -> bool:
    """Say whether a problem is one of fields that were removed, and have their defaults."""
    words = set(re.findall(r"[\w.]+", problem.message))
    return any(
        key in words or (scope and key.startswith(f"{scope}.") and key.rpartition(".")[2] in words) for key in removed
    )
