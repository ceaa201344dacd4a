#!/usr/bin/env bash
# Opacus' DPLSTM drops out the state from step to step and the last layer's outputs, which nn.LSTM leaves alone.
#
# Expected: as in nn.LSTM, which it replaces, dropout is on the outputs of each layer but the last. Both print a warning
# that says so where there is one layer.
# Seen: dropout is applied to the state of every step of every layer, also of the last one and of the only one, and the
# next step goes on from what is left. Half of the outputs and of the last state are zero while it trains; in evaluation
# both layers are equal.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 opacus==1.6.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'END'
import warnings
from importlib.metadata import version

import torch
from opacus.validators import ModuleValidator
from torch import nn

warnings.simplefilter("ignore")
torch.manual_seed(1)
texts = torch.randn(50, 20, 4)


def zeros(layer):
    """Return the shares of zeros in the outputs, and in the last hidden state of the last layer."""
    outputs, (hidden, _) = layer(texts)
    return float((outputs == 0).float().mean()), float((hidden[-1] == 0).float().mean())


print("opacus", version("opacus"))
for layers in (1, 2):
    plain = nn.LSTM(4, 16, num_layers=layers, dropout=0.5)
    replaced = ModuleValidator.fix(plain)
    same = torch.allclose(plain.eval()(texts)[0], replaced.eval()(texts)[0], atol=1e-6)
    of_plain, of_replaced = zeros(plain.train()), zeros(replaced.train())
    print(f"{layers} layers, dropout 0.5: equal in evaluation: {same}; zeros in the outputs and the last state:")
    print(f"    nn.LSTM {of_plain[0]:.2f} and {of_plain[1]:.2f}, DPLSTM {of_replaced[0]:.2f} and {of_replaced[1]:.2f}")
    assert same and of_plain == (0.0, 0.0) and min(of_replaced) > 0.4
END
