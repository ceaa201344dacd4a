"""An experiment as a file that a person edits: every field with what it means, what it takes and its default."""

import json
import textwrap
from collections.abc import Mapping

from fedtrain.config.described import Described, described
from fedtrain.config.loading import Scalar

_WIDTH = 100


def commented(values: Mapping[str, Scalar], *, head: str) -> str:
    """Return an experiment in TOML, with a comment on each field.

    A field that has a value of its own is set. The others are comments, with their defaults.

    Args:
        values: by dotted key.
        head: what the file begins with, without ``#``.

    Example:
        >>> print(commented({"seed": 3}, head="Mine.")[:142])
        # Mine.
        # A field after "#" without a blank is not set: take the "#" away to set it.
        <BLANKLINE>
        # the name in reports
        # takes: text
        #name = "experiment"
    """
    fields = sorted(described().values(), key=lambda field: _table(field) != "")  # those of no table come first
    tables: dict[str, list[Described]] = {}
    for field in fields:
        tables.setdefault(_table(field), []).append(field)
    parts = [f'# {head}\n# A field after "#" without a blank is not set: take the "#" away to set it.\n']
    for table, members in tables.items():
        title = [f"[{table}]\n"] if table else []
        parts += title + [_field(field, values) for field in members]
    return "\n".join(parts)


def _table(field: Described) -> str:
    return field.key.rpartition(".")[0]


def _field(field: Described, values: Mapping[str, Scalar]) -> str:
    name = field.key.rpartition(".")[2]
    lines = [*_wrapped(field.about), *_wrapped(f"takes: {field.allowed}")]
    if field.key in values:
        # JSON's scalars and strings are TOML's, but for one character that TOML wants escaped.
        value = json.dumps(values[field.key], ensure_ascii=False).replace("\x7f", "\\u007f")
        lines.append(f"{name} = {value}")
    else:
        default = '""' if field.default == "unset" else field.default
        lines.append(f"#{name} = {default}")
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )
