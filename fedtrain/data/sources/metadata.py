"""What other programs say of the columns of an Arrow table, in the metadata of its schema.

pandas says which columns are the index of a data frame. The hub's library says what the integers of a column mean.
"""

import json
import re
from typing import Any

import pyarrow as pa

from fedtrain.data.sources.plain import holds_lists

_INDEX = re.compile(r"__index_level_\d+__")


def index_columns(schema: Any) -> frozenset[str]:
    """Return the columns that hold the index of a pandas data frame, which numbers or names rows and describes none.

    The metadata of pandas lists them. An index without a name is a column of a name that pandas keeps for it, and is
    known by that where another program has dropped the metadata.
    """
    text = (schema.metadata or {}).get(b"pandas")
    try:
        listed = [] if text is None else list(json.loads(text)["index_columns"])
    except (ValueError, KeyError, TypeError):
        listed = []
    # A range is in the metadata alone, as an object of its bounds.
    named = {column for column in listed if isinstance(column, str)}
    return frozenset(column for column in schema.names if column in named or _INDEX.fullmatch(column))


def class_names_of(schema: Any) -> dict[str, tuple[str, ...]]:
    """Return the names that the metadata of the hub gives to the integers of columns, or of columns of lists."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        described = {} if text is None else json.loads(text)["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    names = {}
    for column, feature in dict(described).items():
        if (found := _named_numbers(feature)) is not None and _holds_integers(schema, column):
            names[column] = found
    return names


def _named_numbers(feature: Any) -> tuple[str, ...] | None:
    try:
        if isinstance(feature, list):  # a list, as datasets wrote it before version 4
            (feature,) = feature
        feature = feature.get("feature", feature)
        return tuple(str(name) for name in feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _holds_integers(schema: Any, column: str) -> bool:
    place = schema.get_field_index(column)
    if place < 0:
        return False
    kind = schema.field(place).type
    return bool(pa.types.is_integer(kind.value_type if holds_lists(kind) else kind))
