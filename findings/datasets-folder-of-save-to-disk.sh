#!/usr/bin/env bash
# datasets takes the notes of save_to_disk for the records.
#
# Expected: `load_dataset` of a folder that `DatasetDict.save_to_disk` wrote gives the records, or is refused with
# `load_from_disk` as the remedy, as it is for a folder that `Dataset.save_to_disk` wrote.
# Seen: it gives splits of one row each, whose columns are `_fingerprint`, `_split` and the like: the content of
# state.json, which lies beside the records. There is no word of it, and none of the records is loaded.
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

from datasets import Dataset, DatasetDict, disable_progress_bars, load_dataset, load_from_disk

disable_progress_bars()
records = Dataset.from_dict({"age": [40.0, 50.0, 60.0], "label": [0, 1, 0]})
records.save_to_disk("one")
DatasetDict(train=records, test=records).save_to_disk("two")

try:
    load_dataset("one", cache_dir="cache")
    refused = ""
except ValueError as error:
    refused = str(error)
loaded = load_dataset("two", cache_dir="cache")["train"]

print("datasets", version("datasets"))
print("a Dataset's folder is refused:", refused)
print("a DatasetDict's folder:       ", loaded.num_rows, "row of", loaded.column_names)
print("by load_from_disk:            ", load_from_disk("two")["train"].num_rows, "rows of", records.column_names)
assert "load_from_disk" in refused
assert "_fingerprint" in loaded.column_names and "age" not in loaded.column_names
assert load_from_disk("two")["train"].num_rows == 3
EOF
