"""What the programs of ``peers.py`` share: the work in numbers, the records, the model, the evaluation, the marks.

They run in environments of their own, so that nothing of fedtrain is imported here.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLIENTS, COHORT, BATCH, RATE, EVALUATED = 100, 10, 20, 0.1, 100


@dataclass(frozen=True, kw_only=True)
class Work:
    """The records of a run, uint8 images of shape (n, 3, 32, 32) and int64 labels, and what it is to do.

    Attributes:
        images: those that are trained on.
        labels: theirs.
        test_images: those that are measured.
        test_labels: theirs.
        clients: the rows of each client.
        rounds: how many there are.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    clients: list[Tensor]
    rounds: int


def opened() -> Work:
    """Return the work, read from the folder that ``peers.py`` names."""
    folder = Path(os.environ["FEDTRAIN_PEERS"])
    train, test = np.load(folder / "train.npz"), np.load(folder / "test.npz")
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(train["y"])))
    return Work(
        images=torch.from_numpy(train["x"]),
        labels=torch.from_numpy(train["y"]),
        test_images=torch.from_numpy(test["x"]),
        test_labels=torch.from_numpy(test["y"]),
        clients=list(rows.chunk(CLIENTS)),
        rounds=int(os.environ["FEDTRAIN_PEERS_ROUNDS"]),
    )


def model_of_the_tutorial() -> nn.Sequential:
    """Return the CNN of the Keras tutorial, of 122,570 parameters."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def pixels(images: Tensor) -> Tensor:
    """Return images as the model takes them: float32 between -1 and 1."""
    return images.float().div_(127.5).sub_(1.0)


@torch.no_grad()
def evaluated(model: nn.Module, work: Work) -> tuple[float, float]:
    """Return the mean loss and the accuracy on all test records."""
    model.eval()
    loss, right = 0.0, 0
    for images, labels in zip(work.test_images.split(EVALUATED), work.test_labels.split(EVALUATED), strict=True):
        outputs = model(pixels(images))
        loss += float(functional.cross_entropy(outputs, labels, reduction="sum"))
        right += int((outputs.argmax(1) == labels).sum())
    return loss / len(work.test_labels), right / len(work.test_labels)


def told(number: int, loss: float, accuracy: float, *, trained: int, epsilon: float | None = None) -> None:
    """Say that a round has ended, and what was measured and done up to it; round 0 is before the first.

    ``peers.py`` reads the clock when it reads the line.
    """
    line = {"round": number, "loss": loss, "accuracy": accuracy, "trained": trained, "epsilon": epsilon}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
