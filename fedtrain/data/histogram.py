"""How many records of each class each client holds."""

import numpy as np

from fedtrain.data.partition import Partitions
from fedtrain.data.types import DataStore, Labels

_MAX_ROWS = 20
_MAX_COLUMNS = 12
_MAX_NAME = 14


def label_histogram(store: DataStore, partitions: Partitions) -> Labels:
    """Count the training records of each client and class.

    Returns:
        Counts, shape (clients, classes), int64.
    """
    clients, classes = partitions.clients, len(store.info.classes)
    owner = np.repeat(np.arange(clients), np.diff(partitions.offsets))
    cells = owner * classes + store.train.targets[partitions.rows]
    return np.bincount(cells, minlength=clients * classes).reshape(clients, classes).astype(np.int64)


def format_histogram(histogram: Labels, classes: tuple[str, ...]) -> str:
    """Render the counts as a text table without a final newline.

    Up to 20 clients and 12 classes are shown in full, with each client's total. More are summed up: a row for each
    class with the minimum, median and maximum over the clients and the number of clients that hold the class, and a
    row for the totals.
    """
    totals = histogram.sum(axis=1)
    if len(histogram) <= _MAX_ROWS and len(classes) <= _MAX_COLUMNS:
        rows = [["client", *(_short(name) for name in classes), "total"]]
        rows += [
            [str(client), *(str(count) for count in counts), str(total)]
            for client, (counts, total) in enumerate(zip(histogram, totals, strict=True))
        ]
        return _table(rows)
    rows = [["class", "min", "median", "max", "clients"]]
    rows += [[_short(name), *_summary(histogram[:, label])] for label, name in enumerate(classes)]
    rows.append(["total", *_summary(totals)])
    return _table(rows)


def _summary(counts: Labels) -> list[str]:
    middle = f"{np.median(counts):g}"
    return [str(counts.min()), middle, str(counts.max()), str(np.count_nonzero(counts))]


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
