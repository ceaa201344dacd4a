#!/usr/bin/env bash
# Opacus' replacement of nn.MultiheadAttention with batch_first=True computes another function.
#
# Expected: DPMultiheadAttention, which the validator calls "a drop-in replacement", gives the outputs of the layer
# whose weights it takes over.
# Seen: with batch_first=True and more than one head they have nothing to do with them, without an error. The results of
# the heads, of shape (records * heads, tokens, width of a head), are viewed as (records, tokens, width) as they lie in
# memory, so that what one head found at several tokens becomes the output at one. Without batch_first, and with one
# head, the outputs are equal.
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
from opacus.validators import ModuleValidator
from torch import nn

torch.manual_seed(1)
records, tokens, width = 5, 7, 8
texts = torch.randn(records, tokens, width)


def outputs(layer, first):
    taken = texts if first else texts.transpose(0, 1)
    made, _ = layer(taken, taken, taken)
    return made if first else made.transpose(0, 1)


print("opacus", version("opacus"))
for first in (False, True):
    for heads in (1, 2, 4):
        plain = nn.MultiheadAttention(width, heads, batch_first=first)
        replaced = ModuleValidator.fix(plain)
        assert type(replaced).__name__ == "DPMultiheadAttention" and not ModuleValidator.validate(replaced)
        expected, found = outputs(plain, first), outputs(replaced, first)
        off = float((found - expected).norm() / expected.norm())
        print(f"batch_first {first!s:5}, heads {heads}: off by {off:.1%}")
        assert off > 0.2 if first and heads > 1 else off < 1e-5
END
