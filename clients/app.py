"""The Flower ClientApp. Flower finds it through ``pyproject.toml``."""

from fedtrain.clientapp.app import app

__all__ = ["app"]
