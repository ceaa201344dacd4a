"""pfl-research's FedAvg on the work of ``peers.py``: its own simulation, in one process."""

from typing import Any

import numpy as np
import torch
from peers_common import BATCH, CLIENTS, COHORT, EVALUATED, RATE, model_of_the_tutorial, opened, pixels, told
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted, get_overall_value
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional


class Model(nn.Module):
    """The model with its loss and its measurements, as pfl takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = model_of_the_tutorial()
        self.trained = 0

    def loss(self, images: Tensor, labels: Tensor, **_: Any) -> Tensor:
        self.train()
        self.trained += len(labels)
        return functional.cross_entropy(self.layers(images), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor, **_: Any) -> dict[str, Weighted]:
        self.eval()
        outputs = self.layers(images)
        loss = float(functional.cross_entropy(outputs, labels, reduction="sum"))
        return {
            "loss": Weighted(loss, len(labels)),
            "accuracy": Weighted(int((outputs.argmax(1) == labels).sum()), len(labels)),
        }


class Evaluation(CentralEvaluationCallback[Any]):
    """Evaluates before the first round and after each; pfl's own leaves out the evaluation after the first."""

    def on_train_begin(self, *, model: Any) -> Any:
        return self._said(0, model)

    def after_central_iteration(self, _metrics: Any, model: Any, *, central_iteration: int) -> tuple[bool, Any]:
        self._said(central_iteration + 1, model)
        return False, Metrics()  # pfl takes no two measurements of one name in an iteration

    def _said(self, number: int, model: Any) -> Any:
        metrics = self._eval(model)[1]
        found = {str(name).rpartition(" | ")[2]: get_overall_value(value) for name, value in metrics}
        told(number, float(found["loss"]), float(found["accuracy"]), trained=model.pytorch_model.trained)
        return metrics


def main() -> None:
    np.random.seed(1)  # noqa: NPY002 - what pfl draws from
    work = opened()
    images = pixels(work.images)
    order = np.random.default_rng(1)

    def records(client: int) -> PyTorchTensorDataset:
        rows = work.clients[client][order.permutation(len(work.clients[client]))]
        return PyTorchTensorDataset((images[rows], work.labels[rows]), user_id=str(client))

    model = Model()
    federation = FederatedDataset(records, get_user_sampler("minimize_reuse", list(range(CLIENTS))))
    test: Dataset = PyTorchTensorDataset((pixels(work.test_images), work.test_labels))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=work.rounds + 1,
            train_cohort_size=COHORT,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=federation, val_data=federation, postprocessors=[WeightByDatapoints()]),
        PyTorchModel(
            model=model,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        ),
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH),
        NNEvalHyperParams(local_batch_size=EVALUATED),
        [Evaluation(test, NNEvalHyperParams(local_batch_size=EVALUATED))],
    )


if __name__ == "__main__":
    main()
