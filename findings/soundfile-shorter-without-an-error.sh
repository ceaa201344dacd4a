#!/usr/bin/env bash
# soundfile reads a WAV file that was cut off as a shorter one, down to no samples at all, without an error.
#
# Expected: an error or a warning where the header declares more samples than the file holds, as copies that were
# interrupted do.
# Seen: `read` returns what is there. A file that ends after its header has 0 samples. Only `extra_info` of the open file,
# a log in words, has a line that says how large the chunk should be.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile soundfile==0.14.0 numpy==2.4.6

"$folder/venv/bin/python" -W error - <<'EOF'
import io

import numpy as np
import soundfile

with io.BytesIO() as file:
    soundfile.write(file, np.full(8000, 0.25), 8000, format="WAV", subtype="PCM_16")
    whole = file.getvalue()

print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__)
lengths = {}
for kept in (len(whole), len(whole) // 2, 44):
    with soundfile.SoundFile(io.BytesIO(whole[:kept])) as file:
        lengths[kept] = (file.frames, len(file.read()))
    print(f"{kept} of {len(whole)} bytes: frames {lengths[kept][0]}, read {lengths[kept][1]}")
assert lengths[len(whole)] == (8000, 8000)
assert lengths[len(whole) // 2] == (3989, 3989)
assert lengths[44] == (0, 0)
EOF
