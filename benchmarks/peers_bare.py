"""The bare loops of ``peers.py``: plain PyTorch, one client after another, in one process.

    python peers_bare.py plain|private|epsilon

``private`` trains under Opacus' DP-SGD and never says an epsilon; ``epsilon`` asks Opacus for it after each client.
"""

import random
import sys
import warnings
from copy import deepcopy

import torch
from peers_common import BATCH, COHORT, RATE, Work, evaluated, model_of_the_tutorial, opened, pixels, told
from torch import Tensor, nn
from torch.nn import functional

_DELTA = 1e-3


def plainly(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for rows in torch.randperm(len(labels)).split(BATCH):
        optimizer.zero_grad()
        functional.cross_entropy(model(pixels(images[rows])), labels[rows]).backward()
        optimizer.step()


def privately(model: nn.Module, images: Tensor, labels: Tensor, *, told: bool) -> float | None:
    from opacus import PrivacyEngine  # noqa: PLC0415 - the plain loop does without
    from torch.utils.data import DataLoader, TensorDataset  # noqa: PLC0415

    engine = PrivacyEngine()
    private, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
        data_loader=DataLoader(TensorDataset(images, labels), batch_size=BATCH),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    for some, targets in loader:
        optimizer.zero_grad()
        functional.cross_entropy(private(pixels(some)), targets).backward()
        optimizer.step()
    return float(engine.get_epsilon(_DELTA)) if told else None


def trained(kind: str, model: nn.Module, work: Work, client: int) -> tuple[dict[str, Tensor], float | None]:
    """Return the weights of a client after its training, and what it has spent where that is asked."""
    images, labels = (each[work.clients[client]] for each in (work.images, work.labels))
    local, epsilon = deepcopy(model).train(), None
    if kind == "plain":
        plainly(local, images, labels)
    else:
        epsilon = privately(local, images, labels, told=kind == "epsilon")
    return {name.removeprefix("_module."): value for name, value in local.state_dict().items()}, epsilon


def main() -> None:
    warnings.simplefilter("ignore")  # of Opacus, that its noise is not secure
    kind, draw = sys.argv[1], random.Random(1)  # noqa: S311 - which clients are asked
    work, model, done, spent = opened(), model_of_the_tutorial(), 0, None
    told(0, *evaluated(model, work), trained=0)
    for number in range(1, work.rounds + 1):
        cohort = draw.sample(range(len(work.clients)), COHORT)
        results = [trained(kind, model, work, client) for client in cohort]
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(torch.stack([weights[name] for weights, _ in results]).mean(0))
        done += sum(len(work.clients[client]) for client in cohort)
        spent = max((epsilon for _, epsilon in results if epsilon is not None), default=None)
        told(number, *evaluated(model, work), trained=done, epsilon=spent)


if __name__ == "__main__":
    main()
