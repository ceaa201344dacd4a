#!/usr/bin/env bash
# Flower's FedTrimmedAvg trims nothing in a round of four clients.
#
# Expected: with beta 0.2 a fifth is cut off at either end, or, where that is no whole number of clients, at least
# one, or a warning says that nothing is cut off.
# Seen: the number to cut off is rounded down, so up to four replies (nine with beta 0.1) are averaged as they are,
# and without a word. If one of five clients fails, the round is the plain mean.
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
from flwr.serverapp.strategy import FedTrimmedAvg
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


def trimmed(values):
    arrays, _ = FedTrimmedAvg(beta=0.2).aggregate_train(1, [reply({"w": np.array([value])}) for value in values])
    return float(arrays["w"].numpy()[0])


print("flwr", version("flwr"))
five, four = trimmed([0, 0, 0, 0, 1000.0]), trimmed([0, 0, 0, 1000.0])
print("beta 0.2, replies 0, 0, 0, 0 and 1000:", five)
print("beta 0.2, replies 0, 0, 0 and 1000:   ", four)
assert five == 0.0 and four == 250.0
EOF
