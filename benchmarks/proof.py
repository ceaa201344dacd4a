"""What a benchmark checks beside the clock: that the work was done. One that did none ends with an error.

The checks are cheap, or made after the clock has stopped.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def require(done: bool, what: str) -> None:
    """End the benchmark where its work was not done; ``what`` says what is missing."""
    if not done:
        sys.exit(f"the work was not done: {what}")


def require_replies(replies: Sequence[Any], sent: Any, *, cohort: int, trains: bool) -> None:
    """Require that each client of a round has answered without an error, and has moved each array if it trains.

    Args:
        replies: Flower's messages.
        sent: the ``ArrayRecord`` that each client was sent.
        cohort: how many clients were asked.
        trains: whether they train.
    """
    for reply in replies:
        require(not reply.has_error(), f"a client answered {reply.error.reason if reply.has_error() else ''}")
        (arrays,) = reply.content.array_records.values()
        require(list(arrays) == list(sent), f"a client answered with the arrays {', '.join(arrays)}")
        still = [name for name, array in arrays.items() if array.data == sent[name].data] if trains else []
        require(not still, f"a client has not trained {', '.join(still)}")
    require(len(replies) == cohort, f"{len(replies)} of {cohort} clients answered")


def require_results(results: Sequence[int], *, rounds: int, cohort: int) -> None:
    """Require that each round had as many results as clients."""
    require(list(results) == [cohort] * rounds, f"the rounds had {list(results)} results, and {rounds} of {cohort}")


def require_loss(before: float, after: float, *, falls: bool) -> None:
    """Require that the loss of the model after all rounds is finite, and where it can, has fallen."""
    require(math.isfinite(after), f"the loss is {after} after training")
    require(not falls or after < before, f"the loss was {before:.4f} before training and is {after:.4f} after it")


def require_charges(folder: Path, *, trainings: int) -> None:
    """Require that ledgers of clients have a reservation and a settlement of each training, and of nothing else."""
    entries = sum(path.read_bytes().count(b"\n") for path in folder.glob("*/ledgers/*.jsonl"))
    require(entries == 2 * trainings, f"the ledgers have {entries} entries after {trainings} private trainings")


def require_epsilon(epsilon: float, *, most: float) -> None:
    """Require an epsilon that was spent, and not more than the budget."""
    require(0 < epsilon <= most, f"epsilon is {epsilon} of a budget of {most}")


def require_near(what: str, found: float, expected: float, *, relative: float) -> None:
    """Require a number that is within a fraction of another."""
    near = math.isfinite(found) and math.isclose(found, expected, rel_tol=relative)
    require(near, f"{what} is {found}, and {expected} was expected")
