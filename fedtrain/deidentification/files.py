"""Tables whose column of texts is de-identified, some rows at a time; all else in them stays as it is."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from fedtrain.deidentification.engine import ENGLISH, Deidentifier
from fedtrain.errors import ConfigError, DataError, StorageError
from fedtrain.files import sync_folder
from fedtrain.progress import working

_TOGETHER: Final = 1000  # rows that are held at once
_LONGEST: Final = 64 << 20  # characters of a value
_COMMA: Final = ","
_CSV: Final = ".csv"
_KINDS: Final = (_CSV, ".parquet")


@dataclass(frozen=True, kw_only=True)
class Deidentified:
    """What was done.

    Attributes:
        file: where it was written.
        rows: of the table.
        changed: rows whose text is another.
        replaced: how many of each entity of the policy were replaced.
        language: of the texts.
        model: the spaCy model; ``None`` for patterns alone.
    """

    file: Path
    rows: int
    changed: int
    replaced: dict[str, int]
    language: str
    model: str | None


@dataclass(kw_only=True)
class _Counted:
    """Texts that are replaced, counted."""

    replace: Deidentifier
    path: Path
    rows: int = 0
    changed: int = 0
    replaced: Counter[str] = field(default_factory=Counter)

    def text(self, text: str | None) -> str | None:
        """Return the text of the next row; a missing one stays missing."""
        self.rows += 1
        if text is None:
            return None
        try:
            found, counts = self.replace.replaced(text)
        except ValueError as error:
            raise DataError(f"{self.path}, row {self.rows}: {error}") from error
        self.changed += found != text
        self.replaced.update(counts)
        return found


def deidentify(
    path: Path,
    out: Path,
    *,
    column: str,
    delimiter: str = _COMMA,
    entities: tuple[str, ...] = (),
    model: str | None = None,
    language: str = ENGLISH,
) -> Deidentified:
    """Write a table again with the entities in a column of texts replaced by their names, such as ``<EMAIL_ADDRESS>``.

    Nothing is overwritten: ``out`` must not exist. It appears when all of it is written, and nobody can read it who
    cannot read ``path``. Other columns, the order of the rows, blank lines and of a Parquet file the types stay as they
    are.

    This is no anonymisation and no differential privacy: what no pattern and no model finds stays.

    Args:
        path: a ``.csv`` file in UTF-8, with a row of names, or a ``.parquet`` file.
        out: the new file, of the same kind.
        column: the column of texts.
        delimiter: between two values of a ``.csv`` file, and of the new one.
        entities: what is looked for; empty for the default policy.
        model: an installed spaCy model, by its package or its folder, which also finds names and places.
        language: of the texts.

    Raises:
        ConfigError: the file that is to be written exists or is of another kind, Presidio is not installed, or the
            delimiter, the policy, the language or the model cannot be used.
        DataError: the table cannot be read, has no such column, or the column holds no text.
        StorageError: the new file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise DataError(f"{path}: what is in a file is told by its suffix; allowed: {', '.join(_KINDS)}")
    if out.suffix.lower() != kind:
        raise ConfigError(f"{out} is to be a {kind} file, as {path} is")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} is there already, and nothing is overwritten: name another file (--out)")
    _require_delimiter(path, delimiter)
    counted = _Counted(replace=Deidentifier(entities, model=model, language=language), path=path)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with working("de-identifying texts"):
            if kind == _CSV:
                _csv(path, part, column, delimiter, counted)
            else:
                _parquet(path, part, column, counted)
        part.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return Deidentified(
        file=out,
        rows=counted.rows,
        changed=counted.changed,
        replaced={name: counted.replaced[name] for name in counted.replace.policy},
        language=language,
        model=model,
    )


def _require_delimiter(path: Path, delimiter: str) -> None:
    if path.suffix.lower() != _CSV:
        if delimiter != _COMMA:
            raise ConfigError(f"--delimiter {delimiter!r} is of a CSV file, and {path} is none")
        return
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter.isalnum() or delimiter in '"\r\n\0':
        raise ConfigError(
            f"--delimiter {delimiter!r} cannot be used: it is one character of ASCII, and no letter, digit, quote or "
            "line break"
        )


def _csv(path: Path, part: Path, column: str, delimiter: str, counted: _Counted) -> None:
    with _readable(path) as file, _long_values():
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        names = next(_rows(path, rows), None)
        if not names:
            raise DataError(f"{path} holds no row of names" + (", which is the first line" if names == [] else ""))
        at = _place(path, column, names, hint="" if len(names) > 1 else _delimiter_hint(delimiter))
        with _writable(path, part) as written:
            table = csv.writer(written, delimiter=delimiter, lineterminator="\n")
            table.writerow(names)
            for row in _rows(path, rows):
                if not row:  # a blank line stays one
                    table.writerow(row)
                    continue
                if len(row) != len(names):
                    raise DataError(
                        f"{path}, line {rows.line_num}: {len(row)} values, and there are {len(names)} columns"
                    )
                row[at] = counted.text(row[at]) or ""
                table.writerow(row)


def _rows(path: Path, reader: Any) -> Iterator[list[str]]:
    """Give each row of a reader of `csv`.

    Raises:
        DataError: one cannot be read; it says in which line it begins.
    """
    line = reader.line_num + 1
    try:
        for row in reader:
            yield row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: cannot be read as CSV: {error}; a quote within a value is to be written twice"
        ) from error


def _parquet(path: Path, part: Path, column: str, counted: _Counted) -> None:
    import pyarrow as pa  # noqa: PLC0415 - takes a second to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file: {error}") from error
    with table:
        schema = table.schema_arrow
        at = _place(path, column, schema.names)
        kind = schema.field(at).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)):
            raise DataError(f"{path}: the column {column!r} has type {kind}, and texts are to be de-identified")
        with _written_table(pq, path, part, schema) as written:
            batches = table.iter_batches(batch_size=_TOGETHER)
            while (batch := _next(path, batches, pa.ArrowException)) is not None:
                texts = pa.array([counted.text(text) for text in _texts(path, counted.rows, batch.column(at))], plain)
                values = texts.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else texts
                written.write_batch(batch.set_column(at, schema.field(at), values))


def _texts(path: Path, before: int, values: Any) -> list[str | None]:
    """Return texts of a file, whose strings may be any bytes: Arrow reads them without a look."""
    try:
        return list(values.to_pylist())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, rows {before + 1:,} to {before + len(values):,}: a text is not UTF-8: byte {error.start + 1} of "
            f"it is none ({error.reason}); write the file again from text that was read with the encoding that it has"
        ) from None  # the error quotes the text


def _next(path: Path, batches: Iterator[Any], broken: type[Exception]) -> Any:
    try:
        return next(batches, None)
    except (OSError, broken) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file: {error}") from error


def _delimiter_hint(delimiter: str) -> str:
    return f". That is one column, with {delimiter!r} between values: --delimiter names another sign"


def _place(path: Path, column: str, names: list[str], hint: str = "") -> int:
    if names.count(column) > 1:
        raise DataError(f"{path}: {names.count(column)} columns are named {column!r}; give each a name of its own")
    if column not in names:
        raise DataError(f"{path} has no column {column!r}; it has: {', '.join(names)}{hint}")
    return names.index(column)


@contextmanager
def _readable(path: Path) -> Iterator[TextIO]:
    try:
        file = path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        with file:
            yield file
    except UnicodeDecodeError:
        raise _not_utf8(path) from None  # the error quotes the text


def _not_utf8(path: Path) -> DataError:
    """Return an error that names the first line with a byte that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path}, line {number} has a byte that is not UTF-8 (0x{line[error.start]:02x}); save it as UTF-8"
                )
    return DataError(f"{path} is not UTF-8; save it as UTF-8")


@contextmanager
def _long_values() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@contextmanager
def _writable(path: Path, part: Path) -> Iterator[Any]:
    with open(part, "x", encoding="utf-8", newline="", opener=_as_closed_as(path)) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _written_table(pq: Any, path: Path, part: Path, schema: Any) -> Iterator[Any]:
    with open(part, "xb", opener=_as_closed_as(path)) as file:
        with pq.ParquetWriter(file, schema) as written:
            yield written
        file.flush()
        os.fsync(file.fileno())


def _as_closed_as(path: Path) -> Callable[[str, int], int]:
    """Return what opens a new file for those alone who can read a file that is there."""
    mode = path.stat().st_mode & 0o777
    return lambda name, flags: os.open(name, flags | os.O_CLOEXEC, mode)
