"""BlazeFL's FedAvg on the work of ``peers.py``: its own server, and its own clients in two threads."""

from typing import Any

import torch
from blazefl.contrib.fedavg import FedAvgBaseServerHandler, FedAvgPartitionType, FedAvgThreadPoolClientTrainer
from blazefl.reproducibility import setup_reproducibility
from peers_common import BATCH, CLIENTS, COHORT, EVALUATED, RATE, Work, model_of_the_tutorial, opened, pixels, told
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

_PARALLEL = 2


class Records:
    """A ``PartitionedDataset`` of BlazeFL's: the records of each client, and all test records."""

    def __init__(self, work: Work) -> None:
        images = pixels(work.images)
        self._clients = [TensorDataset(images[rows], work.labels[rows]) for rows in work.clients]
        self._test = TensorDataset(pixels(work.test_images), work.test_labels)

    def get_dataset(self, type_: str, cid: int | None) -> Dataset[Any]:
        return self._test if type_ == FedAvgPartitionType.TEST or cid is None else self._clients[cid]

    def set_dataset(self, type_: str, cid: int | None, dataset: Dataset[Any]) -> None:
        raise NotImplementedError

    def get_dataloader(
        self, type_: str, cid: int | None, batch_size: int | None, generator: torch.Generator | None
    ) -> DataLoader[Any]:
        shuffled = type_ == FedAvgPartitionType.TRAIN
        dataset = self.get_dataset(type_, cid)
        return DataLoader(dataset, batch_size=batch_size, shuffle=shuffled, generator=generator)


class Models:
    """A ``ModelSelector`` of BlazeFL's."""

    def select_model(self, _name: str) -> nn.Module:
        return model_of_the_tutorial()


def main() -> None:
    setup_reproducibility(1)
    work = opened()
    records, models, trained = Records(work), Models(), 0
    handler = FedAvgBaseServerHandler(
        model_selector=models,
        model_name="tutorial",
        dataset=records,
        global_round=work.rounds,
        num_clients=CLIENTS,
        sample_ratio=COHORT / CLIENTS,
        device="cpu",
        batch_size=EVALUATED,
        seed=1,
    )
    trainer = FedAvgThreadPoolClientTrainer(
        model_selector=models,
        model_name="tutorial",
        dataset=records,
        device="cpu",
        num_clients=CLIENTS,
        epochs=1,
        batch_size=BATCH,
        lr=RATE,
        seed=1,
        num_parallels=_PARALLEL,
    )
    summary = handler.get_summary()
    told(0, summary["server_loss"], summary["server_acc"], trained=0)
    while not handler.is_stopped():
        trainer.local_process(handler.downlink_package(), handler.sample_clients())
        for package in trainer.uplink_package():
            trained += package.data_size
            handler.load(package)
        summary = handler.get_summary()
        told(handler.round, summary["server_loss"], summary["server_acc"], trained=trained)


if __name__ == "__main__":
    main()
