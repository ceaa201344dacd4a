#!/usr/bin/env bash
# Opacus counts a word that a bag has twice once in the gradient of an EmbeddingBag.
#
# Expected: grad_sample is each record's own gradient, for the modes that the layer has.
# Seen: rows are added up by gsm[index] += value, which adds once for an index that is there more than once. A text that
# is mostly one word has half of its gradient, or less. With mode "max" all gradients are zero. The validator finds
# nothing, and there is no error.
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
texts = [torch.tensor(words) for words in ([1, 2, 3], [4, 4, 4, 2], [5, 5, 6])]


class Bag(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.words = nn.EmbeddingBag(8, 3, mode=mode)

    def forward(self, texts):
        lengths = torch.tensor([len(text) for text in texts])
        return self.words(torch.cat(texts), lengths.cumsum(0) - lengths)


def loss(model, texts):
    return (model(texts) ** 2).sum()


def gradient_alone(model, text):
    model.zero_grad()
    loss(model, [text]).backward()
    return model.words.weight.grad.clone()


print("opacus", version("opacus"))
for mode in ("sum", "mean", "max"):
    model = Bag(mode)
    alone = [gradient_alone(model, text) for text in texts]
    assert not ModuleValidator.validate(model)
    private = GradSampleModule(model, loss_reduction="sum")
    private.zero_grad()
    loss(private, texts).backward()
    shares = [
        float(found.norm() / right.norm()) for found, right in zip(model.words.weight.grad_sample, alone, strict=True)
    ]
    for text, share in zip(texts, shares, strict=True):
        print(f"mode {mode:4} text {text.tolist()}: norm of its gradient is {share:.3f} of the true one")
    if mode == "max":
        assert shares == [0.0, 0.0, 0.0]
    else:
        assert abs(shares[0] - 1) < 1e-5 and shares[1] < 0.5 and shares[2] < 0.7
END
