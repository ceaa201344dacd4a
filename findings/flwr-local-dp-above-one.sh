#!/usr/bin/env bash
# Flower's LocalDpMod adds too little noise for an epsilon of 10, and too much for one of 0.5.
#
# Expected: with sensitivity 1, epsilon and delta, the noise is such that one release has that epsilon and delta.
# Seen: it is that of the classic formula, which is proven for an epsilon below 1, and any epsilon is taken without a
# word. For epsilon 10 and delta 1e-5, delta is 2.4e-5 with the noise that is measured, or epsilon 10.4; for 20 it is
# 25.4.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr==1.41.0 numpy==2.4.6 scipy==1.17.1

export FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" -W ignore - <<'END'
import logging
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.supercore.task_identity import TaskIdentity
from scipy.optimize import brentq
from scipy.stats import norm

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
SIZE, DELTA = 400_000, 1e-5


def noise_of(epsilon):
    """Return the deviation of the noise on a model, for a sensitivity of 1."""
    arrays = ArrayRecord({"w": Array(np.zeros(SIZE))})

    def train(message, context):
        content = RecordDict({
            "arrays": ArrayRecord({"w": Array(np.full(SIZE, 1e-9))}),
            "metrics": MetricRecord({"num-examples": 1}),
        })
        return Message(content, reply_to=message)

    message = Message(RecordDict({"arrays": arrays}), dst_node_id=1, message_type=MessageType.TRAIN)
    mod = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=epsilon, delta=DELTA)
    return float(mod(message, None, train).content["arrays"]["w"].numpy().std())


def delta_of(epsilon, sigma):
    """Return the exact delta of Gaussian noise (Balle and Wang, 2018)."""
    half = 1 / (2 * sigma)
    return norm.cdf(half - epsilon * sigma) - np.exp(epsilon + norm.logcdf(-half - epsilon * sigma))


np.random.seed(1)
print("flwr", version("flwr"))
found = {}
for said in (0.5, 2.0, 10.0, 20.0):
    sigma = noise_of(said)
    delta = delta_of(said, sigma)
    found[said] = true = brentq(lambda epsilon, sigma=sigma: delta_of(epsilon, sigma) - DELTA, 1e-3, 60)
    print(f"epsilon {said:4} asked for: noise {sigma:.4f}, delta at it {delta:.1e}, epsilon at delta 1e-5 {true:.2f}")
assert found[0.5] < 0.5
assert found[10.0] > 10.3
END
