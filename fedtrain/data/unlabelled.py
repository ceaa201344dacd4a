"""Records without targets, to predict them: read by the public schema of a model's inputs, and by nothing else.

A file is an archive of arrays (``.npz`` with ``x``, or ``.npy``), a table (``.csv``, ``.parquet``), an image, or a
folder of images. What differs from the schema is named.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedtrain.data.sources.base import Place
from fedtrain.data.types import Columns, DataInfo, Image, Sound, Text
from fedtrain.errors import DataError

_ARRAYS, _TABLES, _IMAGES = (".npz", ".npy"), (".csv", ".parquet"), (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Records without targets.

    Attributes:
        features: shape (n, *info.shape), of the dtype of the schema.
        names: what each record is called: its row from 0, or its file.
    """

    features: NDArray[np.uint8] | NDArray[np.float32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.features)


def read_unlabelled(
    path: Path, info: DataInfo, *, schema_file: str | None = None, text_column: str | None = None
) -> Unlabelled:
    """Read records of a schema.

    Args:
        path: a file, or a folder of images.
        info: the schema of the records that the model was trained on.
        schema_file: of a table that was decoded by one, the schema file, by which this one is decoded too.
        text_column: where the records are texts, the column of a table that holds them.

    Raises:
        DataError: the file cannot be read, or holds records of another schema; it says what differs.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    kind = path.suffix.lower()
    if path.is_dir() or kind in _IMAGES:
        return _images(path, info)
    if kind in _ARRAYS:
        if schema_file is not None:
            raise DataError(
                f"{path} holds arrays, and the model takes columns as the schema file {schema_file} decodes them; give "
                f"a table: {' or '.join(_TABLES)}"
            )
        return _arrays(path, info)
    if kind in _TABLES:
        if isinstance(info.features, Text):
            return _texts(path, info, text_column)
        return _table(path, info) if schema_file is None else _by_schema(path, info, schema_file)
    allowed = ", ".join((*_ARRAYS, *_TABLES, *_IMAGES))
    raise DataError(f"{path}: what is in a file is told by its suffix; allowed: {allowed}, or a folder of images")


def _refuse(path: Path, found: str, info: DataInfo) -> DataError:
    return DataError(f"{path} holds {found}, and the model takes {words(info)}")


def words(info: DataInfo) -> str:
    """Return what a record is, in words."""
    if isinstance(info.features, Image):
        channels, height, width = info.shape
        return f"images of {width} x {height} pixels with {channels} {'channel' if channels == 1 else 'channels'}"
    if isinstance(info.features, Columns):
        return f"rows of {info.shape[0]} numbers"
    if isinstance(info.features, Text):
        return "texts, in a column of a table"
    if isinstance(info.features, Sound):
        return f"sounds of {info.shape[0]} samples at {info.features.rate:,} Hz, in an archive"
    return f"records of shape {info.shape}"


def _images(path: Path, info: DataInfo) -> Unlabelled:
    from fedtrain.data.sources.images import decode_images  # noqa: PLC0415 - Pillow takes a second to import

    if not isinstance(info.features, Image):
        raise _refuse(path, "images", info)
    files = [path] if path.is_file() else _images_below(path)
    if not files:
        raise DataError(f"{path} holds no image: {', '.join(_IMAGES)} are read")
    names = tuple(file.name if file == path else file.relative_to(path).as_posix() for file in files)
    contents = (file.read_bytes() for file in files)
    try:
        features = decode_images(contents, len(files), place=lambda row: str(files[row]), shape=info.shape)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return Unlabelled(features=features, names=names)


def _images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, without what systems leave there, such as small copies."""
    from fedtrain.data.sources.base import files_below, is_passed_over  # noqa: PLC0415 - likewise

    files = [file for file in files_below(folder) if file.suffix.lower() in _IMAGES]
    return [file for file in files if not any(map(is_passed_over, file.relative_to(folder).parts))]


def _arrays(path: Path, info: DataInfo) -> Unlabelled:
    from fedtrain.data.sources.arrays import UNREADABLE, features_of  # noqa: PLC0415 - like every decoder, only where it is used

    try:
        with path.open("rb") as file:  # NumPy leaves a damaged archive open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                if "x" not in loaded.files:
                    raise DataError(f"{path}: there is no array 'x'; the archive holds: {', '.join(loaded.files)}")
                loaded = loaded["x"]
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as a NumPy archive: {error}") from error
    features = features_of(np.asarray(loaded), f"{path}: x")
    if features.shape[1:] != info.shape or features.dtype != info.features.dtype:
        raise _refuse(path, f"records of shape {features.shape[1:]} and type {features.dtype}", info)
    return Unlabelled(features=features, names=_rows(len(features)))


def _table(path: Path, info: DataInfo) -> Unlabelled:
    from fedtrain.data.sources.columns import numbers  # noqa: PLC0415 - pyarrow takes a second to import

    if not isinstance(info.features, Columns):
        raise _refuse(path, "a table", info)
    wanted = info.columns
    if not wanted:
        raise DataError(
            f"{path} is a table, and the model was trained on arrays whose columns have no names; give an archive "
            f"(.npz) with x of shape (n, {info.shape[0]})"
        )
    if len(set(wanted)) < info.shape[0]:
        raise DataError(
            "the model has columns of categories, and a run without a public schema of them does not say which feature "
            "is which category; give an archive (.npz) with the features in the order of inputs.json"
        )
    table, place = _read_table(path, dict.fromkeys(wanted, "float64"))
    columns = [numbers(_numeric(table, name, path), column=name, place=place) for name in wanted]
    return Unlabelled(features=np.stack(columns, axis=1), names=_rows(table.num_rows))


def _by_schema(path: Path, info: DataInfo, schema_file: str) -> Unlabelled:
    from fedtrain.data.schema import read_schema  # noqa: PLC0415 - likewise
    from fedtrain.data.sources.base import path_of  # noqa: PLC0415
    from fedtrain.data.sources.delimited import read_delimited  # noqa: PLC0415
    from fedtrain.data.sources.parquet import read_table  # noqa: PLC0415
    from fedtrain.data.sources.tables import features_by_schema  # noqa: PLC0415

    schema = read_schema(path_of(schema_file))
    if not isinstance(info.features, Columns) or schema.digest != info.features.schema:
        raise DataError(
            f"the schema file {schema_file} has the digest {schema.digest}, and is not the one by which the model's "
            "records were decoded: its digest is data.schema_digest in the report. Put that file there"
        )
    if path.suffix.lower() == ".parquet":
        table = read_table(path, schema.columns, schema.csv)
    else:
        table = read_delimited(path, schema.csv, names=None if schema.csv.header else tuple(schema.columns))
    return Unlabelled(features=features_by_schema(table, schema), names=_rows(table.rows))


def _texts(path: Path, info: DataInfo, column: str | None) -> Unlabelled:
    from fedtrain.data.sources.plain import named, plain, plain_type  # noqa: PLC0415 - likewise
    from fedtrain.data.sources.text import decode_texts, holds_text  # noqa: PLC0415

    if column is None:
        raise DataError(f"{path} is a table, and the run does not say which column was the text (data.text_column)")
    table, place = _read_table(path, {column: "string"})
    values = table[column]
    if not holds_text(values.type):
        raise DataError(f"{path}, column {column!r} has type {named(values.type)}, and the model takes texts")
    texts = plain(values, plain_type(values.type, coded=True), what=f"{path}, column {column!r}")
    features = decode_texts(texts, column=column, place=place, length=info.shape[0])
    return Unlabelled(features=features, names=_rows(table.num_rows))


_Kinds = Mapping[str, Literal["float64", "string"]]


def _read_table(path: Path, wanted: _Kinds) -> tuple[Any, Place]:
    """Return columns of a table, a ``pyarrow.Table``, and what names its rows."""
    table, place = _of_parquet(path, wanted) if path.suffix.lower() == ".parquet" else _of_csv(path, wanted)
    if not table.num_rows:
        raise DataError(f"{path} holds no records")
    return table, place


def _of_parquet(path: Path, wanted: _Kinds) -> tuple[Any, Place]:
    import pyarrow as pa  # noqa: PLC0415 - likewise
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        schema = pq.read_schema(path)
        _require(path, wanted, schema.names)
        _refuse_named_numbers(path, wanted, schema)
        table = pq.read_table(path, columns=list(wanted), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    return table, lambda row: f"{path}, row {row}"


def _of_csv(path: Path, wanted: _Kinds) -> tuple[Any, Place]:
    import pyarrow as pa  # noqa: PLC0415 - likewise

    from fedtrain.data.sources.listed import read_listed  # noqa: PLC0415
    from fedtrain.data.sources.values import number_values  # noqa: PLC0415

    texts = [name for name, kind in wanted.items() if kind == "string"]
    table = read_listed(path, texts)
    _require(path, wanted, list(table.columns))
    columns = {name: table.columns[name] if name in texts else number_values(table, name) for name in wanted}
    return pa.table(columns), table.place


def _refuse_named_numbers(path: Path, wanted: Mapping[str, str], schema: Any) -> None:
    """Refuse numbers that stand for names: the model knows them by the order of names in its training file."""
    from fedtrain.data.sources.metadata import class_names_of  # noqa: PLC0415 - likewise

    names = class_names_of(schema)
    if named := [name for name, kind in wanted.items() if kind == "float64" and name in names]:
        raise DataError(
            f"{path}, column {named[0]!r}: its metadata says that its numbers mean {', '.join(names[named[0]])}, and a "
            "run without a public schema does not say which number meant what to the model; give an archive (.npz) "
            "with the numbers that the training file had"
        )


def _require(path: Path, wanted: Collection[str], held: Sequence[str]) -> None:
    if twice := [name for name in wanted if held.count(name) > 1]:
        raise DataError(
            f"{path}: more than one column is named {twice[0]!r}, and a name cannot tell which is meant; give each "
            "column a name of its own"
        )
    if missing := [name for name in wanted if name not in held]:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}, which the model takes; it has: {', '.join(held)}"
        )


def _numeric(table: Any, name: str, path: Path) -> Any:
    from fedtrain.data.sources.plain import is_numeric, named  # noqa: PLC0415 - likewise

    values = table[name]
    if not is_numeric(values.type):
        raise DataError(f"{path}, column {name!r} has type {named(values.type)}, and the model takes numbers")
    return values


def _rows(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))
