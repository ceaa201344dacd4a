#!/usr/bin/env bash
# Flower's FedAvg of equal float16 models is another model, 2 % smaller with 1,000 clients.
#
# Expected: the mean of equal values is that value, up to the rounding of its type (0.05 % in float16).
# Seen: the weights are divided by their sum first, and the products are added up in the type of the arrays. Near 1
# the spacing of float16 is of the size of the terms that are added, so each addition rounds by much of a term, always
# the same way. How far it goes depends on how 1 / clients happens to round: 100 clients lose 1.2 %, 3,000 lose
# nothing.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr==1.41.0 numpy==2.4.6

export FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" -W ignore - <<'EOF'
import logging
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


def reply(arrays):
    content = RecordDict({
        "arrays": ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()}),
        "metrics": MetricRecord({"num-examples": 1}),
    })
    return Message(content, dst_node_id=1, message_type=MessageType.TRAIN)


print("flwr", version("flwr"))
for dtype in (np.float32, np.float16):
    for clients in (10, 100, 1000, 3000):
        arrays, _ = FedAvg().aggregate_train(1, [reply({"w": np.ones(1, dtype)}) for _ in range(clients)])
        mean = float(arrays["w"].numpy()[0])
        print(f"{np.dtype(dtype).name}: the mean of {clients:4} ones is {mean:.5f}")
        if dtype == np.float16 and clients == 1000:
            seen = mean
assert 0.97 < seen < 0.99
EOF
