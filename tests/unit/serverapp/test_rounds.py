import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, MetricRecord, RecordDict
from torch import nn

from fedtrain.errors import RunError, TooFewResultsError
from fedtrain.flower.messages import protocol
from fedtrain.serverapp.channel import Channel
from fedtrain.serverapp.preparation import prepare
from fedtrain.serverapp.rounds import Rounds, initial_state
from tests.fakes import InProcessGrid, digits_experiment

CLIENTS = {500 - 7 * client: client for client in range(4)}
NODE_OF = {client: node for node, client in CLIENTS.items()}


def reply(message, change=lambda value: value, *, weight=10.0):
    arrays = message.content[protocol.ARRAYS]
    metrics = {protocol.WEIGHT: weight, protocol.LOSS: 0.5}
    return RecordDict(
        {
            protocol.ARRAYS: ArrayRecord(
                {name: Array(np.asarray(change(value.numpy()))) for name, value in arrays.items()}
            ),
            "metrics": MetricRecord(metrics),
        }
    )


def client_step(message):
    """Train as a client might: a step that depends on the node, the round and the received model."""
    seed = [message.metadata.dst_node_id, message.content[protocol.CONFIG][protocol.ROUND]]
    noise = np.random.default_rng(seed)
    step = lambda value: (0.9 * value + noise.normal(0, 0.01, value.shape)).astype(value.dtype)
    return reply(message, step, weight=10.0 * message.metadata.dst_node_id)


class Story:
    """What a round told while it ran."""

    def __init__(self):
        self.started, self.answers = [], []

    def begin(self, number, cohort):
        self.started.append((number, cohort))

    def answer(self, client):
        self.answers.append(client)


def go(rounds, state, story=None):
    story = story or Story()
    return rounds.next(state, on_start=story.begin, on_reply=story.answer)


def make(preparation, answer=client_step, *, state=None):
    grid = InProcessGrid(answer, CLIENTS)
    state = state or initial_state(preparation)
    return grid, Rounds(Channel(grid=grid, clients=CLIENTS), preparation, None, done=0), state


def test_a_round_sends_the_model_and_takes_the_average(plain):
    grid, rounds, state = make(plain, lambda message: reply(message, lambda value: value + np.float32(1)))
    story = Story()
    after = go(rounds, state, story)
    assert (after.round_number, after.evaluations[-1].round) == (1, 1)
    for name, value in state.model.items():
        assert after.model[name].dtype == value.dtype
        np.testing.assert_allclose(after.model[name], value + 1, rtol=1e-6)
    (entry,) = after.round_log
    assert entry.cohort == entry.completed
    (entry,) = after.round_log
    assert story.started == [(1, entry.cohort)]
    assert sorted(story.answers) == sorted(entry.cohort)
    assert {CLIENTS[message.metadata.dst_node_id] for message in grid.sent} == set(entry.cohort)
    for message in grid.sent:
        config = message.content[protocol.CONFIG]
        assert config[protocol.LEARNING_RATE] == entry.learning_rate == 0.1
        assert config[protocol.ROUND] == 1
        assert protocol.RUN not in config
        assert protocol.NOISE_MULTIPLIER not in config
        assert message.metadata.ttl == plain.experiment.federation.deadline


def test_the_average_is_weighted(plain):
    weights = dict(zip(CLIENTS, (10.0, 30.0, 10.0, 30.0), strict=True))

    def answer(message):
        node = message.metadata.dst_node_id
        return reply(message, lambda value: np.full_like(value, CLIENTS[node]), weight=weights[node])

    _, rounds, state = make(plain, answer)
    after = go(rounds, state)
    cohort = after.round_log[0].cohort
    shares = [weights[NODE_OF[client]] for client in cohort]
    expected = np.dot(cohort, shares) / sum(shares)
    for value in after.model.values():
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam", "FedAvgM"])
def test_a_run_that_goes_on_from_a_state_is_the_same_run(cache, strategy):
    settings = {"server.strategy": strategy, "server.parameters.server_momentum": 0.9 if strategy == "FedAvgM" else ""}
    preparation = prepare(digits_experiment(cache, **settings, federation__rounds=4))
    _, rounds, state = make(preparation)
    states = [state]
    for _ in range(4):
        states.append(go(rounds, states[-1]))
    # From the checkpoint after round 2, with everything made anew.
    kept = type(state).decode(states[2].encode())
    random.seed(99)
    _, resumed, again = make(preparation, state=kept)
    for number in (3, 4):
        again = go(resumed, again)
        assert again.round_log[-1].cohort == states[number].round_log[-1].cohort
        for name, value in states[number].model.items():
            assert again.model[name].tobytes() == value.tobytes()
    # And by the same object, gone back.
    back = go(rounds, states[2])
    assert all(back.model[name].tobytes() == value.tobytes() for name, value in states[3].model.items())


class Restless(InProcessGrid):
    """A grid over a network, in whose process other threads draw from Python's global generator, as Flower's do."""

    def get_node_ids(self):
        random.seed()
        return super().get_node_ids()

    def push_messages(self, messages):
        random.seed()
        return super().push_messages(messages)


@pytest.mark.parametrize("cohort", [1, 2, 3, 4])
def test_cohorts_and_sums_do_not_depend_on_what_else_draws_at_random(cache, cohort):
    preparation = prepare(digits_experiment(cache, federation__rounds=6, federation__cohort=cohort))
    grids = [InProcessGrid(client_step, CLIENTS), *(Restless(client_step, CLIENTS) for _ in range(3))]
    first, ends = initial_state(preparation), []
    for grid in grids:
        rounds = Rounds(Channel(grid=grid, clients=CLIENTS), preparation, None, done=0)
        state = first
        for _ in range(6):
            state = go(rounds, state)
        ends.append(([entry.cohort for entry in state.round_log], {k: v.tobytes() for k, v in state.model.items()}))
    assert ends == [ends[0]] * len(grids)
    cohorts, _ = ends[0]
    assert {len(drawn) for drawn in cohorts} == {len(set(drawn)) for drawn in cohorts} == {cohort}
    assert len(set(cohorts)) > 1
    assert [CLIENTS[message.metadata.dst_node_id] for message in grids[0].sent] == [
        c for drawn in cohorts for c in drawn
    ]


def test_a_client_that_fails_is_dropped_with_its_reason(plain):
    reasons = iter(["\x1b[31mred\x1b[0m\n\tValueError: caf\N{LATIN SMALL LETTER E WITH ACUTE}\udcff\n", " \n\t "])

    _, rounds, state = make(plain, lambda message: Error(1, next(reasons)))
    with pytest.raises(TooFewResultsError) as caught:
        go(rounds, state)
    message = str(caught.value)
    assert "round 1 has 0 usable results of 2 clients, and federation.min_results = 1" in message
    # Nothing in it can act on a terminal or fail to be written.
    assert "\N{REPLACEMENT CHARACTER}[31mred" in message
    assert "ValueError: café\N{REPLACEMENT CHARACTER}" in message
    assert "no reason given" in message
    assert all(letter.isprintable() or letter == "\n" for letter in message)
    message.encode()


def test_a_long_reason_keeps_its_first_line_and_its_end(plain):
    text = "the head\n" + "x" * 100_000 + "the cause"

    def answer(message):
        return Error(1, text) if message.metadata.dst_node_id == failing else reply(message)

    _, rounds, state = make(plain, reply)
    failing = NODE_OF[go(rounds, state).round_log[0].cohort[0]]
    _, rounds, state = make(plain, answer)
    (entry,) = go(rounds, state).round_log
    assert [drop.client for drop in entry.dropped] == [CLIENTS[failing]]
    assert entry.completed == entry.cohort[1:]
    assert len(entry.dropped[0].reason) == 2000
    assert entry.dropped[0].reason.startswith("the head\n…\nx")
    assert entry.dropped[0].reason.endswith("the cause")


def test_a_client_that_does_not_answer_is_dropped(cache):
    preparation = prepare(digits_experiment(cache, federation__deadline=0.2))
    silent = []

    def answer(message):
        silent[:] = silent or [message.metadata.dst_node_id]
        return None if message.metadata.dst_node_id == silent[0] else reply(message)

    _, rounds, state = make(preparation, answer)
    after = go(rounds, state)
    (drop,) = after.round_log[0].dropped
    assert drop.client == CLIENTS[silent[0]]
    assert drop.reason == "no answer within federation.deadline = 0.2 seconds"
    assert drop.client in after.round_log[0].cohort


def test_fewer_results_than_the_minimum_end_the_run(cache):
    preparation = prepare(digits_experiment(cache, federation__min_results=2))
    bad = []

    def answer(message):
        bad[:] = bad or [message.metadata.dst_node_id]
        return Error(1, "broken") if message.metadata.dst_node_id == bad[0] else reply(message)

    _, rounds, state = make(preparation, answer)
    story = Story()
    with pytest.raises(TooFewResultsError, match=r"1 usable results of 2 .*min_results = 2:\nclient \d: broken"):
        go(rounds, state, story)
    # It was announced before it failed.
    assert len(story.started) == 1


def test_one_client_cannot_spoil_the_model_or_end_the_run(plain):
    spoilers = [
        lambda message: reply(message, lambda value: value * np.nan),
        lambda message: reply(message, lambda value: value[..., None]),
        lambda message: reply(message, weight=float(2**40)),
        lambda message: RecordDict(),
    ]
    for spoil in spoilers:
        bad = []

        def answer(message, spoil=spoil, bad=bad):
            bad[:] = bad or [message.metadata.dst_node_id]
            return spoil(message) if message.metadata.dst_node_id == bad[0] else reply(message)

        _, rounds, state = make(plain, answer)
        after = go(rounds, state)
        assert [drop.client for drop in after.round_log[0].dropped] == [CLIENTS[bad[0]]]
        assert "unusable update" in after.round_log[0].dropped[0].reason
        for name, value in state.model.items():
            np.testing.assert_allclose(after.model[name], value, rtol=1e-6)


def test_evaluation_can_be_rarer_and_the_last_round_is_always_evaluated(cache):
    preparation = prepare(digits_experiment(cache, server__evaluate_every=2, federation__rounds=5))
    _, rounds, state = make(preparation)
    state = rounds.evaluated(state)
    for _ in range(5):
        state = go(rounds, state)
    assert [evaluation.round for evaluation in state.evaluations] == [0, 2, 4, 5]
    assert len(state.round_log) == 5
    assert state.seconds == pytest.approx(sum(entry.seconds for entry in state.round_log))


def test_numbers_that_are_counted_stay_whole(cache):
    preparation = prepare(digits_experiment(cache, federation__cohort=3))
    norm = nn.BatchNorm1d(3)
    preparation = replace(preparation, model=norm)
    state = initial_state(preparation)
    assert state.model["num_batches_tracked"].shape == ()
    # A third each: the average of 7, 7 and 7 comes out a little less than 7.
    _, rounds, state = make(
        preparation, lambda message: reply(message, lambda value: np.full_like(value, 7)), state=state
    )
    rounds.evaluated = lambda after: after
    after = rounds.next(state, on_start=lambda *_: None, on_reply=lambda _: None)
    counted = after.model["num_batches_tracked"]
    assert (counted.dtype, counted.shape, int(counted)) == (np.int64, (), 7)
    norm.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in after.model.items()})


def test_a_model_that_is_no_longer_finite_ends_the_run(cache):
    preparation = prepare(
        digits_experiment(cache, **{"server.strategy": "FedAvgM", "server.parameters.server_learning_rate": 1e30})
    )
    _, rounds, state = make(preparation, lambda message: reply(message, lambda value: np.full_like(value, 1e30)))
    with np.errstate(over="ignore"), pytest.raises(RunError, match=r"FedAvgM made \S+ not finite in round 1; lower"):
        go(rounds, state)


def test_a_strategy_that_fails_ends_the_run(cache):
    # A loss of this size has no power in float64, and the update is divided by zero.
    preparation = prepare(digits_experiment(cache, **{"server.strategy": "QFedAvg", "server.parameters.q": 400.0}))

    def answer(message):
        content = reply(message)
        content["metrics"][protocol.LOSS] = 1e-300
        return content

    _, rounds, state = make(preparation, answer)
    with np.errstate(all="raise"), pytest.raises(RunError, match=r"QFedAvg cannot aggregate round 1: "):
        go(rounds, state)


def test_a_round_with_fewer_results_than_its_strategy_needs_is_not_applied(cache):
    values = {"server.strategy": "Bulyan", "federation.cohort": 4, "federation.rounds": 2}
    preparation = prepare(digits_experiment(cache, **values))
    lost = []

    def answer(message):
        number = message.content[protocol.CONFIG][protocol.ROUND]
        failing = number == 2 and len(lost) < 2
        if failing:
            lost.append(message.metadata.dst_node_id)
        return Error(1, "gone") if failing else reply(message)

    _, rounds, state = make(preparation, answer)
    first = go(rounds, state)
    with pytest.raises(TooFewResultsError) as caught:
        go(rounds, first)
    said = (
        "round 2 has 2 usable results of 4 clients, and Bulyan needs 3, since 4 num_malicious_nodes + 3 = 3; the round"
    )
    assert str(caught.value).startswith(f"{said} is not applied, and a resumed run asks it again:\nclient ")
    # From where it stands, it goes on.
    _, resumed, _ = make(preparation, answer)
    assert go(resumed, first).round_number == 2
