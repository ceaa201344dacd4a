import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fedtrain.config.sections import TaskConfig
from fedtrain.data import ClassTarget, Columns, DataInfo, DataStore, Split, partition
from fedtrain.errors import ConfigError, DataError, PrivacySpecError, TaskError
from fedtrain.serverapp.preparation import baseline_of, prepare
from fedtrain.tasks import CallerObjects, Records
from fedtrain.tasks.supervised import Tabular, Vision
from tests.fakes import digits_experiment, private_experiment


def weights(preparation):
    return {name: value.numpy().tobytes() for name, value in preparation.model.state_dict().items()}


def test_everything_is_made(plain):
    assert plain.plan is None
    assert plain.histogram.shape == (4, 10)
    assert plain.histogram.sum() == len(plain.store.train) == 400
    test = plain.store.test
    five = Records(
        features=torch.from_numpy(np.array(test.features[:5])), targets=torch.from_numpy(np.array(test.targets[:5]))
    )
    assert plain.task.forward(plain.model, plain.task.collate(five, None)).shape == (5, 10)


def test_the_first_model_depends_on_the_seed_alone(cache):
    first = weights(prepare(digits_experiment(cache)))
    torch.manual_seed(999)
    assert weights(prepare(digits_experiment(cache))) == first
    assert weights(prepare(digits_experiment(cache, seed=1))) != first


def test_a_plan_is_calibrated_or_checked(private, cache):
    assert private.plan.noise_multiplier > 0.3
    assert private.plan.spec.rounds == 3
    given = prepare(private_experiment(cache, federation__sites="sites", privacy__noise_multiplier=30.0))
    assert given.plan.noise_multiplier == 30.0
    with pytest.raises(PrivacySpecError, match="spends epsilon"):
        prepare(private_experiment(cache, federation__sites="sites", privacy__noise_multiplier=0.31))


def test_delta_is_checked_before_the_data_is_opened(tmp_path):
    with pytest.raises(PrivacySpecError, match="delta"):
        prepare(private_experiment(tmp_path, privacy__delta=0.5))
    assert list(tmp_path.iterdir()) == []


def test_clients_on_machines_of_their_own_are_never_stacked(cache):
    with pytest.raises(ConfigError, match="stacked = 4 is for a simulation"):
        prepare(digits_experiment(cache, training__stacked=4), deployed=True)


@pytest.mark.parametrize(("task", "said"), [(None, False), ("lstm", True)])
def test_it_is_said_why_clients_do_not_train_at_once(cache, task, said):
    experiment = digits_experiment(cache, training__stacked=4)
    objects = CallerObjects(task=(lambda info: Recurrent(TaskConfig(), info)) if task else None)
    found = [each for each in prepare(experiment, objects=objects).warnings if "training.stacked" in each]
    assert len(found) == said
    assert all("Batching rule not implemented for aten::lstm" in each for each in found)


class Recurrent(Vision):
    """Reads images line by line by torch's LSTM."""

    def model(self):
        class Lines(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 10)

            def forward(self, inputs):
                return self.head(self.lstm(inputs.float().flatten(1).unflatten(1, (8, 8)))[0][:, -1])

        return Lines()


def test_what_cannot_be_used_is_refused(cache):
    with pytest.raises(DataError, match="cannot share"):
        prepare(digits_experiment(cache, federation__clients=1000))
    with pytest.raises(TaskError, match=r"task\.model"):
        prepare(digits_experiment(cache, task__model="nonsense"))


def test_a_model_that_cannot_be_trained_privately_is_refused(cache, tmp_path, monkeypatch):
    (tmp_path / "batch_task.py").write_text(
        "from torch import nn\n"
        "from fedtrain.config import TaskConfig\n"
        "from fedtrain.tasks.supervised import Vision\n"
        "class Normalised(Vision):\n"
        "    def __init__(self, info):\n"
        "        super().__init__(TaskConfig(), info)\n"
        "    def model(self):\n"
        "        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, affine=False), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prepare(digits_experiment(cache, task__name="batch_task:Normalised"))
    with pytest.raises(TaskError, match=r"BatchNorm1d\(64\)"):
        prepare(private_experiment(cache, federation__sites="sites", task__name="batch_task:Normalised"))


def test_a_model_that_trains_by_a_slower_way_says_so(cache, tmp_path, monkeypatch):
    (tmp_path / "shared_task.py").write_text(
        "from torch import nn\n"
        "from torch.nn import functional\n"
        "from fedtrain.config import TaskConfig\n"
        "from fedtrain.tasks.supervised import Vision\n"
        "class Shared(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.one, self.last = nn.Linear(64, 64), nn.Linear(64, 10)\n"
        "    def forward(self, images):\n"
        "        hidden = self.one(images.flatten(1))\n"
        "        return self.last(functional.linear(hidden.tanh(), self.one.weight))\n"
        "class Weights(Vision):\n"
        "    def __init__(self, info):\n"
        "        super().__init__(TaskConfig(), info)\n"
        "    def model(self):\n"
        "        return Shared()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prepared = prepare(private_experiment(cache, federation__sites="sites", task__name="shared_task:Weights"))
    assert "by vmap over records, which is slower than book-keeping: the gradient of one.weight" in prepared.slower
    assert prepared.gradients == "vmap"
    usual = prepare(private_experiment(cache, federation__sites="sites"))
    assert (usual.slower, usual.gradients) == ("", "book-keeping")


def test_a_loss_in_which_records_meet_is_refused_before_a_client_is_asked(cache, tmp_path, monkeypatch):
    (tmp_path / "coupled_task.py").write_text(
        "from fedtrain.config import TaskConfig\n"
        "from fedtrain.tasks.supervised import Vision\n"
        "class Coupled(Vision):\n"
        "    def __init__(self, info):\n"
        "        super().__init__(TaskConfig(), info)\n"
        "    def losses(self, outputs, batch):\n"
        "        return super().losses(outputs - outputs.mean(0), batch)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prepare(digits_experiment(cache, task__name="coupled_task:Coupled"))
    with pytest.raises(TaskError, match="records meet in losses"):
        prepare(private_experiment(cache, federation__sites="sites", task__name="coupled_task:Coupled"))


def store(sizes, *, scale=1.0, test_scale=1.0, features=4):
    """A table of records of several owners, and its split."""
    owners = np.repeat(np.arange(len(sizes)), sizes)
    generator = np.random.default_rng(0)
    drawn = generator.random((len(owners), features), np.float32)
    info = DataInfo(features=Columns(shape=(features,)), target=ClassTarget(names=("no", "yes")))
    train = Split(features=scale * drawn, targets=owners % 2, owners=owners)
    test = Split(
        features=test_scale * generator.random((6, features), np.float32), targets=np.array([0, 0, 0, 0, 1, 1])
    )
    return DataStore(
        info=info, train=train, test=test, owners=tuple(f"Hospital {owner}" for owner in range(len(sizes)))
    )


def prepared(cache, records, kind=digits_experiment, **settings):
    fixed = {
        "federation__clients": 4,
        "federation__sites": "sites",
        "data__source": "object",
        "data__partition__kind": "natural",
        "data__partition__column": "who",
        "data__max_records": "",
        "task__name": "tabular",
    }
    experiment = kind(cache, **(fixed | settings))
    split = partition(records, experiment.data, clients=4, seed=0)
    return prepare(experiment, objects=CallerObjects(records=(records, split)))


def test_unscaled_columns_are_said_before_anything_is_spent(cache):
    (warning,) = prepared(cache, store([9] * 4, scale=1e6, test_scale=1e6)).warnings
    assert warning.startswith("4 of 4 features have values beyond 100 in size in the test records")
    plain = prepared(cache, store([9] * 4))
    assert plain.warnings == plain.private_warnings == ()
    # Of the commonest class, four of the six test records, and of its share.
    assert plain.baseline == {
        "accuracy": 4 / 6,
        "loss": pytest.approx(0.6365, abs=1e-4),
        "auroc": 0.5,
        "average_precision": pytest.approx(2 / 6),
        "balanced_accuracy": 0.5,
    }


def test_what_training_records_alone_show_is_for_the_screen_and_never_with_secure_noise(cache):
    wide = store([100] * 4, scale=1e6)
    seeded = prepared(cache, wide, private_experiment)
    assert seeded.warnings == ()
    assert seeded.private_warnings[0].startswith(
        "4 of 4 features have values beyond 100 in size in the training records"
    )
    assert seeded.shown_owners == ("Hospital 0", "Hospital 1", "Hospital 2", "Hospital 3")
    secure = prepared(cache, store([9, 9, 2000, 9], scale=1e6), private_experiment, privacy__noise="secure")
    assert secure.warnings == secure.private_warnings == secure.shown_owners == ()
    assert len(prepared(cache, store([9, 9, 2000, 9]), private_experiment).warnings) == 2


class Normalised(Tabular):
    def __init__(self, info):
        super().__init__(TaskConfig(name="tabular"), info)

    def model(self):
        return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_batch_normalisation_and_clients_of_one_record_are_told_before(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "normalised", SimpleNamespace(Normalised=Normalised))
    (warning,) = prepared(cache, store([9, 1, 9, 9]), task__name="normalised:Normalised").warnings
    assert warning.startswith("client 1 (Hospital 1) will fail in every round, with one training record each")
    assert prepared(cache, store([9, 1, 9, 9])).warnings == ()
    for sizes, size in ([9] * 4, 1), ([1] * 4, 20):
        with pytest.raises(TaskError, match="cannot be trained on a batch of one record, and there would be no other"):
            prepared(cache, store(sizes), task__name="normalised:Normalised", training__batch_size=size)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"accuracy": torch.tensor(0.5)}, r"has tensor\(0\.5.*\) for 'accuracy', no finite number"),
        ({"accuracy": float("nan")}, "has nan for 'accuracy', no finite number"),
        (0.5, "is to return a number for each metric by name"),
    ],
)
def test_a_baseline_of_a_users_metrics_is_checked_before_anything_is_trained(plain, found, words):
    def task(baseline):
        return SimpleNamespace(metrics=lambda: SimpleNamespace(baseline=baseline))

    with pytest.raises(TaskError, match=words):
        baseline_of(task(lambda targets: found), plain.store)
    with pytest.raises(TaskError, match=r"baseline of the task's metrics raised ZeroDivisionError"):
        baseline_of(task(lambda targets: 1 / 0), plain.store)
    assert baseline_of(task(lambda targets: {"accuracy": 1}), plain.store) == {"accuracy": 1.0}
    assert baseline_of(task(0.5), plain.store) is None
