from decimal import Decimal

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score
from torch import nn
from torch.nn import functional

from fedtrain.data import Split
from fedtrain.errors import RunError, TaskError
from fedtrain.report import Evaluation
from fedtrain.serverapp.preparation import metrics_of, prepare
from fedtrain.serverapp.rounds import evaluate
from fedtrain.tasks import ClassificationMetrics, Records, Task
from tests.fakes import digits_experiment


def records_of(split):
    return Records(
        features=torch.from_numpy(np.array(split.features)), targets=torch.from_numpy(np.array(split.targets))
    )


@pytest.fixture(scope="module")
def trained(cache):
    """Return a preparation with a model that was trained a little, so that no measurement is trivial."""
    preparation = prepare(digits_experiment(cache))
    train = preparation.store.train
    batch = preparation.task.collate(records_of(train), None)
    optimizer = torch.optim.Adam(preparation.model.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        functional.cross_entropy(preparation.model(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
    return preparation


def test_it_is_what_a_straightforward_computation_gives(trained):
    test = trained.store.test
    measured = evaluate(trained.model, trained.task, test, round_number=7)
    batch, labels = trained.task.collate(records_of(test), None), np.array(test.targets)
    with torch.no_grad():
        logits = trained.model.eval()(batch["inputs"]).double()
    predicted = logits.argmax(1).numpy()
    assert measured.round == 7
    assert measured.records == len(test) == 359
    assert 0.3 < measured.accuracy < 1
    assert measured.accuracy == (predicted == labels).mean()
    assert measured.loss == pytest.approx(float(functional.cross_entropy(logits, torch.from_numpy(labels))), rel=1e-6)
    assert measured.confusion == tuple(map(tuple, confusion_matrix(labels, predicted).tolist()))
    assert measured.f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert measured.per_class.f1 == pytest.approx(tuple(f1_score(labels, predicted, average=None)))


@pytest.mark.parametrize("records", [1, 500, 501, 1200])
def test_every_record_counts_once_however_many_there_are(trained, records):
    test = trained.store.test
    rows = np.arange(records) % len(test)
    split = Split(features=test.features[rows], targets=test.targets[rows])
    assert evaluate(trained.model, trained.task, split, round_number=0).records == records


def test_the_model_is_not_changed_and_is_measured_as_it_is_used(trained):
    class Noisy(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.norm, self.dropout = inner, nn.BatchNorm1d(10), nn.Dropout(0.9)

        def forward(self, batch):
            return self.dropout(self.norm(self.inner(batch)))

    model = Noisy(trained.model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = evaluate(model, trained.task, trained.store.test, round_number=0)
    assert evaluate(model, trained.task, trained.store.test, round_number=0) == first
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.norm.parameters())


class Images(Task):
    """Images of three channels, and what a convolution is given of them."""

    def __init__(self):
        self.seen = []

    def model(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 15 * 15, 10))
        model[0].register_forward_pre_hook(
            lambda layer, inputs: self.seen.append((len(inputs[0]), layer.weight.stride()))
        )
        return model

    def collate(self, records, generator):
        return {"inputs": records.features, "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(10)


def test_images_are_measured_some_at_a_time_with_channels_last_and_the_weights_stay_as_they_are():
    draw, task = np.random.default_rng(0), Images()
    split = Split(
        features=draw.standard_normal((203, 3, 32, 32), dtype=np.float32), targets=draw.integers(10, size=203)
    )
    model = task.model()
    measured = evaluate(model, task, split, round_number=0)
    assert [records for records, _ in task.seen] == [85, 85, 33]
    assert {strides for _, strides in task.seen} == {(27, 1, 9, 3)}
    assert model[0].weight.stride() == (27, 9, 3, 1)
    with torch.no_grad():
        logits = model(torch.from_numpy(split.features)).double()
    loss = float(functional.cross_entropy(logits, torch.from_numpy(split.targets)))
    assert measured.loss == pytest.approx(loss, rel=1e-6)
    assert measured.accuracy == float((logits.argmax(1) == torch.from_numpy(split.targets)).double().mean())


@pytest.mark.parametrize(("shape", "together"), [((64,), 500), ((3, 32, 32), 85), ((3, 224, 224), 16)])
def test_fewer_large_records_are_evaluated_at_once(trained, shape, together):
    counted = []

    class Counting(Images):
        def collate(self, records, generator):
            counted.append(len(records))
            return {"inputs": records.features.flatten(1)[:, :4], "targets": records.targets}

    features = np.broadcast_to(np.float32(1), (501, *shape))
    model = nn.Linear(4, 10)
    evaluate(model, Counting(), Split(features=features, targets=np.zeros(501, dtype=np.int64)), round_number=0)
    assert counted[0] == together
    assert sum(counted) == 501


class Own(Task):
    """A task with measurements of its own."""

    def __init__(self, measurements):
        self.measurements = measurements

    def model(self):
        return nn.Linear(2, 1)

    def collate(self, records, generator):
        assert generator is None, "test records are never augmented"
        return {"inputs": records.features.float(), "targets": records.targets}

    def losses(self, outputs, batch):
        return outputs.squeeze(1)

    def metrics(self):
        return self

    @property
    def described(self):
        return ()

    def update(self, outputs, batch):
        pass

    def compute(self):
        return self.measurements


SPLIT = Split(features=np.zeros((3, 2), np.float32), targets=np.zeros(3, np.int64))


def test_a_task_may_measure_other_things():
    measured = evaluate(nn.Linear(2, 1), Own({"perplexity": 12.5, "by_class": [1, None]}), SPLIT, round_number=2)
    assert measured == Evaluation.model_validate({"round": 2, "perplexity": 12.5, "by_class": [1, None]})


@pytest.mark.parametrize(
    "measurements",
    [
        {"accuracy": 1.5},
        {"mine": torch.ones(1) > 0},
        {"mine": "text"},
        {"round": -1},
    ],
)
def test_measurements_that_no_report_can_hold_are_an_error_of_the_run(measurements):
    with pytest.raises(RunError, match="measurements after round 2 cannot be reported"):
        evaluate(nn.Linear(2, 1), Own(measurements), SPLIT, round_number=2)


@pytest.mark.parametrize("value", [{1, 2}, Decimal("1.5"), [b"bytes"], {"inside": object()}])
def test_a_measurement_of_another_kind_is_named_with_what_to_return(value):
    with pytest.raises(TaskError, match="as mine, which no report can hold: return numbers, tensors or arrays"):
        evaluate(nn.Linear(2, 1), Own({"mine": value}), SPLIT, round_number=2)


def test_metrics_that_do_not_say_how_they_are_read_are_refused():
    class Silent(Own):
        metrics = dict

    assert metrics_of(Own({})) == ()
    with pytest.raises(TaskError, match="of type dict, have no `described`"):
        metrics_of(Silent({}))
