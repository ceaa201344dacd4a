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
from fedtrain.tasks import Records, Task
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


def test_metrics_that_do_not_say_how_they_are_read_are_refused():
    class Silent(Own):
        metrics = dict

    assert metrics_of(Own({})) == ()
    with pytest.raises(TaskError, match="of type dict, have no `described`"):
        metrics_of(Silent({}))
