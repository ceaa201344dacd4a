"""A Flower app in a folder: what its ``pyproject.toml`` says, and its run config with overrides."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtrain.config import flatten
from fedtrain.config.problems import nearest
from fedtrain.errors import AppError, ConfigError

_DEFAULT_NODES = 10


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


def read_app(folder: Path) -> FlowerApp:
    """Read the app in a folder.

    Raises:
        AppError: there is no ``pyproject.toml``, or it names no ServerApp or ClientApp.
    """
    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AppError(
            f"{folder} holds no Flower app: cannot read {file}: {error.strerror or error}; name the folder of an "
            "app, or run the command there"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
