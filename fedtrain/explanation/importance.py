"""Permutation importance: how much worse a model is where a column is another record's.

Sources: Breiman 2001, "Random Forests", section 10; Fisher, Rudin and Dominici 2019, "All Models are Wrong, but Many
are Useful".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedtrain.explanation.found import Importance
from fedtrain.progress import working

PERMUTATIONS: Final = 5
"""Permutations of each column."""


def permutation_importance(
    measure: Callable[[NDArray[Any]], float],
    features: NDArray[Any],
    columns: Mapping[str, Sequence[int]],
    *,
    direction: Literal["higher", "lower"],
    seed: int,
) -> tuple[float, tuple[Importance, ...]]:
    """Return a metric, and by how much it is worse where the values of a column are permuted over the records.

    Columns that depend on each other share what they tell: each may look unimportant, since the other is still there.

    Args:
        measure: from the features of the records to the metric.
        features: shape (n, features).
        columns: the features of each column; they are permuted together.
        direction: whether a higher or a lower value is better.
        seed: of the permutations.

    Returns:
        The metric of the features as they are, and the columns, the most important first.
    """
    generator, sign = np.random.default_rng(seed), 1 if direction == "higher" else -1
    reached = measure(features)
    found = []
    with working("permuting columns of the test records", len(columns)) as done:
        for place, (name, rows) in enumerate(columns.items()):
            worse = []
            for _ in range(PERMUTATIONS):
                permuted = features.copy()
                permuted[:, list(rows)] = features[generator.permutation(len(features))][:, list(rows)]
                worse.append(sign * (reached - measure(permuted)))
            each = Importance(column=name, features=len(rows), worse=float(np.mean(worse)), spread=float(np.std(worse)))
            found.append(each)
            done(place + 1)
    return reached, tuple(sorted(found, key=lambda each: -each.worse))
