"""The kinds of sources that a configuration can name. Each decoder is imported when it is first needed."""

# ruff: noqa: PLC0415

import glob
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fedtrain.config import Data
from fedtrain.data.sources.base import Decoded, Source, existing, files_below, path_of
from fedtrain.errors import DataError


class Digits(Source):
    """The handwritten digits of the demo."""

    kind = "digits"
    held_out = 0.2

    def files(self, data: Data) -> tuple[Path, ...]:  # noqa: ARG002 - a file of the library, which has a version
        """Return none."""
        return ()

    def decode(self, data: Data) -> Decoded:
        """See `fedtrain.data.sources.arrays.decode_digits`."""
        from fedtrain.data.sources.arrays import decode_digits

        return decode_digits(data)


class _Named(Source):
    """Records in files or folders that ``path`` and ``test_path`` name."""

    deployed = True

    def require(self, data: Data) -> None:
        """Refuse a section without ``path``."""
        if data.path is None:
            raise DataError(
                "data.path is not set: a simulation reads the training records of all clients; in a deployment they "
                "are at the sites"
            )

    @staticmethod
    def _paths(data: Data) -> tuple[str, ...]:
        return tuple(path for path in (data.path, data.test_path) if path is not None)


class Parquet(_Named):
    """Parquet files in the column layout of the Hugging Face hub, or by a schema file."""

    kind = "parquet"

    def files(self, data: Data) -> tuple[Path, ...]:
        """Return the files, and the schema file where there is one."""
        return (*(file for path in self._paths(data) for file in files_of(path, suffix=".parquet")), *_schema(data))

    def decode(self, data: Data) -> Decoded:
        """See `fedtrain.data.sources.parquet.decode_parquet`."""
        from fedtrain.data.sources.parquet import decode_parquet

        return decode_parquet(data)


class Csv(_Named):
    """CSV files: tables whose columns mean what a schema file says, or texts, or paths of images or sounds."""

    kind = "csv"

    def files(self, data: Data) -> tuple[Path, ...]:
        """Return the files, and the schema file or what the files name, for which they are read."""
        found = tuple(file for path in self._paths(data) for file in files_of(path, suffix=".csv"))
        if data.schema_file is not None or data.text_column is not None:
            return (*found, *_schema(data))
        from fedtrain.data.sources.listed import listed_files

        return (*found, *listed_files(data))

    def decode(self, data: Data) -> Decoded:
        """See `fedtrain.data.sources.delimited.decode_csv` and `fedtrain.data.sources.listed.decode_listed`."""
        if data.schema_file is None:
            from fedtrain.data.sources.listed import decode_listed

            return decode_listed(data)
        from fedtrain.data.sources.delimited import decode_csv

        return decode_csv(data)


class Npz(_Named):
    """NumPy archives."""

    kind = "npz"

    def files(self, data: Data) -> tuple[Path, ...]:
        """Return the archives."""
        return tuple(existing(path) for path in self._paths(data))

    def decode(self, data: Data) -> Decoded:
        """See `fedtrain.data.sources.arrays.decode_npz`."""
        from fedtrain.data.sources.arrays import decode_npz

        return decode_npz(data)

    def require_test_alone(self, data: Data) -> None:
        """Refuse an archive of training and test records."""
        from fedtrain.data.sources.arrays import refuse_training_records

        assert data.path is not None  # set by the caller
        refuse_training_records(existing(data.path))


class Images(_Named):
    """Folders of images, with a subfolder for each class."""

    kind = "images"

    def files(self, data: Data) -> tuple[Path, ...]:
        """Return every file in the folders."""
        return tuple(file for path in self._paths(data) for file in files_below(existing(path, "folder")))

    def decode(self, data: Data) -> Decoded:
        """See `fedtrain.data.sources.folders.decode_image_folders`."""
        from fedtrain.data.sources.folders import decode_image_folders

        return decode_image_folders(data)


class Sounds(_Named):
    """Folders of sounds, with a subfolder for each class."""

    kind = "sounds"

    def files(self, data: Data) -> tuple[Path, ...]:
        """Return every file in the folders."""
        return tuple(file for path in self._paths(data) for file in files_below(existing(path, "folder")))

    def decode(self, data: Data) -> Decoded:
        """See `fedtrain.data.sources.folders.decode_sound_folders`."""
        from fedtrain.data.sources.folders import decode_sound_folders

        return decode_sound_folders(data)


class Hub(Source):
    """Data sets of the Hugging Face hub by name, or local folders in its layout."""

    kind = "hub"

    def files(self, data: Data) -> tuple[Path, ...]:
        """Return the files of a local folder; what is downloaded has none, and is identified by its name."""
        assert data.dataset is not None  # Data is validated
        folder = path_of(data.dataset)
        return files_below(folder) if folder.is_dir() else ()

    def decode(self, data: Data) -> Decoded:
        """See `fedtrain.data.sources.hub.decode_hub`."""
        from fedtrain.data.sources.hub import decode_hub

        return decode_hub(data)


class Given(Source):
    """Records that a program gave to ``fedtrain.simulate``: there is nothing to read (`fedtrain.data.given`)."""

    kind = "object"

    def require(self, data: Data) -> None:  # noqa: ARG002 - whatever it says
        """Refuse to look for the records."""
        raise self._absent()

    def files(self, data: Data) -> tuple[Path, ...]:  # noqa: ARG002
        """Return none."""
        return ()

    def decode(self, data: Data) -> Decoded:  # noqa: ARG002
        """Refuse, as `require` does."""
        raise self._absent()

    @staticmethod
    def _absent() -> DataError:
        return DataError(
            'data.source = "object": the records of this experiment were an object of the program that ran it; give '
            "them to fedtrain.simulate(data=...), or name a source"
        )


def _schema(data: Data) -> tuple[Path, ...]:
    return () if data.schema_file is None else (existing(data.schema_file),)


def files_of(pattern: str, *, suffix: str) -> tuple[Path, ...]:
    """Return the files that a path names: itself, the files of a folder with a suffix, or the matches of a glob.

    Hidden files of a folder, such as those that other systems put beside each file (``._part.parquet``), are passed
    over. So are folders that a pattern meets and whose names begin with an underscore, as those of Spark and Delta Lake
    do that hold a log or unfinished files (``_delta_log``, ``_temporary``); ``_year=2020`` is a part of a table.

    Raises:
        DataError: there are none.
    """
    path = path_of(pattern)
    if path.is_file():
        return (path,)
    if path.is_dir():
        files = sorted(file for file in path.glob(f"*{suffix}") if not file.name.startswith("."))
        if not files:
            below = any(path.glob(f"*/**/*{suffix}"))
            hint = f'; its subfolders do: name them as "{path}/**/*{suffix}"' if below else ""
            raise DataError(f"{path}: the folder holds no {suffix} file{hint}")
        return tuple(files)
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
    named = [part for part in path.parts if part.startswith("_")]
    files = sorted(file for file in map(Path, matches) if file.is_file() and not _is_aside(file, named))
    if not files:
        raise DataError(f"{path}: there is no such file or folder, and as a glob pattern it matches no file")
    return tuple(files)


def _is_aside(file: Path, named: Sequence[str]) -> bool:
    """Tell whether a file is in a folder of a program's own, which the pattern does not name."""
    folders = [part for part in file.parts[:-1] if part.startswith("_") and "=" not in part]
    return any(not any(fnmatchcase(folder, part) for part in named) for folder in folders)
