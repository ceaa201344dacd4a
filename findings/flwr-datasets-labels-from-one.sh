#!/usr/bin/env bash
# Flower Datasets' InnerDirichletPartitioner gives nobody a record of the last class where labels count from 1.
#
# Expected: classes are the values of the column, as the other partitioners take them.
# Seen: with three classes it looks for the labels 0, 1 and 2. Of labels 1, 2 and 3 no client has a 3, without a word
# that says so, although there are more than enough records of it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile flwr-datasets==0.6.1 numpy==2.4.6

export FLWR_TELEMETRY_ENABLED=0 HF_HUB_OFFLINE=1
"$folder/venv/bin/python" -W ignore - <<'END'
import warnings
from collections import Counter
from importlib.metadata import version

import numpy as np
from datasets import Dataset, disable_progress_bars
from flwr_datasets.partitioner import InnerDirichletPartitioner

disable_progress_bars()
warnings.simplefilter("ignore")


def labels_of(first):
    """Return how many records of each label five clients of 40 get, of 300 records of three labels."""
    split = InnerDirichletPartitioner(partition_sizes=[40] * 5, partition_by="label", alpha=1.0, seed=1)
    split.dataset = Dataset.from_dict({"label": (np.arange(300) % 3 + first).tolist()})
    found = Counter()
    for client in range(5):
        found.update(split.load_partition(client)["label"])
    return dict(sorted(found.items()))


print("flwr-datasets", version("flwr-datasets"))
found = {first: labels_of(first) for first in (0, 1)}
for first, counts in found.items():
    print(f"100 records of each of the labels {first} to {first + 2}; five clients of 40 have {counts}")
assert set(found[0]) == {0, 1, 2} and found[1] == {1: 100, 2: 100}
END
