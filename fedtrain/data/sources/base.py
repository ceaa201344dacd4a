"""What a source is, and what it decodes to."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from fedtrain.config import Data
from fedtrain.data.types import DataInfo, RuleCounts, Split
from fedtrain.errors import DataError

_LEFT_BY_SYSTEMS: Final = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"}

Place = Callable[[int], str]
"""Says where a record is, from its row: the file and the row in it."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """All records of a source, in its order, checked.

    Attributes:
        info: the kind and shape of a record, and the classes.
        train: the training records, with their owners where ``partition.column`` is set.
        test: the test records where the source has them apart, else ``None``.
        owners: the names of the owners, in the order of their codes; empty where the source names none.
        categorical: the columns of categories that became features: one feature for each category that occurs, or the
            number that this source gives to the category.
        rules: of a schema file, how often the training records needed them, column by column.
    """

    info: DataInfo
    train: Split
    test: Split | None
    owners: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    rules: tuple[RuleCounts, ...] = ()


class Source(ABC):
    """A kind of file or service that records are read from.

    The registry holds one object for each kind. An object is light: what decodes imports pyarrow, Pillow or datasets,
    which take seconds that a cached store need not pay, and is imported by `decode`.
    """

    kind: ClassVar[str]
    """Its name in ``data.source``."""

    deployed: ClassVar[bool] = False
    """Whether a site of a deployment, and its server, can have records of this kind."""

    held_out: ClassVar[float | None] = None
    """The fraction of the records that is test data where the experiment names none."""

    def require(self, data: Data) -> None:  # noqa: B027 - most need nothing more than the configuration checks
        """Refuse a section that does not say where the training records are.

        Raises:
            DataError: it says what to set.
        """

    @abstractmethod
    def files(self, data: Data) -> tuple[Path, ...]:
        """Return every file whose content the decoded records depend on, training files first.

        None is opened but those that name others.

        Raises:
            DataError: a file or folder is missing.
        """

    @abstractmethod
    def decode(self, data: Data) -> Decoded:
        """Read and check all records.

        Two calls on the same files give the same arrays. The numbers of classes, categories and owners mean the same in
        every file that is read, training or test.

        Raises:
            DataError: the source is missing, malformed or empty.
        """

    def require_test_alone(self, data: Data) -> None:  # noqa: B027 - most keep test records in files of their own
        """Refuse files in ``path`` that hold training records beside the test records that a server needs.

        Raises:
            DataError: they do.
        """


def require_records(count: int, what: str) -> None:
    """Refuse an empty set of records.

    Raises:
        DataError: it is empty.
    """
    if count == 0:
        raise DataError(f"{what} holds no records")


def path_of(name: str) -> Path:
    """Return a path as a person writes it, ``~`` for the home folder.

    Raises:
        DataError: ``~name`` is of no user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise DataError(f"{name}: there is no user of that name on this machine; write the folder out") from error


def existing(name: str, what: Literal["file", "folder"] = "file") -> Path:
    """Return the path of a file, or of a folder.

    Raises:
        DataError: there is none.
    """
    path = path_of(name)
    if not (path.is_file() if what == "file" else path.is_dir()):
        raise DataError(f"{path}: there is no such {what}")
    return path


def is_passed_over(name: str) -> bool:
    """Tell whether a name is of a hidden file or folder, or of one that systems leave beside others."""
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def files_below(folder: Path) -> tuple[Path, ...]:
    """Return all files in a folder and its subfolders, sorted."""
    return tuple(sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names))
