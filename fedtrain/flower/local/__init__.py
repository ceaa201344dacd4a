"""The local simulation engine: any Flower ClientApp, on worker processes of this machine."""

from fedtrain.flower.local.grid import LocalGrid

__all__ = ["LocalGrid"]
