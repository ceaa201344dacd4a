#!/usr/bin/env bash
# A class without test records counts as 0 in torchmetrics' macro areas, or is left out, by how they are computed.
#
# Expected: macro averages are over the classes that there are, or an absent class counts the same everywhere.
# Seen: for perfect scores of two classes, with a third that no record has: AUROC 0.67, exact or in bins; average
# precision 1.0 where it is exact and 0.67 with thresholds; accuracy, recall and F1 1.0. A client or test set that
# lacks a class, as after a split by label, makes a perfect model look poor in some of them.
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
from torchmetrics.classification import (
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassF1Score,
    MulticlassRecall,
)

scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.8, 0.0]])
labels = torch.tensor([0, 0, 1, 1])
ways = {
    "AUROC, exact": MulticlassAUROC(3),
    "AUROC, 100 thresholds": MulticlassAUROC(3, thresholds=100),
    "average precision, exact": MulticlassAveragePrecision(3),
    "average precision, 100 thresholds": MulticlassAveragePrecision(3, thresholds=100),
    "recall": MulticlassRecall(3),
    "F1": MulticlassF1Score(3),
}

print("torchmetrics", version("torchmetrics"), "- macro averages, two of three classes, all right")
found = [round(float(metric(scores, labels)), 2) for metric in ways.values()]
for name, value in zip(ways, found, strict=True):
    print(f"{name:35} {value}")
assert found == [0.67, 0.67, 1.0, 0.67, 1.0, 1.0]
END
