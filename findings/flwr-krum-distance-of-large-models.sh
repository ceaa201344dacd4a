#!/usr/bin/env bash
# Flower's Krum picks a client that is far from all others where the model is large and the steps are small.
#
# Expected: of seven clients, six of which agree and one of which is seven times as far from each of them as they are
# from one another, one of the six is selected.
# Seen: squared distances are computed as |x|^2 + |y|^2 - 2 xy in the type of the weights. The squared norm of a million
# weights of size 1 is 1e6, which float32 knows up to 0.06, and sums of so many terms less well. The distances between
# clients whose weights moved by 1e-4 are 0.02, and that to the far one is 1.02. What comes out is rounding, some of it
# negative, and the far client is selected about as often as any other. In float64, or over the changes since the model
# that was sent, it never is.
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
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import compute_distances, select_multikrum

SIZE, STEP, FAR = 1_000_000, 1e-4, 1e-3


def selected(seed, dtype, *, changes):
    """Say whether the far client, the last of seven, is selected, and return the lowest squared distance."""
    generator = np.random.default_rng(seed)
    sent = generator.normal(size=SIZE)
    steps = [STEP * generator.normal(size=SIZE) + (FAR if client == 6 else 0) for client in range(7)]
    models = [(step if changes else sent + step).astype(dtype) for step in steps]
    contents = [RecordDict({"arrays": ArrayRecord({"w": Array(model)})}) for model in models]
    chosen = select_multikrum(contents, num_malicious_nodes=1, num_nodes_to_select=1)
    distances = compute_distances([content["arrays"] for content in contents])
    return chosen[0] is contents[6], float(distances.min())


print("flwr", version("flwr"))
counts = {}
for name, dtype, changes in (
    ("float32", np.float32, False),
    ("float64", np.float64, False),
    ("changes, float32", np.float32, True),
):
    found = [selected(seed, dtype, changes=changes) for seed in range(12)]
    counts[name] = sum(far for far, _ in found)
    lowest = min(distance for _, distance in found)
    print(f"{name:>16}: the far client is selected in {counts[name]:2} of 12 runs; lowest squared distance {lowest:.2g}")
    assert name != "float32" or lowest < -0.1
assert counts["float32"] > 0 and counts["float64"] == counts["changes, float32"] == 0
EOF
