#!/usr/bin/env bash
# Flower's Krum computes negative squared distances where the model is large and the steps are small.
#
# Expected: the squared distances between seven models of a million weights, each of which moved by 1e-4 a weight since
# the model that was sent, are 0.02.
# Seen: they are computed as |x|^2 + |y|^2 - 2 xy in the type of the weights. The squared norm of a million weights of
# size 1 is 1e6, which float32 knows up to 0.06, and sums of so many terms less well. What comes out is rounding, some of
# it negative, and it decides which client is selected. In float64, or over the changes, the distances are right.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr==1.41.0 numpy==2.4.6

export FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" -W ignore - <<'EOF'
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy.multikrum import compute_distances

SIZE, STEP, CLIENTS = 1_000_000, 1e-4, 7


def distances(dtype, *, changes):
    """Return the squared distances between different models, shape (7, 6)."""
    generator = np.random.default_rng(0)
    sent = generator.normal(size=SIZE)
    steps = [STEP * generator.normal(size=SIZE) for _ in range(CLIENTS)]
    models = [(step if changes else sent + step).astype(dtype) for step in steps]
    found = compute_distances([ArrayRecord({"w": Array(model)}) for model in models])
    return found[~np.eye(CLIENTS, dtype=bool)].reshape(CLIENTS, CLIENTS - 1)


print("flwr", version("flwr"))
for name, dtype, changes in (
    ("float32", np.float32, False),
    ("float64", np.float64, False),
    ("changes, float32", np.float32, True),
):
    found = distances(dtype, changes=changes)
    print(f"{name:>16}: squared distances from {found.min():.3g} to {found.max():.3g}, of 0.02")
    if name == "float32":
        assert found.min() < -0.1
    else:
        assert 0.019 < found.min() <= found.max() < 0.021
EOF
