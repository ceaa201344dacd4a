"""Arrow tables in the column layout of the Hugging Face hub, decoded to records."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.config.loading import nearest
from fedtrain.data.sources.base import Decoded, Place, require_records
from fedtrain.data.sources.columns import (
    Coded,
    LabelLists,
    TableEncoding,
    coded,
    label_categories,
    label_columns,
    label_lists,
    number_column,
    refuse_identifiers,
    some,
    with_test_labels,
)
from fedtrain.data.sources.images import decode_images
from fedtrain.data.sources.plain import holds_files, holds_lists
from fedtrain.data.sources.sounds import SoundForm, decode_sounds
from fedtrain.data.sources.text import decode_texts, holds_text
from fedtrain.data.types import (
    ClassTarget,
    Columns,
    DataInfo,
    Features,
    Image,
    Labels,
    LabelsTarget,
    NumberTarget,
    Split,
    Target,
    TargetKind,
    Text,
    TextTarget,
    stored_shape,
)
from fedtrain.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Records:
    """A table, and how to name it and its rows in errors.

    Attributes:
        table: a ``pyarrow.Table``, each column of a plain type (`fedtrain.data.sources.plain`).
        class_names: what the numbers of a column mean, of each column where the metadata says it.
        name: the file or split.
        place: names a row.
    """

    table: Any
    class_names: Mapping[str, tuple[str, ...]]
    name: str
    place: Place


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What each column is: a column of files, a text column or columns of features; and those of the target.

    Attributes:
        target: what is predicted.
        labels: the columns of the target; none where the text itself is the target.
        files: the column of images or sounds, if records are such.
        sound: what sounds are to be; ``None`` where the files are images.
        text: the column of texts, if records are such.
        text_bytes: the most bytes of a text that are kept.
        features: the columns of a table.
        asked: whether the configuration names them.
        owner: the column of the owner.
    """

    target: TargetKind
    labels: tuple[str, ...]
    files: str | None
    sound: SoundForm | None
    text: str | None
    text_bytes: int
    features: tuple[str, ...]
    asked: bool
    owner: str | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read."""
        single = self.files or self.text
        used = (*self.labels, *((single,) if single else self.features))
        return (*used, self.owner) if self.owner and self.owner not in used else used

    @property
    def coded(self) -> frozenset[str]:
        """The columns whose numbers are read as categories: labels and owners."""
        labels = () if self.target == "number" else self.labels
        return frozenset((*labels, self.owner) if self.owner else labels)


def roles(schema: Any, data: Data, *, name: str, left_out: Collection[str] = ()) -> Roles:
    """Find the roles of the columns of the training data.

    Args:
        schema: the schema.
        data: what the configuration names.
        name: the file or split.
        left_out: columns that are features only if the configuration names them.

    Raises:
        DataError: a column that the configuration names is unknown, or has a type that its role does not allow.
    """
    columns = tuple(schema.names)
    listed = None
    if data.feature_columns is not None:
        listed = tuple(dict.fromkeys(part.strip() for part in data.feature_columns.split(",")))
    _refuse_two_kinds(data)
    owner = data.partition.column
    labels = () if data.target == "text" else data.label_column_names or (data.label_column,)
    named = {
        "label_column" if data.label_columns is None else "label_columns": labels,
        "image_column": (data.image_column,) if data.image_column else (),
        "audio_column": (data.audio_column,) if data.audio_column else (),
        "text_column": (data.text_column,) if data.text_column else (),
        "feature_columns": listed or (),
        "partition.column": (owner,) if owner else (),
    }
    known = set(columns)
    for field, values in named.items():
        for value in values:
            if value not in known:
                raise DataError(f"{name}: {field} = {value!r}: {_no_column(value, columns, name)}")
    files = _file_column(schema, data, name) if listed is None and data.text_column is None else None
    excluded = {*labels, owner}
    for field in ("feature_columns", "text_column"):
        if both := excluded & set(named[field]):
            listing = ", ".join(sorted(str(column) for column in both))
            raise DataError(f"{name}: {field} names {listing}, the column of the label or the owner")
    if data.text_column is not None:
        _require_text(schema, data.text_column, name)
    unasked = {*excluded, data.group_column, *left_out}
    features = listed or tuple(column for column in columns if column not in unasked)
    if files is None and data.text_column is None and not features:
        index = [repr(column) for column in columns if column in left_out]
        hint = f"; pandas' index ({some(index)}) is one only if feature_columns names it" if index else ""
        raise DataError(f"{name}: there is no feature column besides {some(columns)}{hint}")
    return Roles(
        target=data.target,
        labels=labels,
        files=files,
        sound=None if data.sample_rate is None else SoundForm.of(data),
        text=data.text_column,
        text_bytes=data.max_bytes,
        features=() if files or data.text_column else features,
        asked=listed is not None,
        owner=owner,
    )


def _refuse_two_kinds(data: Data) -> None:
    fields = ("image_column", "feature_columns", "text_column")
    if len(both := [field for field in fields if getattr(data, field) is not None]) > 1:
        raise DataError(
            f"{both[0]} and {both[1]} are both set; a record is an image, a row of features, or a text: unset one"
        )


def _file_column(schema: Any, data: Data, name: str) -> str | None:
    """Return the column of the images or sounds; ``None`` of a table."""
    what, files = ("image", data.image_column) if data.sample_rate is None else ("audio", data.audio_column)
    if files is None:
        files = next(iter(file_columns(schema)), None)
    if files is not None and not holds_files(schema.field(files).type):
        raise DataError(
            f"{name}: {what}_column = {files!r} has type {schema.field(files).type}; "
            f"an {what} column is a struct with a binary field 'bytes'"
        )
    if files is None and data.sample_rate is not None:
        raise DataError(
            f"{name}: sample_rate = {data.sample_rate} says that records are sounds, and no column is a struct with a "
            "binary field 'bytes', as a column of sounds is; unset sample_rate for a table"
        )
    return files


def _require_text(schema: Any, column: str, name: str) -> None:
    if not holds_text(schema.field(column).type):
        raise DataError(
            f"{name}: text_column = {column!r} has type {schema.field(column).type}; a text column holds strings, or "
            "bytes that are UTF-8"
        )


def _no_column(value: str, columns: Sequence[str], name: str) -> str:
    if f"/{value}=" in name:
        return "the name of the folder says it, and only the columns of the files are read; write it into the files"
    return f"there is no such column{nearest(value, columns)}"


def decode_tables(train: Records, test: Records | None, role: Roles, *, class_names: tuple[str, ...] | None) -> Decoded:
    """Decode training and test tables that hold the columns of the roles.

    Args:
        train: the training records.
        test: the test records, if they are apart.
        role: what each column is.
        class_names: the classes or labels, where the experiment names them: then the training records need not have
            them all.

    Raises:
        DataError: a value is missing, malformed or not one of the known, or the test records differ in shape.
    """
    for records in (train, test) if test else (train,):
        require_records(records.table.num_rows, records.name)

    target, targets = _READERS[role.target](train, test, role, class_names)
    encoding = TableEncoding.fit(train.table, role.features, place=train.place) if role.features else None
    if not role.asked:
        refuse_identifiers(train.table, role.features, name=train.name)

    owners = coded(train.table[role.owner], column=role.owner, place=train.place) if role.owner else None

    def split(records: Records, shape: tuple[int, ...] | None, *, owners: Coded | None) -> Split:
        features, lengths = _features(records, role, encoding, shape=shape)
        return Split(
            features=features,
            targets=targets(records),
            owners=owners.encode(owners.categories(), what="owner", place=records.place) if owners else None,
            lengths=lengths,
        )

    training = split(train, None, owners=owners)
    shape = training.features.shape[1:]
    return Decoded(
        info=DataInfo(features=_schema(role, shape), target=target),
        train=training,
        test=split(test, shape, owners=None) if test else None,
        owners=_owner_names(train, role.owner, owners) if owners else (),
        categorical=_categorical(train, encoding) if encoding else (),
    )


def _features(
    records: Records, role: Roles, encoding: TableEncoding | None, *, shape: tuple[int, ...] | None
) -> tuple[NDArray[np.uint8] | NDArray[np.float32], Labels | None]:
    """Return the features, and the lengths of sounds."""
    table, place = records.table, records.place
    if encoding is not None:
        return encoding.encode(table, place=place), None
    if role.text is not None:
        return decode_texts(table[role.text], column=role.text, place=place, length=role.text_bytes), None
    if role.sound is not None:
        return _sounds(table[role.files], role, role.sound, place)
    return decode_images(_files(table[role.files], "image", place), table.num_rows, place=place, shape=shape), None


def _schema(role: Roles, shape: tuple[int, ...]) -> Features:
    if role.text is not None:
        return Text(shape=shape)
    if role.sound is not None:
        return role.sound.features
    return Image(shape=shape) if role.files is not None else Columns(shape=shape, names=role.features)


def _categorical(train: Records, encoding: TableEncoding) -> tuple[str, ...]:
    numbered = (column for column, _ in encoding.columns if column in train.class_names)
    return (*encoding.categorical, *numbered)


def _owner_names(train: Records, column: str | None, owners: Coded) -> tuple[str, ...]:
    names = train.class_names.get(column) if column else None
    return tuple(
        names[owner] if names and isinstance(owner, int) and 0 <= owner < len(names) else str(owner)
        for owner in owners.categories()
    )


TargetReader = tuple[Target, Callable[[Records], NDArray[Any]]]


def _read_classes(
    train: Records, test: Records | None, role: Roles, class_names: tuple[str, ...] | None
) -> TargetReader:
    (column,) = role.labels

    def labels(records: Records) -> Coded:
        return coded(records.table[column], column=column, place=records.place)

    names = train.class_names.get(column)
    categories = tuple(range(len(names))) if names else label_categories(labels(train), place=train.place)
    if class_names is not None and test and not names:
        categories = with_test_labels(categories, labels(test), place=test.place)
    target = ClassTarget(names=names or tuple(str(category) for category in categories))
    return target, lambda records: labels(records).encode(categories, what="label", place=records.place)


def _read_numbers(_train: Records, _test: Records | None, role: Roles, _names: tuple[str, ...] | None) -> TargetReader:
    (column,) = role.labels
    return NumberTarget(), lambda records: number_column(records.table[column], column=column, place=records.place)


def _read_labels(
    train: Records, _test: Records | None, role: Roles, class_names: tuple[str, ...] | None
) -> TargetReader:
    if len(role.labels) > 1 or not holds_lists(train.table.schema.field(role.labels[0]).type):
        return LabelsTarget(names=class_names or role.labels), lambda records: label_columns(
            records.table, role.labels, place=records.place
        )
    (column,) = role.labels

    def lists(records: Records) -> LabelLists:
        return label_lists(records.table[column], column=column, place=records.place)

    # What the experiment names are strings; of integers, their decimal forms.
    found = lists(train).labels.categories()
    by_name = {str(label): label for label in found}
    wanted = found if class_names is None else tuple(by_name.get(name, name) for name in class_names)
    return LabelsTarget(names=tuple(map(str, wanted))), lambda records: lists(records).matrix(wanted)


def _read_no_targets(
    _train: Records, _test: Records | None, _role: Roles, _names: tuple[str, ...] | None
) -> TargetReader:
    target = TextTarget()
    return target, lambda records: np.zeros(stored_shape(target, records.table.num_rows), target.dtype)


_READERS: dict[TargetKind, Callable[[Records, Records | None, Roles, tuple[str, ...] | None], TargetReader]] = {
    "class": _read_classes,
    "number": _read_numbers,
    "labels": _read_labels,
    "text": _read_no_targets,
}


def file_columns(schema: Any) -> tuple[str, ...]:
    """Return the columns that can be the image or the sound, in their order."""
    return tuple(field.name for field in schema if holds_files(field.type))


def _sounds(column: Any, role: Roles, form: SoundForm, place: Place) -> tuple[NDArray[np.float32], Labels]:
    def place_in_column(row: int) -> str:
        return f"{place(row)}, column {role.files!r}"

    return decode_sounds(_files(column, "sound", place_in_column), len(column), form=form, place=place_in_column)


def _files(column: Any, what: Literal["image", "sound"], place: Place) -> Iterator[bytes]:
    row = 0
    for chunk in column.chunks:
        for value in chunk:
            if not value.is_valid:
                raise DataError(f"{place(row)}: the {what} is missing: 'bytes' is empty")
            yield value.as_py()
            row += 1
