#!/usr/bin/env bash
# safetensors.numpy.save writes a transposed array as another array of the same shape.
#
# Expected: the values come back, as numpy's own writers do it; or an error, as safetensors.torch.save raises one.
# Seen: the bytes of the array's memory are written under its shape, so that a transposed or channels-last array
# comes back with its values in other places, and a slice with values that are not its own. The docstring says that
# tensors "need to be contiguous"; nothing checks it. A model that was right in memory is another one in the file.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile safetensors==0.8.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'EOF'
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
images = np.arange(24.0, dtype=np.float32).reshape(1, 2, 3, 4).transpose(0, 3, 1, 2)
cases = {"contiguous": array, "transposed": array.T, "channels last": images, "every second": np.arange(10.0)[::2]}
print("safetensors", version("safetensors"))
same = {}
for name, value in cases.items():
    found = load(save({"w": value}))["w"]
    same[name] = found.shape == value.shape and float((found == value).mean())
    print(f"{name:>13}: shape kept {found.shape == value.shape}, values that came back {same[name]:.0%}")
print("every second of 0 to 9:", load(save({"w": cases["every second"]}))["w"])
assert same["contiguous"] == 1 and all(same[name] < 1 for name in cases if name != "contiguous")
EOF
