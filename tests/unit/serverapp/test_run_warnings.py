import numpy as np
import pytest
import torch
from torch import nn

from fedtrain.config import Experiment
from fedtrain.data import ClassTarget, Columns, DataInfo, NumberTarget, Split, types
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.serverapp import run_warnings
from fedtrain.tasks.supervised import Tabular
from fedtrain.training import refused_alone

TABLE = DataInfo(features=Columns(shape=(3,)), target=ClassTarget(names=("no", "yes")))


class Scaled(Tabular):
    def collate(self, records, generator):
        batch = super().collate(records, generator)
        return batch | {"inputs": batch["inputs"] / 1e6}


def task(kind=Tabular):
    return kind(Experiment.from_dict({"task": {"name": "tabular"}}).task, TABLE)


def split(*rows, targets=None):
    features = np.array(rows, np.float32)
    return Split(features=features, targets=np.zeros(len(rows), np.int64) if targets is None else targets)


def ranges(records, kind=Tabular, info=TABLE):
    return run_warnings.of_ranges(task(kind), records, info, which="test")


@pytest.mark.parametrize("rows", [[(0, 1, 39.0), (1, 77516.0, 0)], [(0, -1484705.0, 0), (0, 1, 99.9)]])
def test_features_beyond_a_hundred_are_named_with_the_remedy(rows):
    (found,) = ranges(split(*rows))
    assert found.startswith("1 of 3 features have values beyond 100 in size in the test records: number 2. Nothing")
    assert "(value - low) / (high - low), with bounds that everyone knows" in found
    assert "77516" not in found
    assert ranges(split((0, 100.0, -100.0))) == []


def test_a_task_that_scales_its_features_is_not_warned_of():
    assert ranges(split((0, 77516.0, 0)), Scaled) == []


def test_many_features_and_records_are_looked_at_in_parts(monkeypatch):
    monkeypatch.setattr(types, "_TOGETHER", 7)
    rows = np.zeros((50, 3))
    rows[49, 2] = rows[3, 0] = 200
    (found,) = ranges(split(*rows))
    assert "records: number 1, number 3. Nothing" in found
    named = DataInfo(features=Columns(shape=(3,), names=("age", "sex", "fnl\x1bwgt")), target=TABLE.target)
    (found,) = ranges(split(*rows), info=named)
    assert "records: age, fnl\N{REPLACEMENT CHARACTER}wgt. Nothing" in found


def test_targets_beyond_a_hundred_are_said():
    info = DataInfo(features=Columns(shape=(3,)), target=NumberTarget())
    (found,) = ranges(split((0, 1, 2), targets=np.array([250_000], np.float32)), info=info)
    assert "targets beyond 100 in size" in found
    assert ranges(split((0, 1, 2), targets=np.array([-99], np.float32)), info=info) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_test_records_that_are_training_records_are_said(dtype, monkeypatch):
    monkeypatch.setattr(run_warnings, "_NUMBERS", 50)
    rows = np.random.default_rng(0).integers(0, 255, (3000, 7)).astype(dtype)
    train = Split(features=rows[:1000], targets=np.arange(1000))
    half = Split(features=rows[500:1500], targets=np.arange(500, 1500))
    assert run_warnings.of_overlap(train, half).startswith("50 % of the test records are training records too")
    assert run_warnings.of_overlap(train, Split(features=rows[1000:], targets=np.arange(1000, 3000))) == ""
    other = Split(features=rows[:1000], targets=np.arange(1, 1001))
    assert run_warnings.of_overlap(train, other) == ""


def test_texts_that_are_their_own_targets_overlap_too():
    rows = np.random.default_rng(0).integers(1, 128, (1000, 30)).astype(np.uint8)
    train, test = (Split(features=part, targets=np.zeros((len(part), 0), np.uint8)) for part in (rows, rows[500:]))
    assert run_warnings.of_overlap(train, test).startswith("100 % of the test records")
    other = Split(features=rows[::-1] ^ 128, targets=np.zeros((1000, 0), np.uint8))
    assert run_warnings.of_overlap(train, other) == ""


def test_records_that_are_often_equal_by_their_nature_are_not_said():
    rows = np.random.default_rng(0).integers(0, 2, (2000, 3)).astype(np.float32)
    targets = np.zeros(1000, np.int64)
    train, test = (Split(features=part, targets=targets) for part in (rows[:1000], rows[1000:]))
    assert run_warnings.of_overlap(train, test) == ""


def test_classes_of_one_side_alone_are_named():
    histogram, names = np.array([[3, 0, 1, 0], [1, 0, 0, 0]]), ("a", "b", "c", "d")
    lacking, unmeasured = run_warnings.of_classes(histogram, split((0, 0, 0), targets=np.array([1])), names)
    assert lacking == "no client has a training record of b, which test records are of: all of them will be wrong"
    assert unmeasured == "no test record is of a, c, which clients train on: nothing measures how well it is learned"
    assert run_warnings.of_classes(np.array([[1, 1]]), split((0,), (1,), targets=np.array([0, 1])), ("a", "b")) == []


def experiment(**privacy):
    values = {"mode": "record", "epsilon": 5.0, "delta": 1e-5, "sampling_rate": 0.1} | privacy
    sections = {"federation": {"clients": 10, "cohort": 10, "rounds": 10}, "training.batch_size": 400}
    return Experiment.from_dict({"privacy": values, **sections})


@pytest.fixture(scope="module")
def plan():
    return mechanism_of(experiment()).plan(experiment())


def test_sizes_that_contradict_the_public_constants_are_said(plan):
    (found,) = run_warnings.of_sizes(plan, [32_561] * 10, ())
    assert (
        "say that a client has about 4,000 records, and the clients of this simulation have 32,561 to 32,561" in found
    )
    assert "takes about 3.26e+03 records and divides by 400" in found
    assert "privacy.sampling_rate near 0.012, or training.batch_size near 3256" in found
    (found,) = run_warnings.of_sizes(plan, [100] * 10, ())
    assert "sampling_rate near" not in found
    assert run_warnings.of_sizes(plan, [4000, 3000, 5000], ()) == []


def test_a_delta_that_the_real_sizes_do_not_allow_is_said_by_name(plan):
    (found,) = run_warnings.of_sizes(plan, [4000, 200_000, 4000], ("Mercy", "General", "St. John"))
    assert "privacy.delta = 1e-05 is not below one in the 200,000 records of client 1 (General)" in found


def test_steps_that_take_no_record_are_said():
    rare = experiment(sampling_rate=1e-3, delta=1e-7)
    found = run_warnings.of_sizes(mechanism_of(rare).plan(rare), [100] * 10, ())
    assert "takes no record at all in 90 % of cases" in found[-1]


def test_noise_that_outweighs_all_contributions_is_said(plan):
    assert run_warnings.of_noise(plan, experiment(), 1000) == ""
    assert "the noise outweighs what can be learned" in run_warnings.of_noise(plan, experiment(), 10**9)
    hidden = experiment(mode="client", delta=1e-2, sampling_rate=None)
    by_client = mechanism_of(hidden).plan(hidden)
    assert "moves the model's 62,006 parameters" in run_warnings.of_noise(by_client, hidden, 62_006)
    assert run_warnings.of_sizes(by_client, [1] * 10, ()) == []


def test_clients_of_one_record_are_named_where_the_model_needs_more():
    found = run_warnings.of_single_records([5, 1, 9, 1], (), "Expected more than 1 value per channel")
    assert found.startswith("clients 1, 3 will fail in every round, with one training record each")
    assert run_warnings.of_single_records([5, 1], (), "") == run_warnings.of_single_records([5, 2], (), "why") == ""


def test_a_model_is_tried_on_one_record_and_left_as_it_is():
    records = run_warnings.Records(features=torch.zeros(2, 3), targets=torch.tensor([0, 1]))
    normalised = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in normalised.state_dict().items()}
    assert "more than 1 value per channel" in refused_alone(normalised, task(), records)
    assert all(torch.equal(value, before[name]) for name, value in normalised.state_dict().items())
    assert refused_alone(nn.Linear(3, 2), task(), records) == ""
    # What fails on any batch is another error's matter.
    assert refused_alone(nn.Linear(4, 2), task(), records) == ""


LORA = frozenset({"q.lora_A.default.weight", "q.lora_B.default.weight", "dense.weight"})
RECORD = {"mode": "record", "sampling_rate": 0.1, "delta": 1e-5}
SHARED = RECORD | {"trust": "distributed", "colluders": 0}


@pytest.mark.parametrize(
    ("trained", "privacy", "said"),
    [
        (LORA, {"mode": "none"}, True),
        (LORA, RECORD, True),
        (LORA, {"mode": "client", "cohorts": "capped", "delta": 1e-5}, True),
        (LORA, SHARED, False),
        (LORA - {"q.lora_A.default.weight"}, {"mode": "none"}, False),
        (frozenset({"q.lora_A.default.weight", "v.lora_B.default.weight"}), {"mode": "none"}, False),
    ],
)
def test_that_factors_are_averaged_one_by_one_is_said_where_they_are(trained, privacy, said):
    sections = {"training.local_steps": 1, "transport.secagg.enabled": True, "transport.secagg.threshold": 7}
    made = Experiment.from_dict({"privacy": privacy, **sections})
    text = run_warnings.of_adapters(made, trained)
    assert ("the product of two means is not the mean of the products" in text) == said
    assert ('task.lora_factors = "b"' in text) == said
