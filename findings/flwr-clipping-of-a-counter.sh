#!/usr/bin/env bash
# A BatchNorm layer's counter of batches takes up Flower's clipping norm, and is not clipped itself.
#
# Expected: what is no weight is left out of the norm, or is scaled as the rest is.
# Seen: num_batches_tracked is an array of no dimension, and has a part in the norm: after 100 batches it is 100, and an
# update of the weights of norm 0.5 arrives with 0.005 at a clipping norm of 1. The scaling is in place, which does
# nothing to what numpy makes of such an array: the counter arrives as 100.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr==1.41.0 numpy==2.4.6

export FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" -W ignore - <<'END'
import logging
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.mod import fixedclipping_mod
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
# As torch has them in the state of a BatchNorm layer.
STATE = {"weight": np.ones(2), "num_batches_tracked": np.array(0)}


def sent(batches):
    """Return what a client sends that moved the weights by a half, in so many batches, at a clipping norm of 1."""
    content = RecordDict({
        "arrays": ArrayRecord({name: Array(value) for name, value in STATE.items()}),
        "config": ConfigRecord({"clipping_norm": 1.0}),
    })
    made = {"weight": STATE["weight"] + np.array([0.3, 0.4]), "num_batches_tracked": np.array(batches)}

    def train(message, context):
        reply = RecordDict({
            "arrays": ArrayRecord({name: Array(value) for name, value in made.items()}),
            "metrics": MetricRecord({"num-examples": 1}),
        })
        return Message(reply, reply_to=message)

    message = Message(content, dst_node_id=1, message_type=MessageType.TRAIN)
    arrays = fixedclipping_mod(message, None, train).content["arrays"]
    return float(np.linalg.norm(arrays["weight"].numpy() - 1)), int(arrays["num_batches_tracked"].numpy())


print("flwr", version("flwr"), "clipping norm 1, an update of the weights of norm 0.5")
found = {batches: sent(batches) for batches in (0, 1, 10, 100)}
for batches, (norm, counter) in found.items():
    print(f"{batches:3} batches: the weights arrive with an update of {norm:.3f}, and the counter as {counter}")
assert abs(found[0][0] - 0.5) < 1e-9 and found[100][0] < 0.0051
assert all(counter == batches for batches, (_, counter) in found.items())
END
