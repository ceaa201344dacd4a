#!/usr/bin/env bash
# Opacus stops in the backward pass of a LayerNorm with bias=False, which its validator accepts.
#
# Expected: a layer without a bias has no gradient of one, as with Linear, or the validator names it.
# Seen: ModuleValidator finds nothing, the forward pass works, and backward() raises an AttributeError of None.
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
from opacus.validators import ModuleValidator
from torch import nn

torch.manual_seed(1)
records = torch.randn(4, 6)


def train(layer):
    assert not ModuleValidator.validate(layer)
    private = GradSampleModule(layer)
    try:
        private(records).square().mean().backward()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return {name: tuple(parameter.grad_sample.shape) for name, parameter in layer.named_parameters()}


print("opacus", version("opacus"))
found = {
    "LayerNorm": train(nn.LayerNorm(6)),
    "LayerNorm, bias=False": train(nn.LayerNorm(6, bias=False)),
    "Linear, bias=False": train(nn.Linear(6, 6, bias=False)),
    "RMSNorm": train(nn.RMSNorm(6)),
}
for name, value in found.items():
    print(f"{name}: {value}")
assert found["LayerNorm"] == {"weight": (4, 6), "bias": (4, 6)}
assert found["Linear, bias=False"] == {"weight": (4, 6, 6)} and found["RMSNorm"] == {"weight": (4, 6)}
assert found["LayerNorm, bias=False"].startswith("AttributeError: 'NoneType' object has no attribute")
END
