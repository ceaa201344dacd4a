#!/usr/bin/env bash
# With class weights or ignore_index, a record's gradient in Opacus depends on the labels of the others.
#
# Expected: with loss_reduction="mean" the hooks give the gradient of each record's own loss.
# Seen: they multiply by the number of records, and CrossEntropyLoss divides by the sum of the weights, or by the number
# of targets that are not ignored. With other labels of the other records, the same record's gradient is a seventeenth,
# or eight times as long.
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

torch.manual_seed(1)
model = GradSampleModule(nn.Linear(4, 3), loss_reduction="mean")
records = torch.randn(8, 4)


def first_gradient(criterion, targets):
    """Return the gradient of the first of eight records."""
    model.zero_grad()
    criterion(model(records), targets).backward()
    return model._module.weight.grad_sample[0].clone()


print("opacus", version("opacus"))
weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 20.0]))
masked = nn.CrossEntropyLoss(ignore_index=-100)
plain = nn.CrossEntropyLoss()
common = torch.zeros(8, dtype=torch.long)
rare, unknown = common.clone(), common.clone()
rare[1:] = 2
unknown[1:] = -100
for name, criterion, other in (("plain", plain, rare), ("weight", weighted, rare), ("ignore_index", masked, unknown)):
    one, two = first_gradient(criterion, common), first_gradient(criterion, other)
    ratio = float(two.norm() / one.norm())
    print(f"{name:12}: with other labels of the others, the first record's gradient is {ratio:.3f} of what it was")
    assert torch.allclose(two, ratio * one, atol=1e-6)
    assert {"plain": abs(ratio - 1) < 1e-5, "weight": ratio < 0.1, "ignore_index": abs(ratio - 8) < 1e-4}[name]
END
