import numpy as np
import pytest
import torch

from fedtrain.errors import DataError, PrivacySpecError, TaskError
from fedtrain.serverapp.preparation import prepare
from fedtrain.tasks import Records
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


def test_a_model_that_the_hooks_do_not_know_trains_and_says_so(cache, tmp_path, monkeypatch):
    (tmp_path / "recurrent_task.py").write_text(
        "from torch import nn\n"
        "from fedtrain.config import TaskConfig\n"
        "from fedtrain.tasks.supervised import Vision\n"
        "class Rows(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.lstm, self.last = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 10)\n"
        "    def forward(self, images):\n"
        "        return self.last(self.lstm(images.squeeze(1))[0][:, -1])\n"
        "class Recurrent(Vision):\n"
        "    def __init__(self, info):\n"
        "        super().__init__(TaskConfig(), info)\n"
        "    def model(self):\n"
        "        return Rows()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prepared = prepare(private_experiment(cache, federation__sites="sites", task__name="recurrent_task:Recurrent"))
    assert "one record after another, which is slower than Opacus' hooks: We do not support nn.LSTM" in prepared.slower
    assert not prepare(private_experiment(cache, federation__sites="sites")).slower


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
