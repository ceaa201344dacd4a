#!/usr/bin/env bash
# A client whose training changed nothing makes Flower's clipping divide by zero.
#
# Expected: an update of zero is within any norm, and is sent as it is.
# Seen: the clipping norm is divided by that of the update, and the mod raises a ZeroDivisionError. A client that has no
# records in a round, or a learning rate of zero, sends an error.
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
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
MODEL = np.ones(3)


def sent(mod, change):
    """Return what leaves a client whose training changed the model by so much."""
    content = RecordDict({
        "arrays": ArrayRecord({"w": Array(MODEL)}),
        "config": ConfigRecord({"clipping_norm": 1.0}),
    })

    def train(message, context):
        reply = RecordDict({
            "arrays": ArrayRecord({"w": Array(MODEL + change)}),
            "metrics": MetricRecord({"num-examples": 1}),
        })
        return Message(reply, reply_to=message)

    message = Message(content, dst_node_id=1, message_type=MessageType.TRAIN)
    try:
        return [round(float(value), 1) for value in mod(message, None, train).content["arrays"]["w"].numpy()]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


print("flwr", version("flwr"))
local = LocalDpMod(clipping_norm=1.0, sensitivity=0.0, epsilon=1.0, delta=1e-5)
mods = {"fixedclipping_mod": fixedclipping_mod, "adaptiveclipping_mod": adaptiveclipping_mod, "LocalDpMod": local}
for name, mod in mods.items():
    some, none = sent(mod, 0.1), sent(mod, 0.0)
    print(f"{name}: an update of 0.1 makes {some}; none makes {none}")
    assert some == [1.1, 1.1, 1.1] and none == "ZeroDivisionError: float division by zero"
END
