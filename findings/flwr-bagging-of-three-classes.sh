#!/usr/bin/env bash
# Flower's FedXgbBagging keeps, of all clients but the first, only the trees of the first class.
#
# Expected: a bag of models of three classes has the trees of every client for every class, or is refused.
# Seen: XGBoost grows a tree for each class in a round, and Flower takes over as many trees as num_parallel_tree says,
# which is one, and files each under class 0. Of five clients' 15 trees 7 are in the bag. The scores of the second and
# the third class are those of the first client alone, without an error.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr==1.41.0 numpy==2.4.6 xgboost-cpu==3.2.0

export FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" -W ignore - <<'END'
import json
import logging
from importlib.metadata import version

import numpy as np
import xgboost as xgb
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedXgbBagging
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
# Flower's programs set these before an app runs. A message cannot be made without them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
CLIENTS, CENTRES = 5, np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])


class Nodes:
    """The one method of a grid that a strategy calls to draw a cohort."""

    def get_node_ids(self):
        return list(range(1, CLIENTS + 1))


def records(seed, classes):
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % classes
    return xgb.DMatrix(CENTRES[labels] + rng.normal(size=(300, 2)), labels)


def model_of(trees):
    return json.loads(trees)["learner"]["gradient_booster"]["model"]


def bag_of(classes):
    """Return the trees that the clients send, those of the bag, and how far its scores are from the first client's."""
    kind = {"objective": "multi:softprob", "num_class": 3} if classes == 3 else {"objective": "binary:logistic"}
    settings = {**kind, "max_depth": 3, "nthread": 1}
    boosters = [xgb.train(settings, records(client, classes), num_boost_round=1) for client in range(CLIENTS)]
    sent = [bytes(booster.save_raw("json")) for booster in boosters]
    strategy = FedXgbBagging()
    list(strategy.configure_train(1, ArrayRecord([np.array([], np.uint8)]), ConfigRecord(), Nodes()))
    replies = []
    for trees in sent:
        content = RecordDict({
            "arrays": ArrayRecord([np.frombuffer(trees, np.uint8)]),
            "metrics": MetricRecord({"num-examples": 300}),
        })
        replies.append(Message(content, dst_node_id=1, message_type=MessageType.TRAIN))
    made, _ = strategy.aggregate_train(1, replies)
    trees = made["0"].numpy().tobytes()
    bag = xgb.Booster(params=settings, model_file=bytearray(trees))
    tests = records(100, classes)
    off = bag.predict(tests, output_margin=True) - boosters[0].predict(tests, output_margin=True)
    return sum((model_of(each)["tree_info"] for each in sent), []), model_of(trees)["tree_info"], off


print("flwr", version("flwr"), "xgboost", xgb.__version__)
for classes in (2, 3):
    sent, kept, off = bag_of(classes)
    print(f"{classes} classes: {len(sent)} trees sent, {len(kept)} in the bag, for the classes {kept}")
    if classes == 2:
        assert kept == sent == [0] * CLIENTS
    else:
        moved = np.abs(off).max(axis=0)
        print("    largest difference from the first client's scores:", [f"{value:.3f}" for value in moved])
        assert sent == [0, 1, 2] * CLIENTS and kept == [0, 1, 2] + [0] * (CLIENTS - 1)
        assert moved[0] > 0.5 and not moved[1:].any()
END
