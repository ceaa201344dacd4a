#!/usr/bin/env bash
# Flower's FedAvgM applies server momentum to the running variances of BatchNorm, which then turn negative.
#
# Expected: what clients count rather than train, such as `running_var` in a state_dict, is averaged; or the page of the
# strategy says to leave it out of the arrays.
# Seen: where a variance falls from 1.0 to 0.1 in one round, and all clients agree on 0.1 in the next, the momentum of
# the first step goes on and the global model's variance is -0.71. In evaluation BatchNorm takes its square root: the
# outputs are NaN, without a warning.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr==1.41.0 numpy==2.4.6 torch==2.13.0

export FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" -W ignore - <<'EOF'
import logging
from importlib.metadata import version

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvgM
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


class Nodes:
    def get_node_ids(self):
        return [1, 2]


def reply(node, state):
    content = RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": 10})})
    return Message(content, dst_node_id=node, message_type=MessageType.TRAIN)


layer = torch.nn.BatchNorm1d(1).eval()
strategy = FedAvgM(server_learning_rate=1.0, server_momentum=0.9)
arrays = ArrayRecord(layer.state_dict())
print("flwr", version("flwr"))
found = []
for number in (1, 2):
    list(strategy.configure_train(number, arrays, ConfigRecord(), Nodes()))
    layer.load_state_dict(arrays.to_torch_state_dict())
    state = {**layer.state_dict(), "running_var": torch.tensor([0.1])}
    arrays, _ = strategy.aggregate_train(number, [reply(node, state) for node in (1, 2)])
    found.append(float(arrays.to_torch_state_dict()["running_var"]))
    print(f"round {number}: both clients say 0.1, the model has {found[-1]:.2f}")
layer.load_state_dict(arrays.to_torch_state_dict())
output = layer(torch.ones(1, 1))
print("output in evaluation:", output.item())
assert abs(found[0] - 0.1) < 1e-6 and abs(found[1] + 0.71) < 1e-6 and bool(output.isnan())
EOF
