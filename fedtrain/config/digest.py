"""Identify an experiment by its content."""

import json
from hashlib import sha256

from fedtrain.config.loading import to_flat
from fedtrain.config.sections import Experiment

# What changes where or how results are shown, and not what they are. The device does: its noise is another.
_PRESENTATION = ("output.", "data.cache")


def experiment_digest(experiment: Experiment) -> str:
    """Return the SHA-256 of every field that determines the results, in hexadecimal."""
    return sha256(json.dumps(decisive(experiment), sort_keys=True).encode()).hexdigest()


def decisive(experiment: Experiment) -> dict[str, bool | int | float | str]:
    """Return the fields that determine the results, by dotted key."""
    return {key: value for key, value in to_flat(experiment).items() if not key.startswith(_PRESENTATION)}
