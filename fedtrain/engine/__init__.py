"""The local simulation engine: any Flower ClientApp, on worker processes of this machine."""

from fedtrain.engine.grid import LocalGrid

__all__ = ["LocalGrid"]
