#!/usr/bin/env bash
# Flower's accountant states epsilon for a client added or removed, and a sample of fixed size makes that a replacement.
#
# Expected: under "add-or-remove-one" a client that is added moves the mean by the clipping norm over the number of
# sampled clients, which is what the noise is for; or the accountant asks for "replace-one".
# Seen: FedAvg samples ten clients whether there are ten or eleven, so the eleventh takes the place of another. Where it
# is drawn, which is ten times in eleven, it moves the mean by twice as much. The accountant says epsilon 4.73 at delta
# 1e-5, and 9.86 is true at least.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr==1.41.0 numpy==2.4.6 dp-accounting==0.6.0 scipy==1.17.1

export FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" -W ignore - <<'END'
import logging
from importlib.metadata import version
from math import exp, log

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.supercore.privacy_accounting import NeighboringRelation, PrivacyConfig, SamplingMethod
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant
from flwr.supercore.task_identity import TaskIdentity
from scipy.stats import norm

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
CLIENTS, DELTA = 10, 1e-5


class Nodes:
    """The one method of a grid that a strategy calls to draw a cohort."""

    def __init__(self, count):
        self.count = count

    def get_node_ids(self):
        return list(range(1, self.count + 1))


def release(population, last):
    """Return the model of a round of ten clients, nine of which send -1, and what the accountant says."""
    config = PrivacyConfig(
        target_delta=DELTA,
        population_size=CLIENTS,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
    )
    strategy = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_train=0.5, min_train_nodes=CLIENTS),
        noise_multiplier=1.0,
        clipping_norm=1.0,
        num_sampled_clients=CLIENTS,
        accountant=RdpAccountant(config),
    )
    model = ArrayRecord({"w": Array(np.zeros(1))})
    asked = list(strategy.configure_train(1, model, ConfigRecord(), Nodes(population)))
    assert len(asked) == CLIENTS
    replies = []
    for node, value in enumerate([-1.0] * (CLIENTS - 1) + [last], start=1):
        content = RecordDict({
            "arrays": ArrayRecord({"w": Array(np.array([value]))}),
            "metrics": MetricRecord({"num-examples": 1}),
        })
        replies.append(Message(content, dst_node_id=node, message_type=MessageType.TRAIN))
    np.random.seed(1)  # the same noise in both worlds
    made, _ = strategy.aggregate_train(1, replies)
    return float(made["w"].numpy()[0]), strategy.privacy_spent().epsilon


with_it, said = release(CLIENTS + 1, 1.0)
without, _ = release(CLIENTS, -1.0)
shift = (with_it - without) * CLIENTS  # in deviations of the noise, which is 1 / clients
chance = CLIENTS / (CLIENTS + 1)
# The eleventh client is in the sample or not. The event is that the mean is above a threshold.
true = 0.0
for threshold in np.linspace(0, 8, 2000):
    p = chance * norm.sf(threshold - shift) + (1 - chance) * norm.sf(threshold)
    if p > DELTA:
        true = max(true, log((p - DELTA) / norm.sf(threshold)))
print(f"flwr {version('flwr')}: the accountant says epsilon {said:.2f} at delta {DELTA:g};")
print(f"a client that is added moves the mean by {shift:.2f} deviations: epsilon is at least {true:.2f}")
assert said < 5
assert abs(shift - 2) < 1e-9
assert true > 9
END
