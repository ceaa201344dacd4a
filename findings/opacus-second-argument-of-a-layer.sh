#!/usr/bin/env bash
# Opacus computes a layer of one's own again without its second argument, such as the mask.
#
# Expected: per-sample gradients of the layer as it was called, or an error where it takes more than one tensor.
# Seen: a layer with parameters of its own is run again for each record with its first argument alone. An optional mask,
# given by keyword or by position, is left out, so that padding has a part in the gradients. They are off by more than
# their norms, while the gradient that autograd computes in the same backward pass is right.
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
texts = torch.randn(4, 9, 5)
mask = torch.arange(9) < torch.tensor([[9], [5], [3], [2]])


class Pooling(nn.Module):
    """A mean of the tokens, weighted by a query that is learnt."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(5))

    def forward(self, texts, mask=None):
        scores = texts @ self.query
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1).unsqueeze(-1) * texts).sum(-2)


def gradient_alone(model, record):
    model.zero_grad()
    model(texts[record : record + 1], mask=mask[record : record + 1]).square().sum().backward()
    return model.query.grad.clone()


print("opacus", version("opacus"))
model = Pooling()
alone = torch.stack([gradient_alone(model, record) for record in range(len(texts))])
assert not ModuleValidator.validate(model)
private = GradSampleModule(model, loss_reduction="sum")
for how in ("by keyword", "by position"):
    private.zero_grad()
    outputs = private(texts, mask=mask) if how == "by keyword" else private(texts, mask)
    outputs.square().sum().backward()
    found = model.query.grad_sample
    off = (found - alone).norm(dim=1) / alone.norm(dim=1)
    of_sum = float((model.query.grad - alone.sum(0)).norm() / alone.sum(0).norm())
    print(f"mask {how}: gradients of records are off by", [f"{float(value):.0%}" for value in off])
    print(f"    autograd's own sum, of the same backward pass, is off by {of_sum:.0%}")
    assert float(off[0]) < 1e-4 and float(off[1:].min()) > 0.2 and of_sum < 1e-4
END
