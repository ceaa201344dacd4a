#!/usr/bin/env bash
# After an empty batch of words, Opacus leaves all of cuDNN deterministic.
#
# Expected: computing a gradient changes no setting of torch.
# Seen: the gradient of an Embedding sets torch.backends.cudnn.deterministic, and sets it back except where the batch is
# empty, as Poisson batches now and then are. From then on every convolution of the process is restricted to
# deterministic algorithms.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 opacus==1.6.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version

import torch
from opacus import GradSampleModule
from torch import nn

model = nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(12, 1))
private = GradSampleModule(model, loss_reduction="sum")


def flag_after(records):
    private.zero_grad()
    private(torch.zeros(records, 4, dtype=torch.long)).sum().backward()
    return torch.backends.cudnn.deterministic


print("opacus", version("opacus"), "torch", torch.__version__)
found = [torch.backends.cudnn.deterministic, flag_after(5), flag_after(0), flag_after(5)]
print("torch.backends.cudnn.deterministic at first, after a batch of 5, of 0, and of 5 records:", found)
assert found == [False, False, True, True]
END
