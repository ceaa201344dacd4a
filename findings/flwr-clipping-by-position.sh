#!/usr/bin/env bash
# Flower's clipping exchanges two arrays of a model whose client sends them in another order.
#
# Expected: arrays have names, so their order means nothing, as in FedAvg, which averages by name.
# Seen: DifferentialPrivacyServerSideFixedClipping subtracts the model from a reply by position. Clients that send an
# almost unchanged model in the order of names, as a file of safetensors has it, make each array that of the other,
# moved by the clipping norm. Where the shapes are equal there is no error. The client's fixedclipping_mod refuses
# another order.
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
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
MODEL = {"scale": np.full(3, 5.0), "bias": np.zeros(3)}


class Nodes:
    """The one method of a grid that a strategy calls to draw a cohort."""

    def get_node_ids(self):
        return [1, 2]


def reply(names):
    """Return the reply of a client that sends the model back as it came, with small noise, in an order of names."""
    content = RecordDict({
        "arrays": ArrayRecord({name: Array(MODEL[name] + 0.01) for name in names}),
        "metrics": MetricRecord({"num-examples": 1}),
    })
    return Message(content, dst_node_id=1, message_type=MessageType.TRAIN)


def round_of(strategy, names):
    model = ArrayRecord({name: Array(value) for name, value in MODEL.items()})
    list(strategy.configure_train(1, model, ConfigRecord(), Nodes()))
    made, _ = strategy.aggregate_train(1, [reply(names), reply(names)])
    return {name: round(float(made[name].numpy()[0]), 2) for name in MODEL}


def private():
    return DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), noise_multiplier=0.0, clipping_norm=1.0, num_sampled_clients=2
    )


print("flwr", version("flwr"))
same, other = list(MODEL), sorted(MODEL)
for name, make in (("FedAvg", FedAvg), ("FedAvg with clipping", private)):
    print(f"{name}: replies in the model's order make {round_of(make(), same)},")
    print(f"    in the order of names {round_of(make(), other)}")
near = {"scale": 5.01, "bias": 0.01}
assert round_of(FedAvg(), same) == round_of(FedAvg(), other) == round_of(private(), same) == near
swapped = round_of(private(), other)
assert swapped["bias"] > 4 and swapped["scale"] < 1
END
