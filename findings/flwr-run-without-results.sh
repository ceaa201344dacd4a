#!/usr/bin/env bash
# A run of Flower in which every client fails in every round ends as a success, with a model that has no arrays.
#
# Expected: the strategy's start raises, or the result has the initial model, or says that no round had a result.
# Seen: each round logs "0 results", start returns, and result.arrays is an empty ArrayRecord. The template app saves
# its state dict, a file without a weight, and the run's status is completed.
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
from flwr.app import Array, ArrayRecord, Error, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


class Failing(Grid):
    """Every client answers with the error of a ClientApp that raised."""

    run = None

    def set_run(self, run):
        pass

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self):
        return [1, 2]

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        return [Message(Error(code=2, reason="the ClientApp raised"), reply_to=message) for message in messages]


initial = ArrayRecord({"weight": Array(np.ones(3))})
result = FedAvg().start(Failing(), initial, num_rounds=3)
print("flwr", version("flwr"))
print("arrays of the initial model:", list(initial))
print("arrays of the result:       ", list(result.arrays))
assert list(result.arrays) == []
EOF
