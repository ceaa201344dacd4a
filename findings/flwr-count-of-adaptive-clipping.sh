#!/usr/bin/env bash
# One client moves the count of Flower's adaptive clipping by 1, and its noise is computed for 1/2.
#
# Expected: the noise of values and count together is that of the noise multiplier, as in Andrew et al. 2021 (theorem
# 1), where each client counts +1/2 or -1/2, so that a client replaced by an update of zero moves the count by 1/2.
# Seen: Flower splits the noise by that theorem, and counts 1 for each clipped update and 0 for each other. A client
# moves the count by 1, so that its part is twice what is accounted for. With a noise multiplier of 1 and a deviation
# of the count of 0.55 both together have a noise multiplier of 0.53, and not of 1.
# Beside this, the norm moves away from the quantile: the count is of the clipped, and the equation is for the others.
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
from math import log

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping, FedAvg
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
CLIENTS, NOISE, RATE = 10, 1.0, 0.2


class Nodes:
    """The one method of a grid that a strategy calls to draw a cohort."""

    def get_node_ids(self):
        return list(range(1, CLIENTS + 1))


def rounds(lengths, *, number=1):
    """Return the strategy after rounds in which the clients send updates of these lengths."""
    strategy = DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(),
        noise_multiplier=NOISE,
        num_sampled_clients=CLIENTS,
        initial_clipping_norm=1.0,
        target_clipped_quantile=0.5,
        clip_norm_lr=RATE,
        clipped_count_stddev=0.55,
    )
    for seed in range(number):
        list(strategy.configure_train(1, ArrayRecord({"w": Array(np.zeros(1))}), ConfigRecord(), Nodes()))
        replies = [
            Message(
                RecordDict({
                    "arrays": ArrayRecord({"w": Array(np.array([float(length)]))}),
                    "metrics": MetricRecord({"num-examples": 1}),
                }),
                dst_node_id=node,
                message_type=MessageType.TRAIN,
            )
            for node, length in enumerate(lengths, start=1)
        ]
        np.random.seed(seed)  # the same noise in both worlds
        strategy.aggregate_train(1, replies)
    return strategy


short = [1e-9] * (CLIENTS - 1)
long_one, nearly_zero = rounds([*short, 9.0]), rounds([*short, 1e-9])
moved = abs(log(long_one.clipping_norm / nearly_zero.clipping_norm)) / RATE * CLIENTS
together = (long_one.noise_multiplier**-2 + (moved / long_one.clipped_count_stddev) ** 2) ** -0.5
print(f"flwr {version('flwr')}: one client moves the count by {moved:.2f}, so values and count together have a noise")
print(f"multiplier of {together:.2f}, where {NOISE:g} was asked for")
norm = rounds(range(1, CLIENTS + 1), number=50).clipping_norm
print(f"after 50 rounds of updates of lengths 1 to 10, of which half should be clipped, the norm is {norm:.4f}")
assert abs(moved - 1) < 1e-6
assert together < 0.55
assert norm < 0.1
END
