"""Checks of a node's or a server's folder and of what surrounds it, each ok or with what to do."""

from fedtrain.health.check import Check, fails, ok, warns

__all__ = ["Check", "fails", "ok", "warns"]
