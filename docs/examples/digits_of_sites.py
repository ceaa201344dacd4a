"""Write the handwritten digits of the demo as if three sites and a server had each written some of them."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fedtrain.data.sources.arrays import digits

SITES = ("hospital-a", "hospital-b", "hospital-c")


def encoded(pixels):
    """Return an image as the bytes of a PNG file."""
    file = BytesIO()
    Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(file, format="PNG")
    return {"bytes": file.getvalue()}


def main():
    """Write NAME.parquet for each site, and test.parquet, into the folder that is named."""
    folder, (pixels, labels) = Path(sys.argv[1]), digits()
    for number, name in enumerate([*SITES, "test"]):
        rows = range(number, len(labels), len(SITES) + 1)
        images = [encoded(pixels[row]) for row in rows]
        table = pa.table({"image": images, "label": labels[rows], "site": [name] * len(images)})
        pq.write_table(table, folder / f"{name}.parquet")


main()
