"""Identify an experiment by its content."""

import json
from collections.abc import Mapping
from hashlib import sha256

from fedtrain.config.loading import Flat, Scalar, to_flat
from fedtrain.config.sections import Experiment

# What changes where or how results are shown, and not what they are. The device does: its noise is another.
_PRESENTATION = ("output.", "data.cache")


def config_digest(flat: Mapping[str, Scalar]) -> str:
    """Return the SHA-256 of every field that determines the results, in hexadecimal.

    Args:
        flat: all fields by dotted key, as a report holds them.
    """
    fields = {key: value for key, value in flat.items() if not key.startswith(_PRESENTATION)}
    return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def decisive(experiment: Experiment) -> Flat:
    """Return the fields that determine the results, by dotted key."""
    return {key: value for key, value in to_flat(experiment).items() if not key.startswith(_PRESENTATION)}
