"""Client-level privacy in Flower's messages: the client clips what it sends, the server releases one noisy mean.

The strategy above is sum-based and unmodified. It is given one reply in the place of all, which holds the model that
was sent plus the noisy mean update, with weight 1: its own weighted average leaves that as it is.
"""

from collections.abc import Iterator, Sequence

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import to_array
from fedtrain.flower.totals import Total
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.client_level import Contribution, Release
from fedtrain.privacy.clipping import Update, clip_change, difference, moved
from fedtrain.privacy.mechanisms import mechanism_of_plan
from fedtrain.privacy.noise import RandomSource


def clip_reply(
    *, received: ArrayRecord, trained: ArrayRecord, trainable: frozenset[str], clip_norm: float
) -> tuple[ArrayRecord, bool]:
    """Return what a client sends, and whether its update was within the clipping norm.

    Trainable arrays are as received plus the clipped update, in the dtypes received; all others are as received, since
    neither clipping nor noise covers them. Rounding to the dtype does not lengthen the update.

    An update that is not finite becomes zero, and is not within the norm.

    Raises:
        ValueError: ``clip_norm`` is not finite and above 0, or a trainable array was not received.
    """
    names = _ordered(trainable, received)
    arrays, within = clip_change(
        {name: received[name].numpy() for name in names}, {name: trained[name].numpy() for name in names}, clip_norm
    )
    return ArrayRecord(
        {name: to_array(arrays[name]) if name in arrays else array for name, array in received.items()}
    ), within


def release_round(
    replies: Sequence[Message],
    *,
    sent: ArrayRecord,
    trainable: frozenset[str],
    plan: PrivacyPlan,
    clip_norm: float,
    source: RandomSource,
) -> tuple[list[Message], float]:
    """Return the one reply that a strategy gets in the place of all, and the clipping norm of the next round.

    Formal guarantee: as of the ``release`` of the plan's mechanism, which gives the mean update. All else that the
    reply holds was sent, or is a public constant.

    Args:
        replies: as the checks let them pass: arrays named, shaped and typed as sent, and one metric record. Error
            replies are left out, as if their clients had not been drawn; with adaptive clipping also those that do not
            say with 0 or 1 whether their update was within the clipping norm. There may be none.
        sent: the arrays that each client received.
        trainable: the names of the arrays that are trained.
        plan: the plan, of a mechanism whose server adds the noise.
        clip_norm: the clipping norm that each client received.
        source: where the noise comes from.

    Raises:
        PrivacySpecError: the mechanism of the plan adds no noise at the server.
        ValueError: an argument is not as described.
        RunError: adaptive clipping ran away.
    """
    released = mechanism_of_plan(plan).release(
        plan,
        clip_norm=clip_norm,
        shapes={name: tuple(sent[name].shape) for name in _ordered(trainable, sent)},
        contributions=_contributions(replies, sent, trainable, adaptive=plan.spec.adaptive is not None),
        source=source,
    )
    return _released(sent, released)


def release_total(
    total: Total,
    *,
    clients: int,
    sent: ArrayRecord,
    trainable: frozenset[str],
    plan: PrivacyPlan,
    clip_norm: float,
    source: RandomSource,
) -> tuple[list[Message], float]:
    """Do the same with the sum of the updates, where the server knows no single one.

    Formal guarantee: as of the ``release_sum`` of the plan's mechanism: each client's own program has clipped.

    Args:
        total: what the sum says. With adaptive clipping, how many updates were within the clipping norm is among the
            counters.
        clients: how many updates are in the sum.
        sent: the arrays that each client received.
        trainable: the names of the arrays that are trained.
        plan: the plan, of a mechanism whose server adds the noise.
        clip_norm: the clipping norm that each client received.
        source: where the noise comes from.

    Raises:
        PrivacySpecError: the mechanism of the plan adds no noise at the server.
        ValueError: an argument is not as described.
        RunError: adaptive clipping ran away.
    """
    released = mechanism_of_plan(plan).release_sum(
        plan,
        clip_norm=clip_norm,
        total={name: total.update[name] for name in _ordered(trainable, sent)},
        count=total.counters.get(protocol.WITHIN_CLIP, 0) - clients / 2,
        source=source,
        modulus=total.modulus,
        count_modulus=total.counter_modulus,
        largest_count=clients / 2,
    )
    return _released(sent, released)


def _released(sent: ArrayRecord, released: Release) -> tuple[list[Message], float]:
    return one_reply(sent, released.mean), released.clip_norm


def one_reply(sent: ArrayRecord, change: Update) -> list[Message]:
    """Return the one reply that a strategy gets in the place of all: what was sent, with a change, of weight 1.

    Args:
        sent: the arrays that each client received.
        change: of those that change, by name.
    """
    content = RecordDict(
        {protocol.ARRAYS: _moved(sent, change), protocol.METRICS: MetricRecord({protocol.WEIGHT: 1.0})}
    )
    # From the server to itself: with an empty cohort there is no message to which this could be the reply.
    return [Message(content, TaskIdentity.node_id, MessageType.TRAIN)]


def _contributions(
    replies: Sequence[Message], sent: ArrayRecord, trainable: frozenset[str], *, adaptive: bool
) -> Iterator[Contribution]:
    for reply in replies:
        if reply.has_error():
            continue
        arrays = next(iter(reply.content.array_records.values()))
        within = next(iter(reply.content.metric_records.values())).get(protocol.WITHIN_CLIP)
        if adaptive and within not in (0, 1):
            continue
        yield Contribution(update=_update(arrays, sent, trainable), within=within == 1)


def _update(after: ArrayRecord, before: ArrayRecord, trainable: frozenset[str]) -> Update:
    """Return the change of each trainable array, in float64."""
    return {name: difference(after[name].numpy(), before[name].numpy()) for name in _ordered(trainable, before)}


def _ordered(trainable: frozenset[str], arrays: ArrayRecord) -> list[str]:
    """Return the names in the order of the arrays, so that sums and noise do not depend on the order of a set."""
    if missing := trainable - set(arrays):
        raise ValueError(f"the trainable arrays {sorted(missing)} are not among those that were sent: {list(arrays)}")
    return [name for name in arrays if name in trainable]


def _moved(arrays: ArrayRecord, change: Update) -> ArrayRecord:
    """Return the arrays, each that has a change with it added, in their own dtypes and order."""
    released = {}
    for name, array in arrays.items():
        if name in change:
            released[name] = to_array(moved(array.numpy(), change[name]))
        else:
            released[name] = array
    return ArrayRecord(released)
