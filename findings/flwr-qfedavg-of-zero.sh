#!/usr/bin/env bash
# Flower's QFedAvg with q = 0 is not FedAvg where clients have different numbers of examples.
#
# Expected: "When set to 0, q-FedAvg is equivalent to FedAvg", as its documentation says of q.
# Seen: numbers of examples weigh metrics and not models. A client of one example counts as much as one of 99.
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
from flwr.serverapp.strategy import FedAvg, QFedAvg
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


class Nodes:
    """The one method of a grid that a strategy calls to draw a cohort."""

    def get_node_ids(self):
        return [1, 2]


def reply(value, examples):
    content = RecordDict({
        "arrays": ArrayRecord({"w": Array(np.array([value]))}),
        "metrics": MetricRecord({"num-examples": examples, "train_loss": 1.0}),
    })
    return Message(content, dst_node_id=1, message_type=MessageType.TRAIN)


def mean(strategy):
    list(strategy.configure_train(1, ArrayRecord({"w": Array(np.zeros(1))}), ConfigRecord(), Nodes()))
    arrays, _ = strategy.aggregate_train(1, [reply(0.0, 1), reply(1.0, 99)])
    return float(arrays["w"].numpy()[0])


print("flwr", version("flwr"))
plain, fair = mean(FedAvg()), mean(QFedAvg(client_learning_rate=0.1, q=0.0))
print("replies 0 (of 1 example) and 1 (of 99 examples)")
print(f"FedAvg: {plain:.3f}; QFedAvg with q = 0: {fair:.3f}")
assert abs(plain - 0.99) < 1e-9 and abs(fair - 0.5) < 1e-9
END
