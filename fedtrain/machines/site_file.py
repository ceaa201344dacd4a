"""Fill in a kit's site file: where the records are, and what their classes are. Its comments stay."""

import glob
import os
import re
import tomllib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import tomli_w

from fedtrain.data.site import site_data
from fedtrain.errors import ConfigError, SiteError

_SOURCES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".npz": "npz",
    ".png": "images",
    ".jpg": "images",
    ".jpeg": "images",
}
_LOOKED = 1000  # files of a folder

Value = str | float


def filled_in(
    path: Path,
    *,
    data: Path | None = None,
    schema: Path | None = None,
    classes: str | None = None,
    delta: float | None = None,
) -> bytes:
    """Return a site file with what was given in the place of what it had.

    Args:
        path: the site file; what it names is relative to its folder.
        data: the records: a file, a folder, or a glob pattern. It says what format they have.
        schema: the schema file of a table.
        classes: names of the classes, comma-separated, in the order of their numbers.
        delta: the delta of the budget.

    Raises:
        ConfigError: there are no such records or no such schema, or their format cannot be told.
        SiteError: the file cannot be read, or not be edited by a program, or would not be one.
    """
    fields: dict[str, Value] = {}
    if data is not None:
        try:
            fields |= {"source": _source(data), "path": _place(data, path.parent)}
        except OSError as error:
            raise ConfigError(f"cannot look at {data} (--data): {error.strerror or error}") from error
    if schema is not None:
        if not os.path.isfile(schema):  # noqa: PTH113 - false too where it cannot be looked at
            raise ConfigError(f"there is no schema file {schema} (--schema)")
        fields["schema_file"] = _place(schema, path.parent)
    if classes is not None:
        fields["classes"] = classes
    if delta is not None and not 0 < delta < 1:
        raise ConfigError(f"--delta {delta:g} is not between 0 and 1; it has to be below 1 / number of records")
    try:
        text = path.read_bytes().decode()
        before = tomllib.loads(text)
    except OSError as error:
        raise SiteError(f"cannot read the site file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SiteError(f"the site file {path} is not TOML: {error}") from error
    text = _edited(text, before, "data", fields, path)
    text = _edited(text, tomllib.loads(text), "budget", {} if delta is None else {"delta": delta}, path)
    site_data(tomllib.loads(text).get("data"), path)
    return text.encode()


def _edited(text: str, before: Mapping[str, object], section: str, fields: Mapping[str, Value], path: Path) -> str:
    """Return the text with the fields of a section replaced; its other lines stay as they are."""
    lines = text.split("\n")
    for key, value in fields.items():
        begin = next((number for number, line in enumerate(lines) if re.match(rf"\s*\[{section}\]", line)), None)
        if begin is None:
            break
        end = next((n for n in range(begin + 1, len(lines)) if re.match(r"\s*\[", lines[n])), len(lines))
        new = tomli_w.dumps({key: value}).rstrip("\n")
        own, commented = (
            [number for number in range(begin + 1, end) if re.match(rf"{start}{key}\s*=", lines[number])]
            for start in (r"\s*", r"#\s*")
        )
        if found := own or commented:
            lines[found[0]] = new
        else:
            lines.insert(begin + 1, new)
    edited = "\n".join(lines)
    known = before.get(section)
    expected = {**before, section: {**(known if isinstance(known, dict) else {}), **fields}}
    try:
        if not fields or tomllib.loads(edited) == expected:
            return edited
    except tomllib.TOMLDecodeError:
        pass
    wanted = ", ".join(tomli_w.dumps({key: value}).strip() for key, value in fields.items())
    raise SiteError(f"{path} cannot be edited by a program as it is written; write under [{section}]: {wanted}")


def _source(data: Path) -> str:
    """Return what format records have, by their names."""
    # In the order in which it is read: what is there is no pattern.
    if data.is_file():
        files = [data]
    elif data.is_dir():
        files = [file for file in islice(data.rglob("*"), _LOOKED) if file.is_file()]
    else:
        matches = islice(glob.iglob(str(data), recursive=True), _LOOKED)  # noqa: PTH207 - as it is read
        files = [file for file in map(Path, matches) if file.is_file()]
    if not files:
        raise ConfigError(f"there are no records {data} (--data): name a file, a folder or a pattern that is there")
    found = {_SOURCES.get(file.suffix.lower(), "") for file in files}
    if len(found) != 1 or not (source := found.pop()):
        raise ConfigError(
            f"the names of the files in {data} (--data) do not say what format they have; those that do end in "
            f"{', '.join(_SOURCES)}. Write source and path under [data] of site.toml"
        )
    return source


def _place(file: Path, folder: Path) -> str:
    """Return a path as the site file has it: relative where it is in the same folder, which may be moved.

    Raises:
        ConfigError: its name is no text.
    """
    real, own = file.absolute(), folder.absolute()
    place = str(real.relative_to(own)) if real.is_relative_to(own) else str(real)
    try:
        place.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"a site file is UTF-8, and cannot name {place!r}: rename it") from error
    return place
