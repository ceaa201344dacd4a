#!/usr/bin/env bash
# With packed sequences, Opacus takes the gradient of one record's LSTM together with that of another's last layer.
#
# Expected: row i of each grad_sample is of record i, so that the norm over all parameters is that of a record.
# Seen: pack_sequence(..., enforce_sorted=False) sorts by length, and DPLSTM's gradients stay in that order, while those
# of the layer after it are in the order of the batch. Norms are of mixed records, and the clipped sum is another one,
# without an error.
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
from opacus.layers import DPLSTM
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.utils.rnn import pack_sequence

torch.manual_seed(1)
LENGTHS, CLIP = (2, 9, 4, 6), 1.0
texts = [torch.randn(length, 3) for length in LENGTHS]


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.reads = DPLSTM(3, 5)
        self.last = nn.Linear(5, 1)

    def forward(self, texts):
        _, (hidden, _) = self.reads(pack_sequence(texts, enforce_sorted=False))
        return self.last(hidden[-1])


def gradients_alone(model, text):
    model.zero_grad()
    (10 * model([text])).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


print("opacus", version("opacus"))
model = Last()
alone = [torch.stack(each) for each in zip(*(gradients_alone(model, text) for text in texts), strict=True)]
assert not ModuleValidator.validate(model)
private = GradSampleModule(model, loss_reduction="sum")
optimizer = DPOptimizer(
    torch.optim.SGD(model.parameters(), lr=1.0),
    noise_multiplier=0.0,
    max_grad_norm=CLIP,
    expected_batch_size=None,
    loss_reduction="sum",
)
private.zero_grad()
(10 * private(texts)).square().sum().backward()
orders = {}
for (name, parameter), right in zip(model.named_parameters(), alone, strict=True):
    distances = torch.cdist(parameter.grad_sample.flatten(1), right.flatten(1))
    assert float(distances.min(1).values.max()) < 1e-3 * float(right.norm())
    orders[name] = [LENGTHS[index] for index in distances.argmin(1).tolist()]
    print(f"{name:20} gradients are those of the texts of lengths {orders[name]}")
assert all(order == (list(LENGTHS) if name.startswith("last") else [9, 6, 4, 2]) for name, order in orders.items())

norms = torch.stack([each.flatten(1).norm(dim=1) for each in alone]).norm(dim=0)
expected = [torch.einsum("i,i...", (CLIP / norms).clamp(max=1), each) for each in alone]
optimizer.step()
off = torch.stack([(p.summed_grad - e).norm() for p, e in zip(model.parameters(), expected)]).norm()
size = torch.stack([each.norm() for each in expected]).norm()
print(f"the sum of the clipped gradients is {float(off / size):.0%} off")
assert off > 0.05 * size
END
