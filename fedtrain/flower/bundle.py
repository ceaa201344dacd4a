"""Bundle an app as Flower does when it submits it."""

from pathlib import Path

from flwr.cli.build import build_fab_from_disk

from fedtrain.errors import AppError


def build_bundle(app: Path) -> bytes:
    """Return the bundle (FAB) of the app in a folder: the same bytes for the same files.

    Raises:
        AppError: the folder holds no app, or one that Flower cannot bundle.
    """
    try:
        data: bytes = build_fab_from_disk(app)
    except (OSError, ValueError) as error:
        raise AppError(f"{app} cannot be bundled: {error}") from error
    return data
