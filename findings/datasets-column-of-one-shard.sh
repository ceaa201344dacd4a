#!/usr/bin/env bash
# datasets fills a column that a later Parquet file lacks with nulls, and refuses the same files in the other order.
#
# Expected: files with different columns are refused, or filled with nulls, whichever of them comes first.
# Seen: `load_dataset` takes the columns of the first file. A later file that lacks one gets nulls for all its rows,
# without a word; a later file that has one more ends in "column names don't match".
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

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import disable_progress_bars, load_dataset
from datasets.exceptions import DatasetGenerationError

disable_progress_bars()
pq.write_table(pa.table({"age": [61, 34]}), "narrow.parquet")
pq.write_table(pa.table({"age": [52, 47], "sex": ["f", "m"]}), "wide.parquet")


def read(*paths):
    try:
        return load_dataset("parquet", data_files=list(paths), split="train", cache_dir="cache").to_dict()
    except DatasetGenerationError as error:
        return str(error.__cause__).splitlines()[0]


print("datasets", version("datasets"))
filled, refused = read("wide.parquet", "narrow.parquet"), read("narrow.parquet", "wide.parquet")
print("wide, narrow:", filled)
print("narrow, wide:", refused)
assert filled == {"age": [52, 47, 61, 34], "sex": ["f", "m", None, None]}
assert isinstance(refused, str)
EOF
