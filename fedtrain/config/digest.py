"""Identify an experiment by its content."""

import json
from collections.abc import Mapping
from hashlib import sha256

from fedtrain.config.loading import Flat, Scalar, to_flat
from fedtrain.config.sections import Experiment

# What changes where or how results are shown, and not what they are. The device does: its noise is another.
_PRESENTATION = ("output.", "data.cache")
# Fields that came later, and what all runs before them had. An experiment that does not use them has the digest of
# before: a run that an earlier version began can be resumed, and its record names the configuration of its report.
_LATER: Flat = {"data.target": "class", "data.label_columns": ""}


def config_digest(flat: Mapping[str, Scalar]) -> str:
    """Return the SHA-256 of every field that determines the results, in hexadecimal.

    Args:
        flat: all fields by dotted key, as a report holds them.
    """
    fields = {
        key: value
        for key, value in flat.items()
        if not (key.startswith(_PRESENTATION) or (key in _LATER and value == _LATER[key]))
    }
    return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def decisive(experiment: Experiment) -> Flat:
    """Return the fields that determine the results, by dotted key."""
    return {key: value for key, value in to_flat(experiment).items() if not key.startswith(_PRESENTATION)}
