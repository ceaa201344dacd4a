"""Updates of a small model."""

from math import sqrt

import numpy as np

SHAPES = {"weight": (3, 4), "bias": (4,)}


def an_update(seed, scale=1.0, dtype=np.float32):
    generator = np.random.default_rng(seed)
    return {name: (scale * generator.normal(size=shape)).astype(dtype) for name, shape in SHAPES.items()}


def norm(update):
    return sqrt(sum(float(np.square(value.astype(np.float64)).sum()) for value in update.values()))


def flat(arrays):
    return np.concatenate([np.asarray(arrays[name]).ravel() for name in SHAPES])
