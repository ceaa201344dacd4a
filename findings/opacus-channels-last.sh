#!/usr/bin/env bash
# Opacus' per-sample gradients of a Conv2d are of other pixels where the images are in channels_last.
#
# Expected: a memory format changes no result, as it changes no result of torch.
# Seen: the windows are read by strides that are true of contiguous images only. With images in torch.channels_last,
# which torch offers for convolutions, each record's gradient is off by more than its norm. There is no error, and the
# gradients that autograd computes in the same backward pass are right.
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
images = torch.randn(6, 3, 9, 9)


def gradient_alone(model, index):
    model.zero_grad()
    model(images[index : index + 1]).square().sum().backward()
    return model.weight.grad.clone()


print("opacus", version("opacus"))
for padding in (0, 1):
    model = nn.Conv2d(3, 4, 3, padding=padding)
    alone = torch.stack([gradient_alone(model, index) for index in range(len(images))])
    assert not ModuleValidator.validate(model)
    private = GradSampleModule(model, loss_reduction="sum")
    for layout in (torch.contiguous_format, torch.channels_last):
        private.zero_grad()
        private(images.to(memory_format=layout)).square().sum().backward()
        off = float((model.weight.grad_sample - alone).norm() / alone.norm())
        of_sum = float((model.weight.grad - alone.sum(0)).norm() / alone.sum(0).norm())
        print(f"padding {padding}, {layout}: records' gradients off by {off:.0%}, autograd's sum by {of_sum:.0%}")
        assert of_sum < 1e-4 and (off > 0.5 if layout == torch.channels_last else off < 1e-4)
END
