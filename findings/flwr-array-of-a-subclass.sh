#!/usr/bin/env bash
# The digest that Flower gives an array depends on the name of its class.
#
# Expected: object_id, which Flower derives from the content to store and fetch it once, is of the content: a subclass
# with another method and the same bytes has the same.
# Seen: the name of the class is hashed with the content. A subclass of Array has another id, and is not equal to an
# array with the same numbers; it has the same id again once its __qualname__ is "Array".
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr==1.41.0 numpy==2.4.6

export FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version

import numpy as np
from flwr.app import Array


class Shown(Array):
    """An array with a method more."""

    def largest(self):
        return self.numpy().max()


print("flwr", version("flwr"))
values = np.ones(3)
array, shown = Array(values), Shown(values)
print("Array:                    ", array.object_id[:16])
print("a subclass:               ", shown.object_id[:16], "equal:", array == shown)
assert array.data == shown.data and array.object_id != shown.object_id and array != shown
Shown.__qualname__ = "Array"
renamed = Shown(values)
print("the same, with its name:  ", renamed.object_id[:16])
assert renamed.object_id == array.object_id
END
