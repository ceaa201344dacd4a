"""What a protection of any Flower app keeps: sums, privacy, counts of rounds, and strategies."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg

from fedtrain.errors import (
    BudgetError,
    ConfigError,
    PrivacySpecError,
    StorageError,
)
from fedtrain.flower import Protection, SecAgg, client_mods, protect_grid
from fedtrain.privacy import FINE, SampledGaussian
from fedtrain.privacy.accounting import epsilon_of
from tests.unit.flower.protected import (
    CENTRAL,
    MARK,
    OPEN,
    PRIVACY,
    PRIVATE,
    SEALED,
    SIZE,
    SUMMED,
    Curious,
    GridOf,
    World,
    model,
    needles,
    plainly,
    start,
    train,
    wire,
)


@pytest.fixture
def make_world(tmp_path):
    return lambda protection, **facts: World(folder=tmp_path, protection=protection, **facts)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(("secagg", "weights"), [(SecAgg(), [1, 1, 1]), (SecAgg(max_weight=10), [1, 2, 3])])
def test_a_sum_is_the_plain_average_within_its_quantization(make_world, sealed, secagg, weights):
    world = make_world(replace(SUMMED, sealed=sealed, secagg=secagg))
    result, grid = start(world, rounds=2)
    for name in ("weight", "bias"):
        moved = result.arrays[name].numpy() - model()[name].numpy()
        assert np.abs(moved - 2 * plainly(weights)).max() < 2 * 10 / (2**15 - 1)
    assert result.arrays["batches"].numpy() == 4
    assert grid.spent is None


def test_sealing_alone_leaves_all_replies_to_the_strategy(make_world):
    world, strategy = make_world(SEALED), Curious(fraction_evaluate=1.0)
    result, grid = start(world, strategy)
    assert len(strategy.given[0]) == SIZE
    assert np.abs(result.arrays["bias"].numpy() - model()["bias"].numpy() - plainly([1, 2, 3])).max() < 1e-6
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(MARK)
    assert grid.close() is None


@pytest.mark.parametrize("protection", [SEALED, SUMMED, PRIVATE, CENTRAL])
def test_nothing_of_the_app_is_readable_on_the_way(make_world, protection):
    world = make_world(protection)
    strategy = Curious()
    start(world, strategy)
    passed = wire(world)
    assert len(passed) > 1000
    trained = train(0, RecordDict({"arrays": model()}))["arrays"]
    for needle in needles(model()) + needles(trained):
        assert needle not in passed
    assert b"train_loss" not in passed
    assert str(MARK).encode() not in passed


@pytest.mark.parametrize("protection", [SUMMED, PRIVATE, CENTRAL, OPEN])
def test_the_strategy_is_given_no_single_update_and_no_metric(make_world, protection):
    world, strategy = make_world(protection), Curious()
    start(world, strategy)
    ((reply,),) = strategy.given
    assert list(reply.content) == ["arrays", "metrics"]
    weight = 1.0 if protection.client_privacy else float(SIZE)
    assert dict(reply.content["metrics"]) == {"num-examples": weight}
    for client in range(SIZE):
        own = train(client, RecordDict({"arrays": model()}))["arrays"]
        if client != 1:  # whose update is the average of all
            assert not np.allclose(own["weight"].numpy(), reply.content["arrays"]["weight"].numpy(), atol=1e-3)


@pytest.mark.parametrize("protection", [PRIVATE, CENTRAL, OPEN])
def test_client_privacy_adds_the_noise_of_the_plan_and_says_what_was_spent(make_world, protection):
    seeded = replace(protection, client_privacy=replace(PRIVACY, clip_norm=1e-3))
    result, grid = start(make_world(seeded), rounds=2)
    plan = seeded.plan()
    moved = np.concatenate(
        [
            (result.arrays[name].numpy() - model()[name].numpy()).ravel().astype(np.float64)
            for name in ("weight", "bias")
        ]
    )
    # Two releases, each with noise of z * C / cohort on every number, and updates of at most C / cohort * 3 in all.
    expected = 2**0.5 * plan.noise_multiplier * 1e-3 / SIZE
    assert 0.5 * expected < np.std(moved) < 2 * expected
    spent = grid.spent
    assert spent.participations == {0: 2, 1: 2, 2: 2}
    event = SampledGaussian(sampling_rate=1.0, noise_multiplier=plan.noise_multiplier, steps=2)
    assert spent.events == dict.fromkeys(range(SIZE), event.as_data())
    assert spent.epsilon == epsilon_of([event], PRIVACY.delta, discretization=FINE)
    assert 0 < spent.epsilon <= PRIVACY.epsilon
    assert (spent.delta, spent.noise) == (PRIVACY.delta, "secure")


def test_a_client_clips_to_its_own_bound(make_world):
    norm = 1e-2
    tight = replace(SUMMED, client_privacy=replace(PRIVACY, clip_norm=norm, epsilon=500.0, rounds=1))

    def far(client, content):
        content["arrays"]["weight"] = Array(content["arrays"]["weight"].numpy() + np.float32(100))
        return RecordDict({"arrays": content["arrays"]})

    result, _ = start(make_world(tight, train=far))
    noise = tight.plan().noise_multiplier * norm / SIZE
    assert np.linalg.norm(result.arrays["weight"].numpy() - model()["weight"].numpy()) < 1.1 * norm + 40 * noise


def test_an_update_that_is_not_finite_counts_as_zero(make_world):
    def broken(client, content):
        content["arrays"]["weight"] = Array(np.full((7, 5), np.nan, dtype=np.float32))
        return RecordDict({"arrays": content["arrays"]})

    for protection in (PRIVATE, CENTRAL):
        world = make_world(protection, train=broken)
        world.folder = world.folder / str(protection.secagg is None)
        result, _ = start(world)
        assert np.isfinite(result.arrays["weight"].numpy()).all()


def test_a_mask_with_infinities_stays_and_the_rest_is_trained(make_world):
    mask = np.array([0, -np.inf, -0.0, np.inf], np.float32)

    def moved(client, content):
        arrays = content["arrays"]
        arrays["weight"] = Array(arrays["weight"].numpy() + np.float32(0.01))
        return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})

    for number, protection in enumerate((SEALED, SUMMED, PRIVATE, CENTRAL)):
        world = make_world(protection, train=moved)
        world.folder = world.folder / str(number)
        arrays, strategy = ArrayRecord({**model(), "mask": Array(mask)}), Curious()
        with world.protect(strategy=strategy) as grid:
            result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=1)
        after = result.arrays["mask"].numpy()
        np.testing.assert_array_equal(np.isinf(after), np.isinf(mask))
        # An infinity less itself is no number, and would have made the update zero, or unusable.
        assert (result.arrays["weight"].numpy() != model()["weight"].numpy()).all()
        if protection.client_privacy is None:
            assert after.tobytes() == mask.tobytes()
            np.testing.assert_allclose(result.arrays["weight"].numpy() - model()["weight"].numpy(), 0.01, atol=1e-3)


def test_seeded_noise_repeats_and_promises_nothing(make_world):
    seeded = replace(CENTRAL, client_privacy=replace(PRIVACY, noise="seeded", seed=4))
    models = []
    for number in range(2):
        world = make_world(seeded)
        world.folder = world.folder / str(number)
        result, grid = start(world)
        models.append(result.arrays["weight"].numpy())
        assert (grid.spent.epsilon, grid.spent.noise) == (None, "seeded")
    assert np.array_equal(*models)


def test_secure_noise_is_another_each_time(make_world):
    models = []
    for number in range(2):
        world = make_world(CENTRAL)
        world.folder = world.folder / str(number)
        models.append(start(world)[0].arrays["weight"].numpy())
    assert not np.array_equal(*models)


def test_no_client_is_asked_beyond_its_rounds_also_by_a_server_that_is_started_again(make_world):
    world = make_world(CENTRAL)
    with pytest.raises(BudgetError, match=r"client 0 has taken part in 2 rounds, for which the noise .* nothing was"):
        start(world, rounds=3)
    asked = len(world.asked)
    assert asked == 2 * SIZE
    with pytest.raises(BudgetError):
        start(world)
    assert len(world.asked) == asked
    other = make_world(replace(CENTRAL, client_privacy=replace(PRIVACY, rounds=9)))
    with pytest.raises(BudgetError, match="use another folder"):
        other.protect()


def test_before_the_first_round_nothing_is_spent(make_world):
    with make_world(CENTRAL).protect() as grid:
        assert grid.spent.epsilon == 0.0


def test_a_round_counts_before_it_is_asked(make_world):
    world = make_world(CENTRAL)

    def die(message):
        if message.metadata.message_type == "train":
            raise KeyboardInterrupt
        return message

    world.tamper = die
    with pytest.raises(KeyboardInterrupt):
        start(world)
    counts = json.loads((world.folder / "server" / "participations.json").read_text())["participations"]
    assert counts == {"0": 1, "1": 1, "2": 1}


def test_a_count_that_is_a_link_to_nothing_is_no_first_start(make_world):
    world = make_world(CENTRAL)
    (world.folder / "server").mkdir()
    (world.folder / "server" / "participations.json").symlink_to(world.folder / "gone")
    with pytest.raises(StorageError, match="without it the spent epsilon is unknown"):
        world.protect()


def test_a_folder_that_depends_on_where_the_program_starts_is_refused():
    with pytest.raises(ConfigError, match="the folder 'server' is relative"):
        protect_grid(None, CENTRAL, folder="server")
    with pytest.raises(ConfigError, match=r"the folder 'keys/mine' is relative"):
        client_mods(CENTRAL, folder="keys/mine")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "other"}'])
def test_a_damaged_count_is_refused(make_world, text):
    world = make_world(CENTRAL)
    (world.folder / "server").mkdir()
    (world.folder / "server" / "participations.json").write_text(text)
    with pytest.raises(StorageError, match="without it the spent epsilon is unknown"):
        world.protect()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"sealed": False}, "protects nothing"),
        ({"clients": 0}, "clients = 0"),
        ({"deadline": float("inf")}, "deadline = inf"),
        ({"secagg": SecAgg(minimum=4)}, "secagg.minimum = 4"),
        ({"secagg": SecAgg(minimum=1)}, "secagg.minimum = 1"),
        ({"secagg": SecAgg(largest_change=0.0)}, "secagg.largest_change = 0"),
        ({"secagg": SecAgg(max_weight=0)}, "secagg.max_weight = 0"),
        ({"secagg": SecAgg(max_weight=40_000)}, "1 to 32767"),
        ({"secagg": SecAgg(max_weight=5), "client_privacy": PRIVACY}, "all weigh the same"),
        ({"client_privacy": replace(PRIVACY, cohort=4)}, "client_privacy.cohort = 4"),
        ({"client_privacy": replace(PRIVACY, cohort=0)}, "client_privacy.cohort = 0"),
        ({"client_privacy": replace(PRIVACY, noise="none")}, "client_privacy.noise = 'none'"),
        ({"client_privacy": PRIVACY, "reveal_results": True}, "epsilon does not cover"),
    ],
)
def test_a_protection_that_cannot_hold_is_refused(facts, said):
    with pytest.raises(ConfigError, match=said):
        Protection(**({"clients": SIZE} | facts))


def test_a_promise_that_no_noise_keeps_is_refused_before_anything_is_sent(make_world):
    world = make_world(replace(CENTRAL, client_privacy=replace(PRIVACY, delta=0.5)))
    with pytest.raises(PrivacySpecError, match=r"delta = 0\.5"):
        world.protect()
    assert world.seen == []
    with pytest.raises(PrivacySpecError, match="guarantees nothing"):
        SEALED.plan()


def test_every_parameter_is_in_the_digest():
    others = [SEALED, SUMMED, PRIVATE, CENTRAL, OPEN, replace(SUMMED, deadline=5.0), replace(SUMMED, clients=4)]
    others += [replace(SUMMED, secagg=SecAgg(bits=12)), replace(SUMMED, reveal_results=True)]
    assert len({each.digest for each in others}) == len(others)


@pytest.mark.parametrize(
    "name", ["Krum", "MultiKrum", "Bulyan", "FedMedian", "FedTrimmedAvg", "QFedAvg", "FedXgbBagging", "FedXgbCyclic"]
)
def test_strategies_that_need_single_updates_are_refused_by_name(make_world, name):
    strategy = object.__new__(getattr(flower, name))
    world = make_world(SUMMED)
    with pytest.raises(ConfigError, match=f"{name} needs single updates"):
        world.protect(strategy=strategy)
    assert world.seen == []
    SEALED.check_strategy(strategy)


def test_a_wrapper_that_clips_single_updates_is_refused():
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 3)
    with pytest.raises(ConfigError, match="DifferentialPrivacyServerSideFixedClipping needs single updates"):
        SUMMED.check_strategy(wrapped)


@pytest.mark.parametrize("name", ["weighted_by_key", "configrecord_key"])
def test_a_strategy_with_other_names_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} = 'other'"):
        SUMMED.check_strategy(FedAvg(**{name: "other"}))


@pytest.mark.parametrize("name", ["FedAvgM", "FedProx", "FedAdam", "FedYogi", "FedAdagrad"])
def test_strategies_over_sums_run_unmodified(make_world, name):
    arguments = {"proximal_mu": 0.1} if name == "FedProx" else {}
    strategy = getattr(flower, name)(fraction_evaluate=0.0, **arguments)
    initial = ArrayRecord({"w": Array(np.zeros(4, dtype=np.float32))})

    def step(client, content):
        return RecordDict({"arrays": ArrayRecord({"w": Array(np.full(4, 0.1, dtype=np.float32))})})

    world = make_world(SUMMED, train=step)
    with world.protect(strategy=strategy) as grid:
        result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=2)
    assert (result.arrays["w"].numpy() > 0).all()


@pytest.mark.parametrize("kind", ["evaluate", "query"])
@pytest.mark.parametrize("protection", [SUMMED, PRIVATE, CENTRAL])
def test_results_of_single_clients_are_refused_on_both_sides(make_world, protection, kind):
    world = make_world(protection)
    with world.protect() as grid:
        sent = len(world.grid.sent)
        message = Message(RecordDict({"config": ConfigRecord({"a": 1})}), 100, kind)
        for send in (grid.send_and_receive, grid.push_messages):
            with pytest.raises(ConfigError, match=f"type '{kind}' ask each client .* nothing was sent"):
                send([message])
        assert len(world.grid.sent) == sent
        (reply,) = list(GridOf(grid).ask(message))
        assert "asks for results of this client alone" in reply.error.reason
