"""Bundle an app as Flower does when it submits it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from flwr.cli.build import build_fab_from_disk, build_fab_from_files

from fedtrain.errors import AppError, StorageError
from fedtrain.flower.app import FlowerApp, own_files, shipped


def build_bundle(app: FlowerApp) -> bytes:
    """Return the bundle (FAB) of an app: the same bytes for the same files, from a checkout and from a wheel.

    Raises:
        AppError: Flower cannot bundle the app.
    """
    try:
        if _ours(app):
            data, _ = build_fab_from_files(own_files())
        else:
            data = build_fab_from_disk(app.folder)
    except (OSError, ValueError) as error:
        raise AppError(f"{app.folder} cannot be bundled: {error}") from error
    return bytes(data)


@contextmanager
def bundled_folder(app: FlowerApp) -> Iterator[Path]:
    """Give a folder of which Flower makes the same bundle. For fedtrain's own app it is gone afterwards.

    Raises:
        AppError: an entry point is missing from the installation.
        StorageError: the folder cannot be written.
    """
    if not _ours(app):
        yield app.folder
        return
    files = own_files()
    with TemporaryDirectory(prefix="fedtrain-app-") as name:
        try:
            for file, content in files.items():
                path = Path(name) / file
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
        except OSError as error:
            raise StorageError(f"cannot write the app to {name}: {error.strerror or error}") from error
        yield Path(name)


def _ours(app: FlowerApp) -> bool:
    return app.folder == shipped()
