"""Write the handwritten digits of scikit-learn as if three sites and a server had each written some of them."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

SITES = ("hospital-a", "hospital-b", "hospital-c")


def encoded(pixels):
    """Return an image as the bytes of a PNG file."""
    file = BytesIO()
    Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(file, format="PNG")
    return {"bytes": file.getvalue()}


def main():
    """Write NAME.parquet for each site, and test.parquet, into the folder that is named."""
    folder, digits = Path(sys.argv[1]), load_digits()
    for number, name in enumerate([*SITES, "test"]):
        rows = range(number, len(digits.target), len(SITES) + 1)
        images = [encoded(digits.images[row]) for row in rows]
        table = pa.table({"image": images, "label": digits.target[rows], "site": [name] * len(images)})
        pq.write_table(table, folder / f"{name}.parquet")


main()
