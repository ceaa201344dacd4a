#!/usr/bin/env bash
# Opacus' adaptive clipping ends with an error at the first empty batch, which the other kinds of clipping take.
#
# Expected: empty batches are a part of Poisson sampling, and the loader "supports empty batches by default".
# Seen: PrivacyEngine with clipping="adaptive" reshapes the gradients of no record by view(0, -1), which torch refuses.
# The kinds "flat" and "per_layer" train through the same batches.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 opacus==1.6.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'END'
import logging
from importlib.metadata import version

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

logging.disable(logging.WARNING)
SETTINGS = {
    "flat": {"max_grad_norm": 1.0},
    "per_layer": {"max_grad_norm": [1.0, 1.0]},
    "adaptive": {
        "max_grad_norm": 1.0,
        "target_unclipped_quantile": 0.5,
        "clipbound_learning_rate": 0.2,
        "max_clipbound": 10.0,
        "min_clipbound": 0.01,
        "unclipped_num_std": 5.0,
    },
}


def steps(clipping):
    """Return how many of 40 steps are taken, how many of them on an empty batch, and the error that ended them."""
    torch.manual_seed(1)
    model = nn.Linear(3, 1)
    data = DataLoader(TensorDataset(torch.randn(20, 3)), batch_size=1)
    model, optimizer, loader = PrivacyEngine(accountant="rdp").make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=data,
        noise_multiplier=1.0,
        clipping=clipping,
        **SETTINGS[clipping],
    )
    taken, empty = 0, 0
    try:
        for _ in range(2):
            for (records,) in loader:
                optimizer.zero_grad()
                model(records).square().sum().backward()
                optimizer.step()
                taken, empty = taken + 1, empty + (len(records) == 0)
    except Exception as error:
        return taken, empty, f"{type(error).__name__}: {error}"
    return taken, empty, ""


print("opacus", version("opacus"))
for clipping in SETTINGS:
    taken, empty, error = steps(clipping)
    print(f"{clipping}: {taken} of 40 steps, {empty} of them on an empty batch {error}")
    assert error.startswith("RuntimeError: cannot reshape") if clipping == "adaptive" else taken == 40 and empty > 5
END
