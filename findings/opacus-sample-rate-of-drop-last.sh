#!/usr/bin/env bash
# Opacus' Poisson batches are of another average size than the loader's batch_size, up to all records.
#
# Expected: the sample rate is such "that the average batch size stays the same", as DPDataLoader documents; of
# drop_last it says that it is ignored.
# Seen: the rate is 1 / the number of batches of the loader. Of 100 records with batch_size 60, batches have 50 on
# average, and with drop_last=True, where the loader has one batch, each batch is the whole data set, with a rate of 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 opacus==1.6.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'END'
import logging
from importlib.metadata import version

import torch
from opacus.data_loader import DPDataLoader
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("opacus").setLevel(logging.ERROR)
data = TensorDataset(torch.arange(100.0))
found = {}
print("opacus", version("opacus"))
for size, drop in ((20, False), (20, True), (60, False), (60, True)):
    loader = DataLoader(data, batch_size=size, drop_last=drop)
    private = DPDataLoader.from_data_loader(loader, generator=torch.Generator().manual_seed(1))
    sizes = [len(batch[0]) for _ in range(300 // len(private)) for batch in private]
    found[size, drop] = mean = sum(sizes) / len(sizes)
    rate = private.sample_rate
    print(f"100 records, batch_size {size}, drop_last {drop!s:5}: sample rate {rate:.2f}, mean size {mean:.1f}")
assert abs(found[20, False] - 20) < 1 and abs(found[20, True] - 20) < 1
assert abs(found[60, False] - 50) < 1 and found[60, True] == 100
END
