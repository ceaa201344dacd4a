#!/usr/bin/env bash
# Opacus gives convolutions that pad by copying per-sample gradients of another function.
#
# Expected: `grad_sample` of a Conv2d with `padding_mode` "circular", "reflect" or "replicate" is each record's own
# gradient, as it is with "zeros", or the layer is refused, as others are that Opacus does not know.
# Seen: the hooks compute it as if the input were padded with zeros. The gradients are about 30 % off, `ModuleValidator`
# finds nothing, and their sum is not the gradient that autograd computes in the same backward pass.
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
from opacus.validators import ModuleValidator
from torch import nn

torch.manual_seed(1)
records, targets = torch.randn(6, 2, 9, 9), torch.randn(6, 3, 9, 9)


def loss(model, inputs, wanted):
    return ((model(inputs) - wanted) ** 2).sum()


def gradient_alone(model, index):
    model.zero_grad()
    loss(model, records[index : index + 1], targets[index : index + 1]).backward()
    return model.weight.grad.clone()


print("opacus", version("opacus"))
for mode in ("zeros", "circular", "reflect", "replicate"):
    model = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode)
    alone = torch.stack([gradient_alone(model, index) for index in range(len(records))])
    problems = ModuleValidator.validate(model)
    private = GradSampleModule(model, loss_reduction="sum")
    private.zero_grad()
    loss(private, records, targets).backward()
    found = model.weight.grad_sample
    wrong = float((found - alone).norm() / alone.norm())
    of_sum = float((found.sum(0) - model.weight.grad).norm() / model.weight.grad.norm())
    print(f"{mode:10} problems {problems}; off by {wrong:.1%} of each record's gradient, {of_sum:.1%} of autograd's sum")
    assert not problems
    assert wrong < 1e-5 if mode == "zeros" else wrong > 0.2
EOF
