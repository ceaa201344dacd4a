#!/usr/bin/env bash
# In Opacus, what was left of a batch that nobody finished is in the first step of the next epoch.
#
# Expected: whoever leaves BatchMemoryManager between two parts of a batch, as at a limit of steps or of time, starts
# the next epoch with zero_grad() and a new manager, and each step is of one batch.
# Seen: the clipped sum of the first part stays, since zero_grad() keeps it after a step that was skipped, and leaving
# the manager clears nothing. The next step is of 12 gradients, where the batch has 8 records, four of them twice.
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
from opacus.optimizers import DPOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# Each record has the gradient 1, so that the gradient of a step is how many records are in it.
model = GradSampleModule(nn.Linear(1, 1, bias=False), loss_reduction="sum")
plain = torch.optim.SGD(model.parameters(), lr=0.0)
optimizer = DPOptimizer(
    plain, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=None, loss_reduction="sum"
)
loader = DataLoader(TensorDataset(torch.ones(8, 1)), batch_size=8)


def epoch(parts):
    """Train on that many parts of 4 records, and return how many records are in each step."""
    steps = []
    optimizer.zero_grad()
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=4, optimizer=optimizer) as splits:
        for done, (records,) in enumerate(splits, start=1):
            optimizer.zero_grad()
            model(records).sum().backward()
            optimizer.step()
            if not optimizer._is_last_step_skipped:
                steps.append(round(float(model._module.weight.grad)))
            if done == parts:
                break
    return steps


print("opacus", version("opacus"))
whole, cut, after = epoch(2), epoch(1), epoch(2)
print("a whole epoch of one batch of 8 records: steps of", whole)
print("an epoch that ends after 4 records:      steps of", cut)
print("a whole epoch after it:                  steps of", after)
assert (whole, cut, after) == ([8], [], [12])
END
