"""What each field of an experiment takes and means, for error messages and for the completion of a command line."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from fedtrain.config.experiment import Experiment
from fedtrain.config.sections import Section

_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_TYPES = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}


@dataclass(frozen=True, kw_only=True)
class Described:
    """A field.

    Attributes:
        key: its dotted key.
        values: the values that it may have, as TOML has them, where they can be listed.
        allowed: what it takes, in words.
        default: what it is unless it is set, in words.
        about: what it means.
    """

    key: str
    values: tuple[str, ...]
    allowed: str
    default: str
    about: str


@cache
def described() -> dict[str, Described]:
    """Return every field by its dotted key, in the order of the tree."""
    return {field.key: field for field in _of(Experiment, "")}


def _of(section: type[Section], prefix: str) -> list[Described]:
    schema, found = section.model_json_schema()["properties"], []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found += _of(field.annotation, f"{prefix}{name}.")
            continue
        facts = next((kind for kind in schema[name].get("anyOf", ()) if kind["type"] != "null"), schema[name])
        values = ("true", "false") if facts["type"] == "boolean" else tuple(map(json.dumps, facts.get("enum", ())))
        found.append(
            Described(
                key=f"{prefix}{name}",
                values=values,
                allowed=_allowed(facts, values) + (', or "" to leave it unset' if field.default is None else ""),
                default="unset" if field.default is None else json.dumps(field.default),
                about=str(field.description),
            )
        )
    return found


def _allowed(facts: dict[str, Any], values: tuple[str, ...]) -> str:
    if values and facts["type"] != "boolean":
        return ", ".join(values)
    bounds = [f"{words} {facts[bound]}" for bound, words in _BOUNDS.items() if bound in facts]
    return f"{_TYPES[facts['type']]}{' ' if bounds else ''}{' and '.join(bounds)}"
