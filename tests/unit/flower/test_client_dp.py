import dataclasses
from math import exp

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedtrain.flower.client_dp import clip_reply, release_round
from fedtrain.flower.messages import protocol
from fedtrain.privacy import AdaptiveClipping, PrivacyPlan, PrivacySpec
from fedtrain.privacy.noise import SeededSource
from tests.fakes import InProcessGrid

SPEC = PrivacySpec(
    unit="client",
    neighbouring="add or remove one client",
    epsilon=4.0,
    delta=1e-3,
    clip_norm=1.0,
    sampling_rate=0.1,
    divisor=4,
    population=40.0,
    steps_per_round=1,
    rounds=20,
)
PLAN = PrivacyPlan(spec=SPEC, noise_multiplier=1e-9)
ADAPTIVE = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=1e-9)
ADAPTIVE_PLAN = PrivacyPlan(spec=dataclasses.replace(SPEC, adaptive=ADAPTIVE), noise_multiplier=1e-10)
TRAINABLE = frozenset({"weight", "bias", "scale"})
VALUES = {
    "weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "frozen": np.full(2, 7.0, np.float32),
    "steps": np.array(12, np.int64),
    "bias": np.zeros(3, np.float64),
    "scale": np.array(0.5, np.float16),
}


@pytest.fixture(autouse=True)
def grid():
    return InProcessGrid(lambda _: None, [])


def record(values):
    return ArrayRecord({name: Array(value) for name, value in values.items()})


def moved(**changes):
    """Return the values with changes added, in the dtypes of the values."""
    return {name: np.asarray(value + changes.get(name, 0), value.dtype) for name, value in VALUES.items()}


def reply(values, within: float | None = 1.0, node=5):
    request = Message(RecordDict({protocol.ARRAYS: record(VALUES)}), node, "train")
    metrics = {protocol.WEIGHT: 1.0} | ({} if within is None else {protocol.WITHIN_CLIP: within})
    content = RecordDict({protocol.ARRAYS: record(values), protocol.METRICS: MetricRecord(metrics)})
    return Message(content, reply_to=request)


def failure():
    return Message(Error(code=0, reason="fell over"), reply_to=Message(RecordDict(), 5, "train"))


def released(replies, *, plan=PLAN, clip_norm=1.0, source=None):
    (message,), following = release_round(
        replies,
        sent=record(VALUES),
        trainable=TRAINABLE,
        plan=plan,
        clip_norm=clip_norm,
        source=source or SeededSource(0),
    )
    return message, following


def arrays_of(message):
    return {name: array.numpy() for name, array in message.content[protocol.ARRAYS].items()}


# The client's side


def clipped(trained, clip_norm=1.0):
    sent, within = clip_reply(
        received=record(VALUES), trained=record(trained), trainable=TRAINABLE, clip_norm=clip_norm
    )
    return {name: array.numpy() for name, array in sent.items()}, within


def test_a_client_sends_a_short_update_as_it_was_trained():
    trained = moved(weight=0.01, bias=-0.2, scale=0.125)
    sent, within = clipped(trained)
    assert within
    for name in TRAINABLE:
        assert sent[name].tobytes() == trained[name].tobytes()


def test_a_client_shortens_a_long_update_over_all_arrays_together():
    sent, within = clipped(moved(weight=3.0, bias=4.0, scale=5.0), clip_norm=0.5)
    assert not within
    change = {name: sent[name].astype(np.float64) - VALUES[name] for name in TRAINABLE}
    length = np.sqrt(sum(np.square(value).sum() for value in change.values()))
    # The half float is the coarsest of the types.
    assert length == pytest.approx(0.5, rel=1e-3)
    assert change["bias"] / change["weight"][0] == pytest.approx(4 / 3, rel=1e-3)


def test_a_client_sends_nothing_of_what_is_not_trained():
    trained = moved(weight=0.1, frozen=0.001, steps=9)
    sent, _ = clipped(trained)
    assert sent["frozen"].tobytes() == VALUES["frozen"].tobytes()
    assert sent["steps"] == 12
    assert list(sent) == list(VALUES)
    assert {name: (value.dtype, value.shape) for name, value in sent.items()} == {
        name: (value.dtype, value.shape) for name, value in VALUES.items()
    }


def test_a_client_whose_training_failed_numerically_sends_what_it_received():
    sent, within = clipped(moved(weight=np.nan))
    assert not within
    assert all(sent[name].tobytes() == value.tobytes() for name, value in VALUES.items())


def test_a_client_sends_a_state_dict_of_torch():
    model = torch.nn.Linear(3, 2)
    received = ArrayRecord(model.state_dict())
    with torch.no_grad():
        model.weight += 10.0
    sent, within = clip_reply(
        received=received,
        trained=ArrayRecord(model.state_dict()),
        trainable=frozenset({"weight", "bias"}),
        clip_norm=1.0,
    )
    assert not within
    assert sent["weight"].numpy() - received["weight"].numpy() == pytest.approx(6**-0.5, rel=1e-3)


# The server's side


def test_one_reply_stands_for_all():
    message, following = released([reply(moved(weight=0.1)), reply(moved(bias=0.2))])
    assert not message.has_error()
    assert following == 1.0
    assert dict(message.content[protocol.METRICS]) == {protocol.WEIGHT: 1.0}
    assert list(message.content.array_records) == [protocol.ARRAYS]
    assert list(message.content.metric_records) == [protocol.METRICS]
    assert not message.content.config_records
    assert (message.metadata.src_node_id, message.metadata.message_type) == (TaskIdentity.node_id, "train")


def test_the_mean_is_over_the_public_number_and_not_over_those_that_answered():
    message, _ = released([reply(moved(weight=0.1)), failure(), reply(moved(weight=0.2, scale=0.25))])
    after = arrays_of(message)
    assert after["weight"] - VALUES["weight"] == pytest.approx(0.3 / 4, rel=1e-5)
    assert float(after["scale"]) == 0.5 + 0.25 / 4


def test_what_is_not_trained_stays_as_it_was_sent_whatever_a_client_sends():
    message, _ = released([reply(moved(weight=0.1, frozen=100.0, steps=100))])
    after = arrays_of(message)
    assert after["frozen"].tobytes() == VALUES["frozen"].tobytes()
    assert after["steps"] == 12
    assert [(name, value.dtype, value.shape) for name, value in after.items()] == [
        (name, value.dtype, value.shape) for name, value in VALUES.items()
    ]


def test_a_client_that_does_not_clip_moves_the_model_by_no_more_than_the_bound():
    rogue = reply(moved(weight=1e6, bias=-1e9), within=1.0)
    after = arrays_of(released([rogue], clip_norm=0.5)[0])
    change = [np.ravel(after[name].astype(np.float64) - VALUES[name]) for name in sorted(TRAINABLE)]
    # The model is rounded to its types, which is after the release.
    assert np.linalg.norm(np.concatenate(change)) <= 0.5 / 4 * (1 + 1e-6)


def test_a_client_that_reorders_its_arrays_gains_nothing():
    straight = reply(moved(weight=0.1, bias=3.0))
    turned = reply(dict(reversed(moved(weight=0.1, bias=3.0).items())))
    first, second = (arrays_of(released([one])[0]) for one in (straight, turned))
    assert list(first) == list(second) == list(VALUES)
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_an_empty_cohort_gives_a_reply_of_noise():
    loud = dataclasses.replace(PLAN, noise_multiplier=1.5)
    message, _ = released([], plan=loud)
    after = arrays_of(message)
    for name, value in VALUES.items():
        assert after[name].dtype == value.dtype
        assert (after[name] != value).all() == (name in TRAINABLE)


def test_with_nothing_but_errors_it_is_the_same():
    loud = dataclasses.replace(PLAN, noise_multiplier=1.5)
    nobody, errors = arrays_of(released([], plan=loud)[0]), arrays_of(released([failure()] * 3, plan=loud)[0])
    assert all(nobody[name].tobytes() == errors[name].tobytes() for name in nobody)


def test_the_clipping_norm_follows_what_clients_say():
    replies = [reply(VALUES, within=1.0), reply(VALUES, within=1.0), reply(VALUES, within=0.0)]
    _, following = released(replies, plan=ADAPTIVE_PLAN, clip_norm=0.8)
    assert following == pytest.approx(0.8 * exp(-0.2 * 0.5 / 4), rel=1e-6)
    _, following = released([reply(VALUES, within=0.0)] * 4, plan=ADAPTIVE_PLAN, clip_norm=0.8)
    assert following == pytest.approx(0.8 * exp(0.2 * 0.5), rel=1e-6)


@pytest.mark.parametrize("within", [0.5, 1e9, -3.0, float("inf"), float("nan"), [1.0], None])
def test_a_client_that_lies_about_its_count_is_left_out_with_its_update(within):
    honest = reply(moved(weight=0.1))
    liar = reply(moved(bias=0.3), within=within)
    message, following = released([honest, liar], plan=ADAPTIVE_PLAN)
    without, expected = released([honest], plan=ADAPTIVE_PLAN)
    assert following == expected
    first, second = arrays_of(message), arrays_of(without)
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_with_a_fixed_norm_nobody_has_to_say():
    after = arrays_of(released([reply(moved(weight=0.1), within=None)])[0])
    assert after["weight"] - VALUES["weight"] == pytest.approx(0.1 / 4, rel=1e-5)


def test_replies_are_not_changed():
    given = reply(moved(weight=5.0))
    before = {name: array.data for name, array in given.content[protocol.ARRAYS].items()}
    released([given])
    assert {name: array.data for name, array in given.content[protocol.ARRAYS].items()} == before


def test_a_name_that_was_not_sent_is_refused_and_not_left_untrained():
    with pytest.raises(ValueError, match=r"\['module.weight'\] are not among those that were sent"):
        release_round(
            [],
            sent=record(VALUES),
            trainable=frozenset({"module.weight"}),
            plan=PLAN,
            clip_norm=1.0,
            source=SeededSource(0),
        )
    with pytest.raises(ValueError, match="are not among those"):
        clip_reply(
            received=record(VALUES), trained=record(VALUES), trainable=frozenset({"module.weight"}), clip_norm=1.0
        )


def test_noise_is_drawn_in_the_order_in_which_arrays_were_sent():
    # The order of a set of names changes from process to process, and a seeded run must not.
    loud = dataclasses.replace(PLAN, noise_multiplier=1.5)
    after = arrays_of(released([], plan=loud)[0])
    source = SeededSource(0)
    for name in ("weight", "bias", "scale"):
        noise = source.gaussian(VALUES[name].shape, std=1.5, device=torch.device("cpu"), dtype=torch.float64).numpy()
        assert after[name] == pytest.approx((VALUES[name] + noise / 4).astype(VALUES[name].dtype), rel=1e-6)
