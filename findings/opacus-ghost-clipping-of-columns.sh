#!/usr/bin/env bash
# Opacus' ghost clipping multiplies gradients, and clips none, where losses have the shape (n, 1).
#
# Expected: outputs and targets of shape (n, 1), as of a model that ends with Linear(..., 1), are clipped as those of
# shape (n,) are. The class that holds the losses documents them as "of size [batch_size, 1]".
# Seen: n factors times losses of shape (n, 1) are n times n products, and the second backward pass is of their sum.
# Each record's gradient is multiplied by the sum of all factors, and none is clipped: 32 gradients of norm 1 at
# most are together longer than 2,000.
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
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

RECORDS, CLIP = 32, 1.0
torch.manual_seed(1)
records, targets = torch.randn(RECORDS, 5), torch.randint(0, 2, (RECORDS,)).float()
start = nn.Linear(5, 1).state_dict()


def clipped_sum(column):
    """Return the sum of the clipped gradients, with outputs and targets of shape (n, 1) or (n,)."""
    model = nn.Linear(5, 1)
    model.load_state_dict(start)
    private = GradSampleModuleFastGradientClipping(model, loss_reduction="mean", max_grad_norm=CLIP)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=1,
    )
    criterion = DPLossFastGradientClipping(private, optimizer, nn.BCEWithLogitsLoss())
    outputs = private(10 * records)
    wanted = targets.unsqueeze(1)
    loss = criterion(outputs, wanted) if column else criterion(outputs.squeeze(1), targets)
    loss.backward()
    optimizer.step()
    return torch.cat([parameter.summed_grad.flatten() for parameter in model.parameters()])


def expected():
    model, found = nn.Linear(5, 1), []
    model.load_state_dict(start)
    for record, target in zip(records, targets, strict=True):
        model.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(10 * record), target.unsqueeze(0)).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append(gradient * min(1.0, CLIP / float(gradient.norm())))
    return torch.stack(found).sum(0)


print("opacus", version("opacus"))
right, flat, column = expected(), clipped_sum(False), clipped_sum(True)
print(f"norm of the sum of {RECORDS} clipped gradients: {float(right.norm()):.2f}, each at most {CLIP}")
print(f"ghost clipping of losses (n,): {float(flat.norm()):.2f}; of losses (n, 1): {float(column.norm()):.2f}")
assert float((flat - right).norm()) < 1e-3 * float(right.norm())
assert float(column.norm()) > RECORDS * CLIP
END
