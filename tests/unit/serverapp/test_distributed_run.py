"""Whole runs in this process with noise that clients share, with masks and without."""

import numpy as np
import pytest
from flwr.app import Error

from fedtrain.errors import AggregationError, ConfigError, PrivacySpecError
from fedtrain.serverapp.channel import Transport
from tests.fakes import NODES, digits_experiment, federation, private_experiment
from tests.runs import finished, runner

MASKED = {"transport__secagg__enabled": True, "transport__sealed": True}
RECORD = {
    "kind": private_experiment,
    "training__local_steps": 1,
    "privacy__trust": "distributed",
    "privacy__colluders": 1,
}
CLIENT = {
    "kind": digits_experiment,
    "privacy__mode": "client",
    "privacy__cohorts": "capped",
    "privacy__delta": 1e-2,
    "privacy__clip_norm": 0.5,
    "privacy__trust": "distributed",
    "privacy__colluders": 1,
}
UNITS = pytest.mark.parametrize("unit", [RECORD, CLIENT], ids=["record", "client"])


@pytest.fixture
def run(cache, tmp_path):
    """Run an experiment in a folder, and return its report after an audit, and its model."""
    return runner(cache, tmp_path, federation__cohort=4, federation__rounds=2)


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    """Give what several tests compare other runs with: each of these runs is made once, by its name."""
    run, made = runner(cache, tmp_path_factory.mktemp("runs"), federation__cohort=4, federation__rounds=2), {}

    def undisturbed(name, **settings):
        if name not in made:
            made[name] = run(name, **settings)
        return made[name]

    return undisturbed


def same(one, other):
    return {name: value.tobytes() for name, value in one.items()} == {
        name: value.tobytes() for name, value in other.items()
    }


def losing(*clients):
    """Return what makes a grid where some clients fail to train."""

    def make(experiment):
        grid = federation(experiment)
        whole = grid._answer

        def answer(message):
            if message.metadata.message_type == "train" and NODES[message.metadata.dst_node_id] in clients:
                return Error(code=1, reason="gone")
            return whole(message)

        grid._answer = answer
        return grid

    return make


@UNITS
def test_the_unmasked_sum_is_that_of_the_plain_whole_numbers_bit_for_bit(run, undisturbed, unit):
    """The server adds up the same whole numbers that masked vectors add up to, and nothing is rounded after that."""
    plain, model = run("plain", **unit)
    masked, other = undisturbed(f"masked-{unit['kind'].__name__}", **unit, **MASKED)
    assert same(model, other)
    assert plain.privacy.epsilon == masked.privacy.epsilon
    assert [entry.secagg for entry in plain.round_log] == [None, None]
    assert [entry.secagg.threshold for entry in masked.round_log] == [3, 3]


@UNITS
def test_the_claim_says_who_is_bounded_and_by_how_many_shares(run, unit):
    secure = {"privacy__noise": "secure", "federation__rounds": 1}
    plain, _ = run("plain", **unit, **secure)
    masked, _ = run("masked", **unit, **MASKED, **secure)
    for report, bounded in ((plain, False), (masked, True)):
        privacy = report.privacy
        assert privacy.unit == report.config["privacy.mode"]
        servers = [adversary for adversary in privacy.adversaries if adversary.who.startswith("the server")]
        assert [adversary.bounded for adversary in servers] == [bounded, bounded]
        assert "as long as no more than 1 of the 4 members of a cohort collude" in privacy.statement
        shares = privacy.mechanism.shares
        assert (shares.members, shares.threshold, shares.colluders, shares.honest) == (4, 3, 1, 2)
        assert shares.variance == 2 * shares.share == privacy.events[0].skellam.variance
    assert "trusted with that" in plain.privacy.statement
    assert any("The server, to look at sums alone" in trust for trust in plain.privacy.trusted)
    assert not any("The server" in trust for trust in masked.privacy.trusted)


def test_as_many_survivors_as_the_threshold_are_enough_with_masks_and_without(run):
    plain, model = run("plain", grid=losing(2), **RECORD)
    masked, other = run("masked", grid=losing(2), **RECORD, **MASKED)
    assert same(model, other)
    for report in (plain, masked):
        assert [sorted(entry.completed) for entry in report.round_log] == [[0, 1, 3]] * 2


@pytest.mark.parametrize("masks", [{}, MASKED], ids=["plain", "masked"])
def test_a_round_with_fewer_survivors_is_aborted_and_stays_charged(run, tmp_path, masks):
    with pytest.raises(
        AggregationError, match=r"(?s)round 1 was aborted: 2 of 4 .* it takes 3; .*: gone\nclient [12]: gone"
    ):
        run(grid=losing(1, 2), **RECORD, **masks, privacy__noise="secure")
    report, _ = finished(tmp_path / "run")
    assert (report.status, report.rounds, report.round_log) == ("failed", 0, ())
    assert {event.client for event in report.privacy.events if event.round == 1} >= {0, 3}
    assert report.privacy.epsilon > 0


@pytest.mark.parametrize("strategy", ["FedAvgM", "FedAdam"])
def test_the_optimizer_is_the_servers(run, undisturbed, strategy):
    """Of one round, momentum has nothing to add to the step of FedAvg, and Adam takes steps of its own length."""
    settings = {**RECORD, "federation__rounds": 1}
    _, model = undisturbed("averaged", **settings)
    _, other = run("optimized", **settings, server__strategy=strategy)
    close = all(np.allclose(model[name], other[name], atol=1e-6) for name in model)
    assert close is (strategy == "FedAvgM")
    _, momentum = run("momentum", **settings | {"federation__rounds": 2}, server__strategy=strategy)
    assert not same(momentum, other)


def test_a_model_with_more_numbers_than_the_plan_allows_is_refused(run):
    with pytest.raises(PrivacySpecError, match=r"has 650 numbers that are trained, and the plan allows \d+"):
        run(**RECORD, transport__secagg__bits=14)


def test_without_masks_it_is_for_simulations(cache):
    experiment = private_experiment(cache, **{key: value for key, value in RECORD.items() if key != "kind"})
    assert Transport.of(experiment, remote=False) == Transport(sealed=False, secagg=False)
    assert Transport.of(experiment, remote=True) == Transport(sealed=True, secagg=True)
    off = private_experiment(
        cache, **{key: value for key, value in RECORD.items() if key != "kind"}, transport__secagg__enabled=False
    )
    with pytest.raises(ConfigError, match="one share of the noise does not protect"):
        Transport.of(off, remote=True)


def test_a_run_that_is_stopped_goes_on_to_the_same_model(run, undisturbed):
    def stopping(experiment):
        grid = federation(experiment)
        push, calls = grid.push_messages, []

        def push_messages(messages):
            messages = list(messages)
            if messages[0].metadata.message_type == "train":
                calls.append(messages)
                if len(calls) == 2:
                    raise KeyboardInterrupt
            return push(messages)

        grid.push_messages = push_messages
        return grid

    _, model = undisturbed(f"masked-{RECORD['kind'].__name__}", **RECORD, **MASKED)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", grid=stopping, **RECORD, **MASKED)
    _, other = run("stopped", output__resume=True, **RECORD, **MASKED)
    assert same(model, other)
