"""Flower apps: what the ``pyproject.toml`` of one says, its run config, its bundle; and fedtrain's own app.

Our own app is two entry points of a few lines, ``server/app.py`` and ``clients/app.py``. In a checkout they are at its
root; a wheel has them in ``fedtrain/app``, beside the experiment of the demo. The ``pyproject.toml`` that Flower wants
with them is made from the sections of the experiment, so that it is the same from both.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomli_w

import fedtrain
from fedtrain.config import Experiment, flatten
from fedtrain.config.loading import nearest
from fedtrain.config.toml import parse_toml
from fedtrain.errors import AppError, ConfigError, StorageError

_DEFAULT_NODES = 10
_COMPONENTS = {"serverapp": "server.app:app", "clientapp": "clients.app:app"}
ENTRY_POINTS = ("clients/__init__.py", "clients/app.py", "server/__init__.py", "server/app.py")


@dataclass(frozen=True, kw_only=True)
class FlowerApp:
    """A Flower app.

    Attributes:
        folder: where it is; its modules are imported from there.
        server: reference to its ServerApp, ``module:attribute``.
        client: reference to its ClientApp, ``module:attribute``.
        config: its run config with defaults, by dotted key.
        nodes: the nodes that its default federation simulates.
    """

    folder: Path
    server: str
    client: str
    config: dict[str, bool | int | float | str]
    nodes: int

    def run_config(self, overrides: Mapping[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
        """Return the run config with overrides. As in Flower, only keys that the app declares may be set.

        Raises:
            ConfigError: names each undeclared key, its value and the nearest declared one.
        """
        unknown = [key for key in overrides if key not in self.config]
        if unknown:
            raise ConfigError(
                "\n".join(
                    f"unknown key {key} (its value is {overrides[key]!r}){nearest(key, self.config)}" for key in unknown
                )
            )
        return {**self.config, **overrides}


def shipped() -> Path:
    """Return the folder of the entry points and of ``simulations/demo.toml``: ``fedtrain/app``, or the checkout."""
    package = Path(fedtrain.__file__).resolve().parent
    installed = package / "app"
    return installed if installed.is_dir() else package.parent


def own_app() -> FlowerApp:
    """Return fedtrain's own app: its run config is the experiment."""
    return FlowerApp(
        folder=shipped(),
        server=_COMPONENTS["serverapp"],
        client=_COMPONENTS["clientapp"],
        config=flatten(_declared()),
        nodes=_DEFAULT_NODES,
    )


def own_files() -> dict[str, bytes]:
    """Return the files of fedtrain's own app by their names in the bundle: what a site reads before it approves.

    No experiment is among them, and nothing else of a checkout: only other code makes another bundle.

    Raises:
        AppError: an entry point is missing from the installation.
    """
    project = {
        "project": {"name": "fedtrain", "version": fedtrain.__version__, "license": "Apache-2.0"},
        "tool": {"flwr": {"app": {"publisher": "fedtrain", "components": _COMPONENTS, "config": _declared()}}},
    }
    folder = shipped()
    try:
        code = {name: (folder / name).read_bytes() for name in ENTRY_POINTS}
    except OSError as error:
        raise AppError(
            f"{folder} lacks a part of fedtrain's app: {error.filename}: {error.strerror}; install fedtrain again"
        ) from error
    return {"pyproject.toml": tomli_w.dumps(project).encode(), **code}


def find_app(folder: Path | None) -> FlowerApp:
    """Return the app in a folder. Without one it is that of the current folder, and where none is, fedtrain's own.

    Raises:
        AppError: as `read_app`.
    """
    if folder is None and not _declares_app(Path() / "pyproject.toml"):
        return own_app()
    place = folder or Path()
    return own_app() if place.resolve() == shipped() else read_app(place)


def described(app: FlowerApp) -> str:
    """Return which app it is, in words."""
    return "fedtrain's own" if _ours(app) else f"the Flower app in {app.folder}"


def _declares_app(file: Path) -> bool:
    """Return whether a ``pyproject.toml`` is of a Flower app, or cannot be read, which is then to be said."""
    try:
        project = parse_toml(file.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return bool(_table(_table(_table(project, "tool"), "flwr"), "app"))


def _declared() -> dict[str, Any]:
    """Return the run config that our app declares: every field of the experiment, unset ones as empty strings."""

    def without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: without_none(value) if isinstance(value, Mapping) else "" if value is None else value
            for name, value in tree.items()
        }

    return without_none(Experiment().model_dump())


def read_app(folder: Path) -> FlowerApp:
    """Read the app in a folder.

    Raises:
        AppError: there is no ``pyproject.toml``, or it names no ServerApp or ClientApp.
    """
    file = folder / "pyproject.toml"
    try:
        project = parse_toml(file.read_bytes())
    except OSError as error:
        raise AppError(
            f"{folder} holds no Flower app: cannot read {file}: {error.strerror or error}; name the folder of an "
            "app, or run the command there"
        ) from error
    except ValueError as error:
        raise AppError(f"{file} is not TOML: {error}") from error
    flower = _table(_table(project, "tool"), "flwr")
    app = _table(flower, "app")
    components = _table(app, "components")
    references = {name: components.get(name) for name in ("serverapp", "clientapp")}
    for name, reference in references.items():
        if not isinstance(reference, str) or ":" not in reference:
            raise AppError(
                f"{file} names no {name}: {name} in [tool.flwr.app.components] is {reference!r}, and module:attribute "
                "is allowed"
            )
    return FlowerApp(
        folder=folder.resolve(),
        server=references["serverapp"] or "",
        client=references["clientapp"] or "",
        config=flatten(_table(app, "config")),
        nodes=_nodes(_table(flower, "federations")),
    )


def _nodes(federations: Mapping[str, Any]) -> int:
    federation = _table(federations, str(federations.get("default", "")))
    nodes = _table(federation, "options").get("num-supernodes", _DEFAULT_NODES)
    return nodes if isinstance(nodes, int) else _DEFAULT_NODES


def _table(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}


def build_bundle(app: FlowerApp) -> bytes:
    """Return the bundle (FAB) of an app: the same bytes for the same files, from a checkout and from a wheel.

    Raises:
        AppError: Flower cannot bundle the app.
    """
    from flwr.cli.build import build_fab_from_disk, build_fab_from_files  # noqa: PLC0415 - it takes a second to import

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
