#!/usr/bin/env bash
# Flower Datasets' divide_dataset loses records by fractions that add up to 1, and accepts them in some orders only.
#
# Expected: parts of 0.8 and 0.2 have all records between them, and the order of the fractions makes no difference.
# Seen: each part is rounded down by itself: of a client's four records three are for training, and none for testing.
# 0.71 and 0.29 of 100 records are 71 and 28. The fractions are added in floating point, so that 0.2, 0.4, 0.3, 0.1
# "must not exceed 1", and 0.1, 0.2, 0.3, 0.4 are fine.
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
from importlib.metadata import version

from datasets import Dataset, disable_progress_bars
from flwr_datasets.utils import divide_dataset

disable_progress_bars()
warnings.simplefilter("error")


def sizes(count, fractions):
    try:
        return [len(part) for part in divide_dataset(Dataset.from_dict({"id": range(count)}), fractions)]
    except (ValueError, UserWarning) as error:
        return str(error)


print("flwr-datasets", version("flwr-datasets"))
for count, fractions in (
    (100, [0.8, 0.2]),
    (100, [0.71, 0.29]),
    (4, [0.8, 0.2]),
    (9, [0.6, 0.2, 0.2]),
    (100, [0.1, 0.2, 0.3, 0.4]),
    (100, [0.2, 0.4, 0.3, 0.1]),
    (100, [0.7, 0.2, 0.1]),
):
    print(f"{count} records by {fractions}: {sizes(count, fractions)}")
assert sizes(100, [0.8, 0.2]) == [80, 20]
assert sizes(4, [0.8, 0.2]) == [3, 0]
assert sizes(100, [0.71, 0.29]) == [71, 28]
assert "must not exceed 1" in sizes(100, [0.2, 0.4, 0.3, 0.1])
assert "below 1" in sizes(100, [0.7, 0.2, 0.1])
END
