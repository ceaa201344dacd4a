"""The files that a source reads, found without opening them."""

import glob
import os
from pathlib import Path

from fedtrain.config import Data
from fedtrain.errors import DataError


def parquet_files(pattern: str) -> tuple[Path, ...]:
    """Return the files that a path names: itself, the ``.parquet`` files of a folder, or the matches of a glob.

    Raises:
        DataError: there are none.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return (path,)
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            raise DataError(f"{path}: the folder holds no .parquet file")
        return tuple(files)
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
    files = sorted(Path(match) for match in matches if Path(match).is_file())
    if not files:
        raise DataError(f"{path}: there is no such file or folder, and as a glob pattern it matches no file")
    return tuple(files)


def existing_file(name: str) -> Path:
    """Return the path of a file.

    Raises:
        DataError: there is none.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    return path


def existing_folder(name: str) -> Path:
    """Return the path of a folder.

    Raises:
        DataError: there is none.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder")
    return path


def input_files(data: Data) -> tuple[Path, ...]:
    """Return every file whose content the decoded data depends on, training files first.

    A data set of the hub that is no local folder has none: it is identified by its name.

    Raises:
        DataError: a file or folder is missing.
    """
    paths = [path for path in (data.path, data.test_path) if path is not None]
    match data.source:
        case "digits" | "object":
            return ()
        case "parquet":
            return tuple(file for path in paths for file in parquet_files(path))
        case "npz":
            return tuple(existing_file(path) for path in paths)
        case "images":
            return tuple(file for path in paths for file in _tree(existing_folder(path)))
        case "hub":
            assert data.dataset is not None  # Data is validated
            folder = Path(data.dataset).expanduser()
            return _tree(folder) if folder.is_dir() else ()


def _tree(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names))
