"""Any Flower app under a protection: an unmodified strategy over the wrapped grid, and a ClientApp with our mods."""

import json
import logging
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg

import fedtrain.flower
from fedtrain.crypto import Identity
from fedtrain.errors import (
    AggregationError,
    BudgetError,
    ClientError,
    ConfigError,
    KeyFileError,
    PrivacySpecError,
    StorageError,
    TransportError,
)
from fedtrain.flower import ClientPrivacy, Protection, SecAgg, client_mods, protect_client, protect_grid
from fedtrain.privacy import FINE, SampledGaussian
from fedtrain.privacy.accounting import epsilon_of
from fedtrain.trust import Roster
from tests.fakes import RUN_ID, InProcessGrid

SIZE = 3
PRIVACY = ClientPrivacy(epsilon=8.0, delta=1e-2, clip_norm=0.5, cohort=SIZE, rounds=2)
SEALED = Protection(clients=SIZE)
SUMMED = Protection(clients=SIZE, secagg=SecAgg())
PRIVATE = Protection(clients=SIZE, secagg=SecAgg(), client_privacy=PRIVACY)
CENTRAL = Protection(clients=SIZE, client_privacy=PRIVACY)
OPEN = Protection(clients=SIZE, sealed=False, client_privacy=PRIVACY)
MARK = 0.123456
ABORTED = "the round was aborted; see the server's log"


def model():
    generator = np.random.default_rng(3)
    return ArrayRecord(
        {
            "weight": Array(generator.normal(size=(7, 5)).astype(np.float32)),
            "bias": Array(generator.normal(size=5)),
            "batches": Array(np.asarray(4)),
        }
    )


def train(client, content):
    """Move every floating array in place, as apps do, and say things that are nobody's business."""
    arrays = content["arrays"]
    for name in ("weight", "bias"):
        before = arrays[name].numpy()
        arrays[name] = Array(np.asarray(before + before.dtype.type(0.01 * (client + 1))))
    metrics = MetricRecord({"num-examples": client + 1, "train_loss": MARK})
    return RecordDict({"arrays": arrays, "metrics": metrics, "notes": ConfigRecord({"secret": "mine"})})


@dataclass
class World:
    """Nodes that answer in this process, through the real mods."""

    folder: object
    protection: Protection
    size: int = SIZE
    train: object = staticmethod(train)
    tamper: object = staticmethod(lambda message: message)
    theirs: Protection = None
    pinned: bool = False
    numbers: object = staticmethod(lambda node: node - 100)
    seen: list = field(default_factory=list)
    asked: list = field(default_factory=list)

    def __post_init__(self):
        self.app = protect_client(
            ClientApp(), self.theirs or self.protection, folder=self.folder / "clients", pinned=self.pinned
        )
        self.grid = InProcessGrid(self.answer, [100 + client for client in range(self.size)])

        @self.app.train()
        def _(message, context):
            self.asked.append(message.content)
            return Message(self.train(context.node_config["partition-id"], message.content), reply_to=message)

        @self.app.evaluate()
        def _(message, context):
            return Message(RecordDict({"m": MetricRecord({"num-examples": 1, "accuracy": MARK})}), reply_to=message)

        @self.app.query()
        def _(message, context):
            return Message(RecordDict({"answer": ConfigRecord({"mark": MARK})}), reply_to=message)

    def answer(self, message):
        message = self.tamper(message)
        if not isinstance(message, Message):
            return message
        self.seen.append(message)
        context = Context(
            RUN_ID,
            message.metadata.dst_node_id,
            {"partition-id": self.numbers(message.metadata.dst_node_id)},
            RecordDict(),
            {},
        )
        try:
            reply = self.app(message, context)
        except Exception as error:  # noqa: BLE001 - what a runtime does
            return Error(code=5, reason=f"{type(error).__name__}: {error}")
        self.seen.append(reply)
        return reply

    def protect(self, **changes):
        return protect_grid(self.grid, self.protection, folder=self.folder / "server", **({"patience": 2.0} | changes))


@pytest.fixture
def make_world(tmp_path):
    return lambda protection, **facts: World(folder=tmp_path, protection=protection, **facts)


class Curious(FedAvg):
    """A strategy that keeps all that it is given."""

    def __init__(self, **arguments):
        super().__init__(**({"fraction_evaluate": 0.0} | arguments))
        self.given = []

    def aggregate_train(self, server_round, replies):
        self.given.append(list(replies))
        return super().aggregate_train(server_round, self.given[-1])


def start(world, strategy=None, rounds=1):
    strategy = strategy or Curious()
    with world.protect(strategy=strategy) as grid:
        return strategy.start(grid=grid, initial_arrays=model(), num_rounds=rounds), grid


def plainly(weights):
    moves = np.asarray([0.01 * (client + 1) for client in range(len(weights))])
    return np.average(moves, weights=weights)


def wire(world):
    """Return the bytes of all messages, as far as anything of an app is in them."""
    return b"".join(
        repr([record for record in message.content.values() if not isinstance(record, ArrayRecord)]).encode()
        + b"".join(array.data for record in message.content.array_records.values() for array in record.values())
        for message in world.seen
        if message.has_content()
    )


def needles(arrays):
    return [array.numpy().tobytes()[start : start + 16] for array in arrays.values() for start in (0, 16)][:4]


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


class GridOf:
    """What a server sends that does not keep to its own grid's rules: sealed, and to whom it likes."""

    def __init__(self, protected):
        self._inner = protected._inner

    def ask(self, *messages):
        return self._inner.pull_messages(list(self._inner.push_messages(messages)))


def test_results_are_revealed_where_both_were_told_so(make_world):
    world = make_world(replace(SUMMED, reveal_results=True))
    result, _ = start(world, Curious(fraction_evaluate=1.0))
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(MARK)
    assert str(MARK).encode() not in wire(world)


def request(node=100, kind="train", **records):
    content = {"arrays": model(), "config": ConfigRecord({"server-round": 1})} | records
    return Message(RecordDict(content), node, kind)


@pytest.mark.parametrize("protection", [SEALED, SUMMED, PRIVATE, CENTRAL])
@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_a_client_refuses_what_is_not_sealed(make_world, protection, kind):
    world = make_world(protection)
    reply = world.answer(request(kind=kind))
    assert "client-0 answers sealed messages only" in reply.reason
    assert world.asked == []


def test_a_client_that_sums_refuses_to_send_its_update(make_world):
    world = make_world(SUMMED)
    with world.protect() as grid:
        (reply,) = GridOf(grid).ask(request())
    assert "sends masked updates only" in reply.error.reason
    assert world.asked == []


def test_without_sealing_a_client_takes_part_and_clips(make_world):
    world = make_world(OPEN)
    reply = world.answer(request())
    assert list(reply.content) == ["arrays", "metrics"]
    assert dict(reply.content["metrics"]) == {"num-examples": 1.0}


def test_other_parameters_at_the_clients_are_refused(make_world, caplog):
    world = make_world(SUMMED, theirs=replace(SUMMED, secagg=SecAgg(minimum=3)))
    strategy = Curious()
    start(world, strategy)
    assert "the message is bound to config" in caplog.text
    assert world.asked == []


@pytest.mark.parametrize(
    ("messages", "error", "said"),
    [
        ([100, 100, 101], ConfigError, "asked twice"),
        ([100, 101], ConfigError, "cohort = 3"),
        ([100, 101, 999], ConfigError, "node 999 takes no part"),
    ],
)
def test_a_cohort_that_is_not_allowed_is_not_asked(make_world, messages, error, said):
    world = make_world(PRIVATE)
    with world.protect() as grid:
        with pytest.raises(error, match=said):
            grid.send_and_receive([request(node) for node in messages])
        assert grid.spent.participations == {}
    assert world.asked == []


def test_a_sum_of_too_few_is_not_asked_for(make_world):
    world = make_world(replace(SUMMED, secagg=SecAgg(minimum=3)))
    with world.protect() as grid, pytest.raises(ConfigError, match="asks 2 clients, and secagg"):
        grid.send_and_receive([request(100), request(101)])


def test_clients_are_asked_for_the_same_work(make_world):
    for protection in (SUMMED, CENTRAL):
        world = make_world(protection)
        world.folder = world.folder / str(protection.secagg is None)
        other = request(102, config=ConfigRecord({"server-round": 1, "lr": 9.0}))
        with world.protect() as grid, pytest.raises(AggregationError, match="different work"):
            grid.send_and_receive([request(100), request(101), other])
        assert world.asked == []


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"more": ConfigRecord({"who": 1})}, "one of arrays and one of settings"),
        ({"more": MetricRecord({"who": 1})}, "one of arrays and one of settings"),
        ({"more": model()}, "one of arrays and one of settings"),
        ({"config": MetricRecord({"who": 1})}, "one of arrays and one of settings"),
        ({"arrays": ArrayRecord({"z": Array(np.zeros(2, dtype=np.complex64))})}, "real numbers"),
        ({"arrays": ArrayRecord({"n": Array(np.zeros(2, dtype=np.int64))})}, "no floating numbers"),
    ],
)
def test_a_message_of_other_records_is_refused_on_both_sides(make_world, records, said):
    world = make_world(OPEN)  # sealing refuses complex numbers by itself
    with world.protect() as grid:
        with pytest.raises(TransportError, match=said):
            grid.send_and_receive([request(100 + client, **records) for client in range(SIZE)])
        (reply,) = GridOf(grid).ask(request(**records))
    assert said in reply.error.reason
    assert world.asked == []


def test_updates_are_not_pushed_and_types_are_not_mixed(make_world):
    world = make_world(replace(SUMMED, reveal_results=True))
    with world.protect() as grid:
        with pytest.raises(ConfigError, match="ask for them with send_and_receive"):
            grid.push_messages([request()])
        with pytest.raises(ConfigError, match="cannot be averaged"):
            grid.send_and_receive([request(100), request(101, kind="evaluate")])
        with pytest.raises(ConfigError, match="cannot be averaged"):
            grid.send_and_receive([request(100), request(101, kind="train.other")])
        assert list(grid.send_and_receive([])) == []


def test_messages_are_pushed_and_pulled_where_each_has_a_reply(make_world):
    world = make_world(SEALED)
    with world.protect() as grid:
        (reply,) = grid.pull_messages(grid.push_messages([request(kind="query")]))
        assert reply.content["answer"]["mark"] == MARK
    with pytest.raises(ConfigError, match="closed"):
        grid.push_messages([request(kind="query")])


def test_only_nodes_that_take_part_are_shown(make_world):
    world = make_world(SEALED)
    with world.protect() as grid:
        world.grid.nodes.append(200)
        assert list(grid.get_node_ids()) == [100, 101, 102]


def says(reply):
    return lambda client, content: reply(content)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda _: RecordDict({}), "0 records of arrays"),
        (lambda content: RecordDict({"a": content["arrays"], "b": model()}), "2 records of arrays"),
        (lambda content: RecordDict({"a": ArrayRecord({"weight": content["arrays"]["weight"]})}), "batches, bias"),
        (
            lambda content: RecordDict({"a": ArrayRecord({**content["arrays"], "bias": Array(np.zeros(2))})}),
            "the array bias came back as float64[2], not float64[5]",
        ),
        (
            lambda content: RecordDict({"a": ArrayRecord({**content["arrays"], "batches": Array(np.asarray(5))})}),
            "the array batches holds whole numbers and was changed",
        ),
    ],
)
def test_what_is_no_update_is_refused_by_the_client(make_world, reply, said, caplog):
    world, strategy = make_world(CENTRAL, train=says(reply)), Curious()
    start(world, strategy)
    assert said in caplog.text
    assert not strategy.given[0][0].has_error()  # the release is noise


def test_whole_numbers_stay_as_they_were_sent_in_a_sum(make_world):
    def count(client, content):
        return RecordDict({"arrays": ArrayRecord({**content["arrays"], "batches": Array(np.asarray(99))})})

    assert start(make_world(SUMMED, train=count))[0].arrays["batches"].numpy() == 4


def test_weights_are_asked_for_where_they_are_used(make_world, caplog):
    def weightless(client, content):
        return RecordDict({"arrays": content["arrays"]})

    start(make_world(replace(SUMMED, secagg=SecAgg(max_weight=5)), train=weightless))
    assert "no metric num-examples" in caplog.text


def raises(_client, _content):
    raise ValueError("record 17 says positive")


def leaves(_client, _content):
    sys.exit("record 17 says positive")


@pytest.mark.parametrize("train", [raises, leaves])
@pytest.mark.parametrize("protection", [SUMMED, PRIVATE, CENTRAL, OPEN])
def test_what_an_exception_says_of_records_stays_with_the_client(make_world, protection, train, caplog):
    world, strategy = make_world(protection, train=train), Curious()
    with caplog.at_level(logging.WARNING, "fedtrain.flower.grids.protected"):
        start(world, strategy)
    assert b"record 17" not in wire(world)
    told = [record.getMessage() for record in caplog.records if record.name == "fedtrain.flower.grids.protected"]
    assert told
    assert not any("record 17" in text for text in told)
    assert any("the application failed; why is in the log of this client's node alone" in text for text in told)
    if protection.secagg:
        assert strategy.given[0][0].error.reason == ABORTED


def not_finite(_client, content):
    arrays = content["arrays"]
    return RecordDict({"arrays": ArrayRecord({**arrays, "bias": Array(np.full(5, np.nan))})})


def by_name(_client, content):
    return RecordDict({"arrays": ArrayRecord({**content["arrays"], "record 17": Array(np.zeros(2))})})


def by_shape(_client, content):
    return RecordDict({"arrays": ArrayRecord({**content["arrays"], "bias": Array(np.zeros(1717))})})


@pytest.mark.parametrize(
    ("train", "kept", "failure"),
    [
        (not_finite, "the trained array bias is not finite", "the update cannot be summed"),
        (by_name, "the arrays record 17 of", "the application's reply is no update to send"),
        (by_shape, "came back as float64[1717]", "the application's reply is no update to send"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_wrong_with_an_update_stays_with_the_client(make_world, sealed, train, kept, failure, caplog):
    world, strategy = make_world(replace(SUMMED, sealed=sealed), train=train), Curious()
    start(world, strategy)
    assert kept in caplog.text
    server = [record.getMessage() for record in caplog.records if record.name == "fedtrain.flower.grids.protected"]
    assert any(f"{failure}; why is in the log of this client's node alone" in text for text in server)
    assert not any(word in text for text in server for word in ("finite", "record 17", "1717"))
    assert strategy.given[0][0].error.reason == ABORTED


def test_the_strategy_is_told_nothing_of_why_a_round_was_aborted(make_world, caplog):
    world, strategy = make_world(SUMMED), Curious()
    world.tamper = lambda message: (
        Error(code=9, reason="record 17 says positive") if message.metadata.message_type == "train" else message
    )
    start(world, strategy)
    ((reply,),) = strategy.given
    assert reply.error.reason == ABORTED
    assert "round 1 was aborted" in caplog.text


def test_an_error_that_the_application_returns_stays_with_it_too(make_world):
    world = make_world(CENTRAL)

    def failing(message, context, call_next):
        return Message(Error(code=9, reason="record 17 says positive"), reply_to=message)

    bare = ClientApp(mods=[failing])
    world.app = protect_client(bare, CENTRAL, folder=world.folder / "clients")
    bare.train()(lambda message, context: None)
    strategy = Curious()
    start(world, strategy)
    assert "record 17" not in str(strategy.given)
    assert b"record 17" not in wire(world)


def test_a_client_that_is_lost_is_made_up_for(make_world):
    world = make_world(replace(SUMMED, clients=4), size=4)
    world.tamper = lambda message: (
        None if message.metadata.message_type == "train" and message.metadata.dst_node_id == 103 else message
    )
    world.protection = replace(world.protection, deadline=1.0)
    world = make_world(world.protection, size=4, tamper=world.tamper)
    strategy = Curious()
    result, _ = start(world, strategy)
    assert strategy.given[0][0].content["metrics"]["num-examples"] == 3.0
    assert np.abs(result.arrays["bias"].numpy() - model()["bias"].numpy() - plainly([1, 1, 1])).max() < 1e-4


def test_the_keys_of_a_session_are_gone_at_the_end(make_world):
    world = make_world(SUMMED)
    with world.protect():
        assert list((world.folder / "clients").glob("*/sessions/*/*/secret"))
    assert not list((world.folder / "clients").glob("*/sessions/*/*/secret"))


def test_a_client_that_does_not_say_that_it_deleted_its_keys_is_named(make_world, caplog, monkeypatch):
    monkeypatch.setattr("fedtrain.flower.grids.protected._FAREWELL", 0.3)
    world = make_world(SEALED)
    grid = world.protect()
    world.tamper = lambda message: None if message.metadata.dst_node_id == 101 else message
    assert grid.close() is None
    assert "clients [1] did not say" in caplog.text
    grid.close()


def test_too_few_clients_are_named(make_world):
    world = make_world(replace(SUMMED, clients=4))
    with pytest.raises(ClientError, match="3 of 4 clients say who they are, and the first start pins the keys of all"):
        world.protect(patience=0.2)
    world = make_world(CENTRAL)
    start(world)
    world.tamper = lambda message: None if message.metadata.dst_node_id == 101 else message
    with pytest.raises(ClientError, match="2 clients take part, and 3 are needed:\nnode 101: no answer"):
        world.protect(patience=0.2)


def test_without_a_session_too_few_are_named_too(make_world):
    world = make_world(OPEN, size=2)
    with pytest.raises(ClientError, match=r"2 clients take part, and 3 are needed$"):
        world.protect(patience=0.2)


def test_a_client_may_be_away_at_a_later_start(make_world):
    world = make_world(SUMMED)
    start(world)
    world.tamper = lambda message: None if message.metadata.dst_node_id == 101 else message
    with world.protect(patience=0.3) as grid:
        assert list(grid.get_node_ids()) == [100, 102]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (lambda _: 0, "nodes 100 and 101 both say that they are client 0"),
        (lambda node: node - 99, "node 102: .*the node config has partition-id = 3"),
        (lambda _: "0", "the node config has partition-id = '0'"),
    ],
)
def test_a_number_that_is_nobodys_is_refused(make_world, numbers, said):
    with pytest.raises(ClientError, match=said):
        make_world(SUMMED, numbers=numbers).protect(patience=0.2)


def test_a_server_with_fewer_clients_than_they_think_refuses_the_others(make_world):
    world = make_world(replace(SUMMED, clients=2), theirs=SUMMED)
    with pytest.raises(ClientError, match="node 102 says that it is client 2, and clients = 2"):
        world.protect()


def test_an_app_without_our_mods_is_told(make_world):
    world = make_world(SEALED)
    bare = ClientApp()

    @bare.query()
    def _(message, context):
        return Message(RecordDict({}), reply_to=message)

    world.app = bare
    with pytest.raises(ClientError, match="wrap its ClientApp with"):
        world.protect()


def test_two_clients_with_one_key_are_refused(make_world):
    world = make_world(SEALED)
    shared = Identity.generate()
    for client in range(SIZE):
        (world.folder / "clients" / f"client-{client}").mkdir(parents=True)
    for client in (0, 1):
        key = world.folder / "clients" / f"client-{client}" / "identity.pem"
        shared.save(key) if hasattr(shared, "save") else _write(shared, key)
    with pytest.raises(ClientError, match="cannot be pinned"):
        world.protect()


def _write(identity, path):
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path.write_bytes(identity._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)


def test_other_keys_than_those_pinned_are_refused(make_world):
    world = make_world(SUMMED)
    start(world)
    for client in (0, 1):
        (world.folder / "clients" / f"client-{client}" / "identity.pem").unlink()
    with pytest.raises(ClientError, match=r"1 clients take part, and 2 are needed"):
        world.protect()
    key = world.folder / "server" / "identity.pem"
    key.unlink()
    with pytest.raises(KeyFileError, match=r"identity\.pem is gone, the server's key"):
        world.protect()
    assert not key.exists()
    Identity.load_or_create(key)
    with pytest.raises(KeyFileError, match="names another key of the server"):
        world.protect()


def test_a_pinned_client_takes_part_with_the_roster_of_its_operator_alone(make_world):
    world = make_world(SUMMED)
    start(world)
    pinned = make_world(SUMMED, pinned=True)
    with pytest.raises(ClientError, match=r"client-0.roster\.json is missing"):
        pinned.protect()
    roster = Roster.read(world.folder / "server" / "roster.json")
    for client in range(SIZE):
        roster.write(world.folder / "clients" / f"client-{client}" / "roster.json")
    start(pinned)
    for name in ("identity.pem", "roster.json"):
        (world.folder / "server" / name).unlink()
    with pytest.raises(ClientError, match="the server names other identities than"):
        pinned.protect()


def test_a_folder_is_for_one_run_at_a_time(make_world, tmp_path):
    world = make_world(SEALED)
    with world.protect(), pytest.raises(StorageError, match="another run uses the folder"):
        world.protect()
    world.protect().close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot use the folder"):
        protect_grid(world.grid, SEALED, folder=tmp_path / "file")


def test_names_are_public():
    for name in fedtrain.flower.__all__:
        assert getattr(fedtrain.flower, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = fedtrain.flower.other


def test_an_app_of_any_kind_is_wrapped_before_or_after_its_functions(tmp_path):
    visits, bare = [], ClientApp()
    app = protect_client(bare, OPEN, folder=tmp_path)

    @app.lifespan()
    def span(context):
        visits.append("begins")
        yield
        visits.append("ends")

    @app.evaluate("other")
    def _(message, context):
        raise AssertionError("not asked")

    @bare.train()
    def _(message, context):
        visits.append("trains")
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    InProcessGrid(lambda message: None, [])  # Flower's messages need to know who sends them
    context = Context(RUN_ID, 100, {"partition-id": 0}, RecordDict(), {})
    reply = app(request(), context)
    assert dict(reply.content["metrics"]) == {"num-examples": 1.0}
    assert visits == ["begins", "trains", "ends"]
    with pytest.raises(TransportError, match="results of this client alone"):
        app(request(kind="evaluate.other"), context)


def test_mods_alone_serve_an_app_that_answers_queries(make_world):
    world = make_world(SUMMED)
    world.app = ClientApp(mods=client_mods(SUMMED, folder=world.folder / "clients"))
    world.app.query()(lambda message, context: None)
    world.app.train()(
        lambda message, context: Message(train(context.node_config["partition-id"], message.content), reply_to=message)
    )
    result, _ = start(world)
    assert np.abs(result.arrays["bias"].numpy() - model()["bias"].numpy() - plainly([1, 1, 1])).max() < 1e-4
