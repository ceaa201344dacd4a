#!/usr/bin/env bash
# The area under the ROC curve of the same scores depends on the batches in which torchmetrics sees them.
#
# Expected: BinaryAUROC takes the scores of all batches together, so that their partition makes no difference.
# Seen: each update decides by itself whether its scores are logits: where all are in [0, 1] they are kept, and
# otherwise they pass through a sigmoid. Scores of a kind are then compared with scores of another: 0.9 in one batch is
# above sigmoid(2.0) = 0.88 of the next. An area of 1 in one batch is 0.75 in two.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version

import torch
from torchmetrics.classification import BinaryAUROC

scores = torch.tensor([0.1, 0.9, 2.0, 3.0])
labels = torch.tensor([0, 0, 1, 1])


def area(batches):
    metric = BinaryAUROC()
    for some in torch.arange(4).split(batches):
        metric.update(scores[some], labels[some])
    return float(metric.compute())


print("torchmetrics", version("torchmetrics"))
found = {size: area(size) for size in (4, 2, 1)}
for size, value in found.items():
    print(f"batches of {size}: area {value}")
assert found == {4: 1.0, 2: 0.75, 1: 0.75}
END
