#!/usr/bin/env bash
# Opacus gives the padding vector of an Embedding a gradient, the largest of all.
#
# Expected: with padding_idx, "the embedding vector at padding_idx is not updated during training", as torch documents
# and as its own gradient is zero there.
# Seen: the per-sample gradients have that of the padding too. In texts of 3 words that are padded to 32 it is 17 times
# as long as that of all words. It takes most of the clipping norm, and moves the vector that is to stay zero.
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
from opacus.validators import ModuleValidator
from torch import nn

torch.manual_seed(1)
PAD, LENGTH = 0, 32
texts = torch.full((4, LENGTH), PAD)
texts[:, :3] = torch.randint(1, 20, (4, 3))


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 6, padding_idx=PAD)
        self.last = nn.Linear(6, 1)

    def forward(self, texts):
        return self.last(self.words(texts).mean(1))


print("opacus", version("opacus"))
model = Mean()
assert not ModuleValidator.validate(model)
private = GradSampleModule(model, loss_reduction="sum")
optimizer = DPOptimizer(
    torch.optim.SGD(model.parameters(), lr=1.0),
    noise_multiplier=0.0,
    max_grad_norm=1.0,
    expected_batch_size=4,
    loss_reduction="sum",
)
private(texts).sum().backward()
weight = model.words.weight
of_pad, of_words = weight.grad_sample[:, PAD].norm(dim=1), weight.grad_sample[:, 1:].flatten(1).norm(dim=1)
print("autograd's gradient of the padding vector:", float(weight.grad[PAD].norm()))
print("norms of the records' gradients of it:    ", [round(float(value), 3) for value in of_pad])
print("norms of the records' gradients of words: ", [round(float(value), 3) for value in of_words])
assert not weight.grad[PAD].any() and bool((of_pad > 5 * of_words).all())
before = weight.detach()[PAD].clone()
optimizer.step()
moved = float((weight.detach()[PAD] - before).norm())
print(f"the padding vector was {float(before.norm())}, and a step without noise moved it by {moved:.3f}")
assert not before.any() and moved > 0.1
END
