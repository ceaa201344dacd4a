#!/usr/bin/env bash
# A round of Flower's FedAvg or FedProx writes into the ConfigRecord of the caller, and its messages are one object.
#
# Expected: a strategy copies the configuration that it is given, and each message has content of its own, since
# `configure_train` is where a subclass or a wrapper sets what one client gets and another does not.
# Seen: the caller's record has gained `server-round` and `proximal-mu` (so the same record given to another strategy
# carries them there), and what is set for the first client is set for all, and in the caller's record as well.
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
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedProx
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


class Nodes:
    """The one method of a grid that a strategy calls to draw a cohort."""

    def __init__(self, count):
        self.count = count

    def get_node_ids(self):
        return list(range(1, self.count + 1))


config = ConfigRecord({"lr": 0.1})
arrays = ArrayRecord([np.zeros(2, np.float32)])
messages = list(FedProx(proximal_mu=0.5).configure_train(1, arrays, config, Nodes(3)))
after = dict(config)
messages[0].content["config"]["lr"] = 9.0
rates = [message.content["config"]["lr"] for message in messages]

print("flwr", version("flwr"))
print("the caller's record, made with lr alone, after configure_train:", after)
print("lr set to 9 in the first of three messages; lr in each message:", rates)
print("lr in the caller's record:", config["lr"])
assert after == {"lr": 0.1, "proximal-mu": 0.5, "server-round": 1}
assert rates == [9.0, 9.0, 9.0] and config["lr"] == 9.0
EOF
