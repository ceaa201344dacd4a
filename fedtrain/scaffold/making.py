"""Write the folder of a new experiment from the templates beside this module.

A template is a file whose name ends in ``.txt``, less which it is written. ``$name`` in it is the experiment's name.
Those of ``shared`` are in every folder, and one of the kind wins over one of that name in ``shared``.
"""

import re
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Final

from fedtrain.errors import UsageError
from fedtrain.files import write_atomic
from fedtrain.scaffold.made_up import machines, messages, patients

KINDS: Final[dict[str, str]] = {
    "image": "images that belong to classes; begins with handwritten digits",
    "text": "texts that belong to classes; begins with made-up messages to three practices",
    "audio": "sounds that belong to classes; begins with made-up machines at three works",
    "table": "rows of a table; begins with made-up patients of three hospitals",
    "custom": "a task of your own, in Python; begins with handwritten digits",
}
"""Each kind of experiment that can be begun, and what it is of."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RECORDS: Final[dict[str, tuple[str, Callable[[], bytes]]]] = {
    "text": ("messages.parquet", messages),
    "audio": ("sounds.parquet", machines),
    "table": ("patients.csv", patients),
}


def make_app(folder: Path, kind: str) -> tuple[Path, ...]:
    """Write the folder of a new experiment, which is named like it.

    Args:
        folder: the folder, which does not exist or is empty.
        kind: one of `KINDS`.

    Returns:
        The files that were written, sorted.

    Raises:
        UsageError: there is no such kind, or the folder holds something, or its name is none for an experiment.
        StorageError: it cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f'there is no task "{kind}" to begin with; allowed: {", ".join(KINDS)}')
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for an experiment: it begins with a letter or a digit, and holds letters, digits, "
            "dots, underscores and hyphens, up to 64"
        )
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists already, and is not empty; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    contents = {
        file.name.removesuffix(".txt"): Template(file.read_text(encoding="utf-8")).substitute(name=name).encode()
        for part in ("shared", kind)
        for file in _templates(part)
    }
    if kind in _RECORDS:
        file, made = _RECORDS[kind]
        contents[file] = made()
    for file, content in contents.items():
        write_atomic(folder / file, content)
    return tuple(folder / file for file in sorted(contents))


def _templates(part: str) -> list[Traversable]:
    return [file for file in (files("fedtrain.scaffold") / "templates" / part).iterdir() if file.name.endswith(".txt")]
