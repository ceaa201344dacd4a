#!/usr/bin/env bash
# datasets gives the labels of each Parquet file the names of the first file.
#
# Expected: files whose ClassLabel lists the names in another order are put right or refused, as
# `concatenate_datasets` refuses the same two datasets.
# Seen: `load_dataset` takes the features of the first file, and the integers of the others as they are. Where one
# site numbered cat 0 and dog 1, and another the other way round, every label of the second comes out wrong, without a
# word.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile datasets==4.8.5 pyarrow==26.0.1

export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf"
"$folder/venv/bin/python" -W ignore - <<'EOF'
from importlib.metadata import version

from datasets import ClassLabel, Dataset, Features, concatenate_datasets, disable_progress_bars, load_dataset

disable_progress_bars()
ANIMALS = ["cat", "cat", "dog"]


def write(path, names):
    features = Features({"animal": ClassLabel(names=names)})
    data = Dataset.from_dict({"animal": [names.index(animal) for animal in ANIMALS]}, features=features)
    data.to_parquet(path)
    return data


def read(paths):
    data = load_dataset("parquet", data_files=paths, split="train", cache_dir="cache")
    return data.features["animal"].int2str(data["animal"][:])


first = write("first.parquet", ["cat", "dog"])
second = write("second.parquet", ["dog", "cat"])
try:
    concatenate_datasets([first, second])
    refused = False
except ValueError:
    refused = True

print("datasets", version("datasets"))
print("written to each file:   ", ANIMALS)
print("read from the second:   ", read(["second.parquet"]))
print("read from both:         ", read(["first.parquet", "second.parquet"]))
print("concatenate_datasets of the two refuses:", refused)
assert refused and read(["second.parquet"]) == ANIMALS
assert read(["first.parquet", "second.parquet"]) == [*ANIMALS, "dog", "dog", "cat"]
EOF
