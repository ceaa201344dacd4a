"""Read an experiment from TOML, from ``key=value`` settings and from Flower's flat run config, and identify it.

A configuration that cannot be used is refused with the field, the value, and what is allowed.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from hashlib import sha256
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedtrain.config.experiment import Experiment
from fedtrain.config.sections import Section
from fedtrain.config.toml import joined, parse_toml
from fedtrain.errors import ConfigError

Scalar = bool | int | float | str
Flat = dict[str, Scalar]

# What changes where or how results are shown, and not what they are. The device does: its noise is another.
_PRESENTATION = ("output.", "data.cache")
# Fields that hold several names, as one string with commas; a list is accepted.
_LISTS = ("data.classes", "data.feature_columns", "data.label_columns", "task.columns", "task.scaling")
# Fields that came later, and what all runs before them had. An experiment that does not use them has the digest of
# before: a run that an earlier version began can be resumed, and its record names the configuration of its report.
_LATER: Flat = {
    "federation.retries": 0,
    "data.target": "class",
    "data.label_columns": "",
    "data.schema_file": "",
    "data.schema_digest": "",
    "data.audio_column": "",
    "data.sample_rate": "",
    "data.seconds": "",
    "data.resample": False,
    "data.mix_down": False,
    "privacy.mechanism": "gaussian",
    "privacy.separation": "",
    "privacy.trust": "",
    "privacy.colluders": "",
    "task.encoder": "",
    "task.encoder_origin": "",
    "task.encoder_digest": "",
    "task.max_tokens": 128,
    "task.lora_rank": "",
    "task.lora_factors": "",
    "data.text_column": "",
    "data.group_column": "",
    "data.max_bytes": 2048,
    "task.scaling": "",
    "task.columns": "",
    "task.bins": 0,
    "training.solver": "gradient",
    "training.feature_norm": "",
    "training.target_lower": "",
    "training.target_upper": "",
    "training.stacked": 1,
    "report.operator": "",
    "report.contact": "",
    "report.purpose": "",
    "report.intended_use": "",
    "report.limits": "",
    "report.data_origin": "",
    "report.people": "",
    "report.reference": "",
}
# Fields that had a default before they could be unset, which stands for the same still.
_DEFAULTS: Flat = {"transport.secagg.bits": 16}


def read_toml(path: Path) -> Flat:
    """Read a TOML file as a flat mapping from dotted keys to values.

    Raises:
        ConfigError: the file is missing, is not TOML, or holds a value that is not a boolean, a number or a string.
    """
    try:
        tree = parse_toml(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return flatten(tree)


def parse_settings(settings: Iterable[str]) -> Flat:
    """Read ``key=value`` settings. A value is read as TOML; what is not TOML is a string.

    Raises:
        ConfigError: a setting without a key or an equals sign.
    """
    flat: Flat = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"cannot read the setting {setting!r}: write it as key=value, for example privacy.epsilon=4"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            if text.lstrip()[:1] in ('"', "'"):
                raise ConfigError(
                    f"cannot read the setting {setting!r}: what is in quotes is not TOML: {error}; leave the quotes "
                    "out, or write single ones, in which a backslash is a backslash"
                ) from error
            value = text
        flat.update(flatten({key.strip(): value}))
    return flat


def read_flat(config: Path | None, settings: Iterable[str] | None) -> Flat:
    """Read ``key=value`` settings over those of a TOML file, either of which may be left out.

    Raises:
        ConfigError: as `read_toml` and `parse_settings`.
    """
    return {**(read_toml(config) if config is not None else {}), **parse_settings(settings or ())}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Flat:
    """Join nested keys with dots, as Flower does.

    Raises:
        ConfigError: a value that Flower's run config cannot hold.
    """
    flat: Flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _scalar(f"{prefix}{key}", value)
    return flat


def nested(flat: Mapping[str, Scalar]) -> dict[str, object]:
    """Return the sections of a flat mapping, as a file of TOML has them: the opposite of `flatten`."""
    tree: dict[str, object] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})  # type: ignore[assignment]
        branch[name] = value
    return tree


def _scalar(key: str, value: object) -> Scalar:
    """Return a value as Flower's run config can hold it: a list of names as one string, a path as a string."""
    if isinstance(value, list | tuple) and key in _LISTS:
        try:
            value = joined(value)
        except ValueError as error:
            raise ConfigError(f"{key} = {value!r}: {error}") from error
    if isinstance(value, PathLike):
        value = fspath(value)
    if isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, list | tuple):
        remedy = "values are booleans, numbers and strings, and a date is a string in quotes"
    elif any(isinstance(item, Mapping) for item in value):
        remedy = f"write the section once, as [{key}] and not [[{key}]]"
    elif key in ("data.path", "data.test_path"):
        remedy = "it is one string: a folder, or a pattern such as 'data/*.parquet', names several files"
    else:
        remedy = f"it is one value, without brackets; those that take a list are {', '.join(_LISTS)}"
    raise ConfigError(f"{key} = {value!r} is not allowed: {remedy}")


def from_flat(flat: Mapping[str, Any]) -> Experiment:
    """Build the experiment from a flat mapping. An empty string leaves a field that may be unset unset.

    Raises:
        ConfigError: an unknown key, a wrong type or a value that is not allowed; all of them are named.
    """
    known = to_flat(Experiment())
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        if key not in known:
            raise ConfigError(f"unknown key {key} (its value is {value!r}){nearest(key, known)}")
        *sections, name = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[name] = None if value == known[key] == "" else value
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def to_flat(experiment: Experiment) -> Flat:
    """Return every field by its dotted key, in the order of the tree; unset ones are empty strings."""

    def walk(section: Section, prefix: str) -> Flat:
        flat: Flat = {}
        for name, value in section:
            if isinstance(value, Section):
                flat.update(walk(value, f"{prefix}{name}."))
            else:
                flat[f"{prefix}{name}"] = "" if value is None else value
        return flat

    return walk(experiment, "")


def config_digest(flat: Mapping[str, Scalar]) -> str:
    """Return the SHA-256 of every field that determines the results, in hexadecimal.

    Args:
        flat: all fields by dotted key, as a report holds them.
    """
    fields = {
        key: value
        for key, value in spelled_out(flat).items()
        if not (key.startswith(_PRESENTATION) or (key in _LATER and value == _LATER[key]))
    }
    return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def spelled_out(flat: Mapping[str, Scalar]) -> Flat:
    """Return fields in which those are set that had a default before they could be unset, and mean the same unset.

    With distributed noise, which came later, an unset one means something else.
    """
    if flat.get("privacy.trust") == "distributed":
        return dict(flat)
    return {key: _DEFAULTS[key] if value == "" and key in _DEFAULTS else value for key, value in flat.items()}


def decisive(experiment: Experiment) -> Flat:
    """Return the fields that determine the results, by dotted key."""
    return {key: value for key, value in to_flat(experiment).items() if not key.startswith(_PRESENTATION)}


def nearest(key: str, known: Iterable[str]) -> str:
    """Name the known key that is nearest to an unknown one."""
    known = list(known)
    last = key.rsplit(".", 1)[-1]
    close = get_close_matches(key, known, n=1, cutoff=0.6) or [
        candidate for candidate in known if candidate.rsplit(".", 1)[-1] == last
    ]
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(sorted(known))}"


def explain(error: ValidationError) -> str:
    """Return one line for each problem that pydantic found."""
    lines = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error":
            lines.append(f"{field}: {message}" if field else message)
        else:
            lines.append(f"{field} = {problem['input']!r}: {message[0].lower()}{message[1:]}")
    return "\n".join(lines)
