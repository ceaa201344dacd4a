#!/usr/bin/env bash
# In Flower Datasets' Dirichlet split the last client gets a record of about every class, however small alpha is.
#
# Expected: with alpha 0.1 each client has some classes and hardly any record of the others; which client it is makes no
# difference on average.
# Seen: the running sums of the proportions are cut off to whole records. The sum before the last is mostly a little
# below the number of records, also where the last proportion is next to nothing, so what is left goes to the last
# client: it has 9.8 of 10 classes, where the others have 5.2 on average. Measured without self_balancing.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr-datasets==0.6.1 numpy==2.4.6

export FLWR_TELEMETRY_ENABLED=0 HF_HUB_OFFLINE=1
"$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version

import numpy as np
from datasets import Dataset, disable_progress_bars
from flwr_datasets.partitioner import DirichletPartitioner

disable_progress_bars()
CLIENTS, CLASSES, SEEDS = 10, 10, 12
labels = np.arange(5000) % CLASSES
held = np.zeros((SEEDS, CLIENTS))
for seed in range(SEEDS):
    split = DirichletPartitioner(
        num_partitions=CLIENTS,
        partition_by="label",
        alpha=0.1,
        min_partition_size=1,
        self_balancing=False,
        seed=seed,
    )
    split.dataset = Dataset.from_dict({"label": labels})
    held[seed] = [len(set(split.load_partition(client)["label"])) for client in range(CLIENTS)]
mean = held.mean(axis=0)
print(f"flwr-datasets {version('flwr-datasets')}: classes of each client, alpha 0.1, mean of {SEEDS} seeds:")
print(" ".join(f"{value:.1f}" for value in mean))
assert mean[-1] > 9 and mean[:-1].max() < 7
END
