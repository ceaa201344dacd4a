#!/usr/bin/env bash
# soundfile reads a float file as silence where 16-bit integers are asked for.
#
# Expected: samples of full scale 1.0 become integers of full scale 32767, as those of a 24-bit file do; or an error.
# Seen: each sample is rounded to a whole number of the float's own unit, so that a sine of half of full scale becomes
# zeros. The same sine from a 24-bit file is right. It is documented in a note on `read`, and nothing is said when it
# happens: a program that reads 16-bit integers, as many for speech do, trains on silence.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile soundfile==0.14.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'EOF'
import numpy as np
import soundfile

sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
for width in ("PCM_24", "FLOAT"):
    soundfile.write(f"{width}.wav", sine, 8000, subtype=width)

print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__)
peaks = {}
for width in ("PCM_24", "FLOAT"):
    samples, _ = soundfile.read(f"{width}.wav", dtype="int16")
    floats, _ = soundfile.read(f"{width}.wav", dtype="float32")
    peaks[width] = int(np.abs(samples).max())
    print(f"{width}: peak as int16 {peaks[width]}, as float32 {np.abs(floats).max():.3f}")
assert peaks["PCM_24"] > 16_000
assert peaks["FLOAT"] == 0
EOF
