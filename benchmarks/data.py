"""The time to decode a wide table beside its floor: to read it with pyarrow, and to make one array of it.

    python benchmarks/data.py [--columns N ...] [--rows N] [--repeat N]

A table of gene expression has tens of thousands of columns and few rows. Here it holds random numbers in float64, and a
label. fedtrain reads, checks and decodes it as ``source = "parquet"`` does. The floor is pyarrow's ``read_table`` and
``numpy.column_stack`` in float32. Seconds are of the processor, the least of the repeats.

Both must give the same array. A ratio above 3 at the largest table is an error, and so is a time that grows more than
twice as much as the columns.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from proof import require

from fedtrain.config import Data
from fedtrain.data.sources.parquet import decode_parquet

MOST = 3.0
_GROWTH = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[1_000, 4_000, 20_000], metavar="N")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, taken in turn")
    arguments = parser.parse_args()
    print(f"{arguments.rows} rows\n{'columns':>10}{'pyarrow, s':>12}{'fedtrain, s':>13}{'ratio':>8}")
    found = []
    for columns in arguments.columns:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "genes.parquet"
            write(path, rows=arguments.rows, columns=columns)
            floor, ours = measure(path, arguments.repeat)
        found.append((columns, floor, ours))
        print(f"{columns:>10,}{floor:>12.2f}{ours:>13.2f}{ours / floor:>8.2f}", flush=True)
    check(found)


def write(path: Path, *, rows: int, columns: int) -> None:
    generator = np.random.default_rng(0)
    table = {f"gene {number}": generator.standard_normal(rows) for number in range(columns)}
    pq.write_table(pa.table(table | {"label": generator.integers(0, 2, rows)}), path)


def measure(path: Path, repeat: int) -> tuple[float, float]:
    """Return the least seconds of the processor for the floor and for fedtrain, which give the same array."""
    ways: tuple[Callable[[Path], NDArray[Any]], ...] = (by_pyarrow, by_fedtrain)
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        arrays = []
        for way, seconds in zip(ways, spent, strict=True):
            started = time.process_time()
            arrays.append(way(path))
            seconds.append(time.process_time() - started)
        require_equal(*arrays)
    return min(spent[0]), min(spent[1])


def by_pyarrow(path: Path) -> NDArray[Any]:
    table = pq.read_table(path).drop_columns("label")
    return np.column_stack([column.to_numpy() for column in table.columns]).astype(np.float32)


def by_fedtrain(path: Path) -> NDArray[Any]:
    return decode_parquet(Data(source="parquet", path=str(path), test_fraction=0.2)).train.features


def require_equal(floor: NDArray[Any], ours: NDArray[Any]) -> None:
    """Require that both ways have decoded the same numbers."""
    require(floor.shape == ours.shape, f"fedtrain decoded {ours.shape}, and pyarrow {floor.shape}")
    require(bool(np.array_equal(floor, ours)), "fedtrain decoded other numbers than pyarrow")


def check(found: list[tuple[int, float, float]]) -> None:
    """Require a ratio of at most 3 at the largest table, and a time in proportion to the columns."""
    (fewest, _, first), (most, floor, last) = min(found), max(found)
    ratio = last / floor
    require(ratio <= MOST, f"{most:,} columns take {ratio:.1f} times as long as with pyarrow, above {MOST:g}")
    growth = last / first / (most / fewest)
    require(growth <= _GROWTH, f"the time for {most:,} columns is {growth:.1f} times what {fewest:,} columns promise")


if __name__ == "__main__":
    main()
