"""A folder to begin an experiment of one's own in, which runs as it is."""

from fedtrain.scaffold.making import KINDS, make_app

__all__ = ["KINDS", "make_app"]
