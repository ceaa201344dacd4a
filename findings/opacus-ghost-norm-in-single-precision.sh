#!/usr/bin/env bash
# Opacus' ghost clipping lets a record of two similar positions through at six times the clipping norm.
#
# Expected: with max_grad_norm 1 and no noise, one record changes the weights by at most the learning rate, 1, as it does
# where the per-sample gradients themselves are computed ("hooks").
# Seen: the model subtracts the outputs for two positions of nearly the same weight. The squared norm of the gradient is
# computed in single precision from products of Gram matrices, whose terms are 10^8 times it and of both signs. They cancel
# to zero, so that nothing is clipped, and the record changes the weights by 6.7.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 opacus==1.6.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'EOF'
from importlib.metadata import version

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn


class Change(nn.Module):
    """Compares two neighbouring positions of a sequence."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 64, bias=False)

    def forward(self, sequence):
        outputs = self.layer(sequence)
        return outputs[:, 0] - (1 - 1e-4) * outputs[:, 1]


class Total(nn.Module):
    reduction = "mean"

    def forward(self, outputs, targets):
        each = outputs.sum(1)
        return each.mean() if self.reduction == "mean" else each


def change(mode):
    model = Change()
    before = model.layer.weight.detach().clone()
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    options = {"noise_multiplier": 0.0, "max_grad_norm": 1.0, "expected_batch_size": 1}
    if mode == "ghost":
        private = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0, use_ghost_clipping=True)
        optimizer = DPOptimizerFastGradientClipping(plain, loss_reduction="mean", **options)
        criterion = DPLossFastGradientClipping(private, optimizer, Total())
    else:
        private, optimizer, criterion = GradSampleModule(model), DPOptimizer(plain, **options), Total()
    record = 1e3 * torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0)).repeat(1, 2, 1)
    criterion(private(record), torch.zeros(1)).backward()
    optimizer.step()
    return float((model.layer.weight - before).norm())


print("opacus", version("opacus"))
found = {mode: change(mode) for mode in ("hooks", "ghost")}
for mode, moved in found.items():
    print(f"{mode:6} one record changes the weights by {moved:.3f}, of at most 1")
assert found["hooks"] <= 1 + 1e-3
assert found["ghost"] > 5
EOF
