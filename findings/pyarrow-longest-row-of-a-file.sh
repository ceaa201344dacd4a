#!/usr/bin/env bash
# Whether pyarrow's CSV reader takes a row that is longer than its block_size depends on the rows before it.
#
# Expected: rows up to some length are read, and longer ones are not, wherever they stand in the file.
# Seen: with blocks of 1,000 bytes a row of 1,500 bytes is read as the first one of a file, and after rows of 900 bytes it
# ends in "straddling object straddles two block boundaries". A row of 1,000 bytes is read everywhere, one of 2,100
# nowhere. By default a block is 1 MiB, so that it is met by columns of long texts: the same rows in another order are
# another file.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile pyarrow==26.0.1

"$folder/venv/bin/python" - <<'PROGRAM'
import io

import pyarrow as pa
from pyarrow import csv


def is_read(length, *, before):
    """Whether a file is read with a row of so many bytes, and with so many bytes of short rows before it."""
    text = "n,text\n" + "1,word.sp\n" * (before // 10) + f"2,{'a' * (length - 3)}\n" + "1,word.sp\n" * 20
    options = csv.ReadOptions(block_size=1000, use_threads=False)
    try:
        table = csv.read_csv(io.BytesIO(text.encode()), read_options=options)
    except pa.ArrowInvalid as error:
        assert "straddles two block boundaries" in str(error), error
        return False
    assert table.num_rows == before // 10 + 21
    return True


print("pyarrow", pa.__version__)
found = {length: [is_read(length, before=before) for before in range(0, 1000, 100)] for length in (1000, 1500, 2100)}
for length, read in found.items():
    print(f"a row of {length} bytes: read at {sum(read)} of {len(read)} places")
assert all(found[1000])
assert any(found[1500])
assert not all(found[1500])
assert not any(found[2100])
assert found[1500][0]
assert not found[1500][9]
PROGRAM
