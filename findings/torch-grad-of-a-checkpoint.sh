#!/usr/bin/env bash
# torch.autograd.grad of the parameters inside a reentrant checkpoint returns None for each, where its guard should raise.
#
# Expected: an error. The documentation of torch.utils.checkpoint says that "the reentrant checkpoint only supports the
# torch.autograd.backward API for the backward pass without its `inputs` argument", and where the gradient of the
# checkpoint's input is asked for too, there is one: "When use_reentrant=True, torch.utils.checkpoint is incompatible with
# .grad()".
# Seen: with the parameters alone and allow_unused=True there is no error, and all gradients are None, although backward()
# gives each parameter one. The parameters are not in the outer graph, so that the checkpoint's backward, which has the
# guard, never runs. A training loop that asks for the gradients of what it trains, such as adapters, takes the layer for
# unused, and trains nothing in it. With use_reentrant=False the gradients are right.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'EOF'
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
layer, data = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
weights = list(layer.parameters())


def loss(reentrant):
    return checkpoint(layer, data, use_reentrant=reentrant).square().sum()


loss(True).backward()
expected = [each.grad for each in weights]
print("torch", torch.__version__)
print("backward():", [round(float(each.norm()), 4) for each in expected])
found = torch.autograd.grad(loss(True), weights, allow_unused=True)
print("grad() of the parameters:", found)
try:
    torch.autograd.grad(loss(True), [data, *weights], allow_unused=True)
    guarded = False
except RuntimeError as error:
    guarded = "incompatible with .grad()" in str(error)
print("grad() of the input and the parameters raises:", guarded)
other = torch.autograd.grad(loss(False), weights, allow_unused=True)
print("grad() where it is not reentrant:", [round(float(each.norm()), 4) for each in other])
right = all(torch.allclose(one, two) for one, two in zip(other, expected))
silent = found == (None, None) and all(bool(each.any()) for each in expected)
raise SystemExit(0 if silent and guarded and right else 1)
EOF
