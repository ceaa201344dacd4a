"""Tables decoded by a schema file: a value becomes features by what that says of its column, and by nothing else.

Values are text, as those of CSV files, or of a type of Arrow, as those of Parquet files. Either way a value that does
not fit its column is refused, with the file, the place and the column.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.config.loading import nearest
from fedtrain.data.schema import TableSchema, read_schema
from fedtrain.data.schema_columns import (
    BooleanColumn,
    CategoryColumn,
    Column,
    DateColumn,
    IgnoredColumn,
    NumberColumn,
    OwnerColumn,
    TargetColumn,
)
from fedtrain.data.sources.base import Decoded, path_of, require_records
from fedtrain.data.sources.columns import Coded, coded, require_values, some, without_negative_zero
from fedtrain.data.sources.values import ABSENT, Mask, Numbers, Table, Values
from fedtrain.data.types import Columns, DataInfo, RuleCounts, Split
from fedtrain.errors import DataError
from fedtrain.progress import working


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    features: NDArray[np.float32]
    targets: NDArray[Any]
    owners: Any
    rules: Mapping[str, Counter[str]]


def open_schema(data: Data) -> TableSchema:
    """Read the schema file that an experiment or a site names, and hold it against what else that says.

    Raises:
        DataError: it cannot be used, has another target or digest, or no owner where records are split by one.
    """
    assert data.schema_file is not None
    path = path_of(data.schema_file)
    schema = read_schema(path)
    if schema.target.kind != data.target:
        raise DataError(
            f'data.target = "{data.target}", and the target of the schema file {path} is a {schema.target.kind}; set '
            f'data.target = "{schema.target.kind}"'
        )
    if data.schema_digest is not None and data.schema_digest != schema.digest:
        raise DataError(
            f"the schema file {path} has the digest {schema.digest}, and data.schema_digest is {data.schema_digest}: "
            "it is not the schema that was agreed on. Get that file, or, if this one is meant, let all sites have it"
        )
    owner = data.partition.column
    if owner is not None and not isinstance(schema.columns.get(owner), OwnerColumn):
        owners = [name for name, column in schema.columns.items() if isinstance(column, OwnerColumn)]
        raise DataError(
            f'partition.column = {owner!r} is no column of kind = "owner" in the schema file {path}'
            f"{nearest(owner, owners) if owners else '; it has none'}"
        )
    return schema


def decode_by_schema(
    data: Data, files: Callable[[str], Sequence[Path]], read: Callable[[Path, TableSchema], Table]
) -> Decoded:
    """Read training files, and test files where ``test_path`` is set, by the schema.

    Args:
        data: where the records come from.
        files: returns the files that a path names.
        read: reads one of them.

    Raises:
        DataError: a file or the schema is missing or malformed, the two sets overlap, or a value does not fit.
    """
    assert data.path is not None  # Data is validated
    schema = open_schema(data)
    train, test = files(data.path), files(data.test_path) if data.test_path else ()
    shared = {file.resolve() for file in train} & {file.resolve() for file in test}
    if shared:
        raise DataError(f"{min(shared)} is both training and test data; give path and test_path different files")

    def encoded(part: Sequence[Path], owner: str | None) -> list[_Encoded]:
        found = []
        with working("decoding tables", len(part)) as done:
            for number, file in enumerate(part, start=1):
                table = read(file, schema)
                require_columns(table, schema, owner)
                require_records(table.rows, table.name)
                found.append(_encode(table, schema, owner))
                done(number)
        return found

    owner = data.partition.column
    parts = encoded(train, owner)
    owners = _owners(parts, owner) if owner else None
    return Decoded(
        info=DataInfo(
            features=Columns(shape=(len(schema.features),), names=schema.features, schema=schema.digest),
            target=schema.target,
        ),
        train=_together(parts, owners),
        test=_together(encoded(test, None), None) if test else None,
        owners=tuple(map(str, owners.categories())) if owners else (),
        rules=_counted(parts, schema),
    )


def _counted(parts: Sequence[_Encoded], schema: TableSchema) -> tuple[RuleCounts, ...]:
    """Return how often rules were needed, of the columns where they were."""
    totals = {name: sum((part.rules.get(name, Counter()) for part in parts), Counter()) for name in schema.columns}
    return tuple(RuleCounts(column=name, **total) for name, total in totals.items() if total)


def require_columns(table: Table, schema: TableSchema, owner: str | None) -> None:
    """Refuse a table that lacks a column of the schema, or has one that the schema does not know.

    Raises:
        DataError: names the file and the column.
    """
    optional = {
        name
        for name, column in schema.columns.items()
        if isinstance(column, IgnoredColumn) or (isinstance(column, OwnerColumn) and name != owner)
    }
    missing = [name for name in schema.columns if name not in table.columns and name not in optional]
    unknown = [name for name in table.columns if name not in schema.columns]
    if missing:
        also = f"; it has {some([repr(name) for name in unknown])}, which the schema does not know" if unknown else ""
        raise DataError(f"{table.name}: there is no column {missing[0]!r}, which is in the schema file{also}")
    if unknown:
        raise DataError(
            f"{table.name}: the column {unknown[0]!r} is not in the schema file"
            f"{nearest(unknown[0], schema.columns) if unknown[0] else ', and has no name'}; "
            f'to pass it over, add {json.dumps(unknown[0], ensure_ascii=False)} = {{ kind = "ignore" }} to [columns]'
        )


def features_by_schema(table: Table, schema: TableSchema) -> NDArray[np.float32]:
    """Return the features of a table, shape (n, features), as training records have them.

    Targets are not looked at. Columns that the schema does not know are passed over.

    Raises:
        DataError: a column of a feature is missing, the table holds no records, or a value does not fit.
    """
    wanted = {
        name: column
        for name, column in schema.columns.items()
        if column.decisive and not isinstance(column, TargetColumn)
    }
    if missing := [name for name in wanted if name not in table.columns]:
        raise DataError(
            f"{table.name} has no column {some([repr(name) for name in missing])}, which the model takes; it has: "
            f"{some([repr(name) for name in table.columns])}"
        )
    require_records(table.rows, table.name)
    return _encode(table, schema, None, columns=wanted).features


def _owners(parts: Sequence[_Encoded], column: str) -> Coded:
    chunks = [chunk for part in parts for chunk in part.owners.chunks]
    return coded(pa.chunked_array(chunks, type=pa.large_string()), column=column, place=str)


def _together(parts: Sequence[_Encoded], owners: Coded | None) -> Split:
    return Split(
        features=np.concatenate([part.features for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        owners=owners.encode(owners.categories(), what="owner", place=str) if owners else None,
    )


def _encode(
    table: Table, schema: TableSchema, owner: str | None, *, columns: Mapping[str, Column] | None = None
) -> _Encoded:
    """Decode some columns of the schema, or all of them."""
    features = np.zeros((table.rows, len(schema.features)), dtype=np.float32)
    targets: NDArray[Any] = np.zeros(0)
    low, high = schema.range
    rules: dict[str, Counter[str]] = {}
    start = 0
    for name, column in (schema.columns if columns is None else columns).items():
        if not column.decisive:
            continue
        value = Values(table=table, column=name, counts=rules.setdefault(name, Counter()))
        width = len(column.feature_names(name))
        out = features[:, start : start + width]
        start += width
        match column:
            case NumberColumn():
                _fill(out, *_scaled(value, value.numbers(), column, low, high), low, high)
            case DateColumn():
                _fill(out, *_scaled(value, value.days(column.format), column, low, high), low, high)
            case BooleanColumn():
                booleans, absent = value.booleans()
                value.require(absent, column.missing)
                _fill(out, low + (high - low) * np.where(absent, 0.5, booleans), absent, low, high)
            case CategoryColumn():
                codes = value.categories(column.values, column.aliases, other=column.unseen == "other")
                value.require(codes == ABSENT, column.missing)
                value.count("unseen", codes == len(column.values))
                out[np.arange(table.rows), np.where(codes == ABSENT, width - 1, codes)] = 1
            case TargetColumn():
                targets = _targets(value, column, low, high)
    owners = None
    if owner is not None:
        owners = Values(table=table, column=owner, counts=Counter()).text()
        require_values(owners, column=owner, place=table.place)
    return _Encoded(features=features, targets=targets, owners=owners, rules=rules)


def _targets(value: Values, column: TargetColumn, low: float, high: float) -> NDArray[Any]:
    if column.values is not None:
        codes = value.categories(column.values, column.aliases, other=False)
        value.require(codes == ABSENT, "refuse")
        return codes
    assert column.number is not None  # the schema is validated
    scaled, _ = _scaled(value, value.numbers(), column.number, low, high)
    return without_negative_zero(scaled.astype(np.float32))


def _fill(out: NDArray[np.float32], values: Numbers, absent: Mask, low: float, high: float) -> None:
    """Write a value, and where there is room for one an indicator that it is missing."""
    out[:, 0] = without_negative_zero(np.clip(values, low, high).astype(np.float32))
    if out.shape[1] > 1:
        out[:, 1] = absent


def _scaled(
    value: Values, found: tuple[Numbers, Mask], column: NumberColumn | DateColumn, low: float, high: float
) -> tuple[Numbers, Mask]:
    """Return numbers scaled by public bounds, those outside by the rule of the column, and which are missing.

    Raises:
        DataError: one is missing or outside, and is to be refused.
    """
    numbers, absent = found
    value.require(absent, column.missing)
    lower, upper = column.bounds
    numbers = np.where(absent, column.stand_in, numbers)
    outside = (numbers < lower) | (numbers > upper)
    value.count("clipped", outside)
    if column.outside == "refuse" and outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{value.place(row)}: {value.shown(row)} is outside of lower = {column.lower} and upper = {column.upper} "
            'in the schema file; correct it, or set outside = "clip", by which it counts as the nearer bound'
        )
    return low + (high - low) * (np.clip(numbers, lower, upper) - lower) / (upper - lower), absent
