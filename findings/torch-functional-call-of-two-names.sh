#!/usr/bin/env bash
# torch.func.functional_call leaves its own tensor in a module in which one layer is registered under two names.
#
# Expected: the module is as before when the call returns, as the documentation says ("Performs a functional call on the
# module by replacing the module parameters and buffers with the provided ones"), whatever it shares.
# Seen: the shared layer's Parameters are gone for good, and the tensors of the call are in their places. The module has
# the weights of the call, and an optimizer that was made before goes on with Parameters that nothing reads. A weight that
# two layers share comes back. With tie_weights=False those of the layer do, too.
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
from torch.func import functional_call


class TwoNames(nn.Module):
    """One layer, registered as encoder and as decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.decoder = self.encoder

    def forward(self, x):
        return self.decoder(self.encoder(x))


class SharedWeight(TwoNames):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight


def after_a_call(model, **options):
    before = model.encoder.weight
    given = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    functional_call(model, given, torch.ones(1, 3), **options)
    now = model.encoder.weight
    name = f"{type(model).__name__}{options or ''}"
    print(f"{name:>33}: the weight is a {type(now).__name__}, that of before: {now is before}, its sum: {now.sum():.3f}")
    return now is before


print("torch", torch.__version__)
assert not after_a_call(TwoNames())
assert after_a_call(TwoNames(), tie_weights=False)
assert after_a_call(SharedWeight())
EOF
