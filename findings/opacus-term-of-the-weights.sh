#!/usr/bin/env bash
# FedProx's proximal term in the loss has no effect with Opacus.
#
# Expected: a penalty on the distance from the server's weights pulls towards them, or it is refused.
# Seen: gradients come from the hooks of layers, and a term that is computed from weights goes through no layer.
# Autograd has its gradient in p.grad, which the optimizer replaces. A step with mu = 5 is bit for bit that with mu = 0,
# without a warning.
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
from torch import nn

torch.manual_seed(1)
records, targets = torch.randn(16, 4), torch.randn(16, 1)
start, of_server = nn.Linear(4, 1).state_dict(), nn.Linear(4, 1).state_dict()


def distance(private, mu):
    """Return how far the weights are from the server's after one step."""
    model = nn.Linear(4, 1)
    model.load_state_dict(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if private:
        model = GradSampleModule(model)
        optimizer = DPOptimizer(optimizer, noise_multiplier=0.0, max_grad_norm=1e6, expected_batch_size=16)
    anchors = list(of_server.values())
    loss = (model(records) - targets).square().mean()
    loss = loss + mu / 2 * sum((weight - anchor).square().sum() for weight, anchor in zip(model.parameters(), anchors))
    loss.backward()
    optimizer.step()
    return float(sum((w.detach() - a).square().sum() for w, a in zip(model.parameters(), anchors)).sqrt())


print("opacus", version("opacus"))
found = {(private, mu): distance(private, mu) for private in (False, True) for mu in (0.0, 5.0)}
for (private, mu), value in found.items():
    print(f"{'DPOptimizer' if private else 'SGD':11} mu {mu}: distance from the server's weights {value:.4f}")
assert found[False, 5.0] < 0.7 * found[False, 0.0]
assert abs(found[True, 0.0] - found[False, 0.0]) < 1e-4
assert found[True, 5.0] == found[True, 0.0]
END
