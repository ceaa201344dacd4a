#!/usr/bin/env bash
# A heartbeat in the background changes which clients a seeded Flower strategy draws.
#
# Expected: `random.seed(n)` before the rounds fixes the cohorts, since a strategy draws them with `random.sample`.
# Seen: the heartbeat sender, which runs in a thread of the process of the ServerApp, draws its waiting times from the
# same global generator, as the pauses between retries do. So the cohort depends on how many heartbeats went before
# it, that is, on how long the rounds took. A seed repeats a run only as long as both are equally fast.
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
import random
import time
from importlib.metadata import version

from flwr.serverapp.strategy.strategy_utils import sample_nodes
from flwr.supercore.heartbeat import HeartbeatSender

logging.getLogger("flwr").setLevel(logging.ERROR)


class Nodes:
    """The one method of a grid that a strategy calls to draw a cohort."""

    def __init__(self, count):
        self.count = count

    def get_node_ids(self):
        return list(range(1, self.count + 1))


random.seed(7)
quiet, _ = sample_nodes(Nodes(100), 5, 5)

random.seed(7)
before = random.getstate()
sender = HeartbeatSender(lambda: True)
sender.start()
for _ in range(200):
    if random.getstate() != before:
        break
    time.sleep(0.05)
sender.stop()
moved = random.getstate() != before
beaten, _ = sample_nodes(Nodes(100), 5, 5)

print("flwr", version("flwr"))
print("seed 7, five of 100 nodes:                     ", quiet)
print("seed 7, one heartbeat, then five of 100 nodes: ", beaten)
assert moved and quiet != beaten
EOF
