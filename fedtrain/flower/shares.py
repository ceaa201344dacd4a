"""Distributed noise in Flower's messages: whole numbers are summed, and the strategy gets the model that the sum gives.

With masks the sum comes from secure aggregation, and the server sees nothing else. In a simulation without masks the
server adds up the same whole numbers itself.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from fedtrain.flower.client_dp import one_reply
from fedtrain.flower.messages.records import view
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import Arrays, mechanism_of_plan


def sum_of(
    replies: Sequence[Message], *, sent: ArrayRecord, trained: frozenset[str]
) -> tuple[dict[str, NDArray[np.int64]], int]:
    """Return the sum of the whole numbers that clients sent, exactly, and how many clients are in it.

    Args:
        replies: as the checks let them pass: whole numbers, int32, in the place of what is trained. Errors are left
            out.
        sent: the arrays that each client received.
        trained: the names of what is trained.
    """
    total = {name: np.zeros(sent[name].shape, dtype=np.int64) for name in sent if name in trained}
    usable = [reply for reply in replies if not reply.has_error()]
    for reply in usable:
        arrays = next(iter(reply.content.array_records.values()))
        for name in total:
            total[name] += cast("NDArray[np.int32]", view(name, arrays[name]))
    return total, len(usable)


def decoded(
    total: Arrays,
    *,
    clients: int,
    sent: ArrayRecord,
    trained: frozenset[str],
    plan: PrivacyPlan,
    learning_rate: float,
) -> list[Message]:
    """Return the one reply that a strategy gets in the place of all: the model that a sum gives, of weight 1.

    It is a function of the sum and of public constants, so that strategies compute with it as they like.

    Args:
        total: the sum of the clients' whole numbers, by name.
        clients: how many are in it.
        sent: the arrays that each client received.
        trained: the names of what is trained.
        plan: the plan, of a mechanism whose clients share the noise.
        learning_rate: that of the round.
    """
    mine = {name: total[name] for name in sent if name in trained}
    change = mechanism_of_plan(plan).change(plan, total=mine, clients=clients, learning_rate=learning_rate)
    return one_reply(sent, change)
