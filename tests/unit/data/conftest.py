"""Small files of every format, and a cache of each test's own."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDTRAIN_CACHE", str(folder))
    return folder


@pytest.fixture
def encode():
    from PIL import Image

    def encode(pixels, form="PNG"):
        """Encode an array (height, width) or (height, width, 3) as the content of an image file."""
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(buffer, form)
        return buffer.getvalue()

    return encode


@pytest.fixture
def parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(name, columns, features=None):
        """Write columns as a Parquet file, with the hub's description of its features where given."""
        table = pa.table(columns)
        if features is not None:
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return str(path)

    return write


@pytest.fixture
def shared():
    folder = Path(os.environ.get("FEDTRAIN_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    return folder
