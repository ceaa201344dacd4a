"""Find trained parameters of an adapted model that nothing moves, before anything is trained or spent.

Where most of a network is frozen, an adapter that gets no gradient shows nowhere: the last layer still learns, noise
still changes the weights, and loss and epsilon look as always. So it is tried on synthetic records.
"""

from typing import Final

import torch
from torch import Tensor, nn

from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError
from fedtrain.tasks import Task
from fedtrain.tasks.calls import collate, forward, losses
from fedtrain.tasks.public import refuse_changed
from fedtrain.training.case import VALUES, moved_copy, prepared, synthetic

_RECORDS: Final = 5
_SHOWN: Final = 3


def refuse_unmoved(model: nn.Module, task: Task, info: DataInfo, *, by_record: bool) -> None:
    """Refuse a model with frozen weights of which a trained parameter has no gradient of any synthetic record.

    Weights are moved a little first: the second factor of an adapter begins with zeros, and so the first one has a
    gradient of zeros. A model that cannot be called on synthetic records is not refused here.

    Of a model with public weights it is also seen whether the step leaves these as they are.

    Args:
        model: as it is trained; it stays as it is.
        task: its task.
        info: the schema of its records.
        by_record: whether gradients are asked for as for single records, which asks autograd for those of the
            parameters by name.

    Raises:
        TaskError: names the parameters, and what the reason often is; or the public weights that are trained.
    """
    if all(parameter.requires_grad for parameter in model.parameters()):
        return
    if off := [name for name, value in model.named_parameters() if ".lora_B." in name and not value.requires_grad]:
        raise TaskError(
            f"the model cannot be trained: {_some(off)} of its adapters are frozen, and nothing would change what they "
            "do: switch the adapters on (peft's enable_adapter_layers()), leave out inference_mode=True, and freeze no "
            "other factor than lora_A"
        )
    for values in VALUES if info.kind in {"table", "encoded"} else VALUES[:1]:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                tried = moved_copy(model)
                found = _gradients(tried, task, info, values=values, by_record=by_record)
        except Exception:  # noqa: BLE001, S112 -- of the user's code; what fails is said where it is called next
            continue
        refuse_changed(model, tried)
        still = [name for name, gradient in found.items() if gradient is None or not gradient.any()]
        if still:
            raise TaskError(_refusal(still, len(found), _checkpointing(model)))
        return


def _gradients(
    model: nn.Module, task: Task, info: DataInfo, *, values: str, by_record: bool
) -> dict[str, Tensor | None]:
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    batch = prepared(collate(task, synthetic(info, _RECORDS, values=values), None), model, None)
    total = losses(task, forward(task, model, batch), batch).sum()
    if by_record:
        found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return dict(zip(parameters, found, strict=True))
    torch.autograd.backward(total)
    return {name: value.grad for name, value in parameters.items()}


def _checkpointing(model: nn.Module) -> str:
    """Return the name of a layer in which transformers checkpoints, or nothing."""
    return next((name or "itself" for name, layer in model.named_modules() if _checkpoints(layer)), "")


def _checkpoints(layer: nn.Module) -> bool:
    return getattr(layer, "gradient_checkpointing", False) is True


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _refusal(still: list[str], trained: int, checkpointing: str) -> str:
    where = f", which layer {checkpointing} has" if checkpointing else ""
    return (
        f"the model cannot be trained: of its {trained} trained parameters {len(still)} have no gradient of any "
        "synthetic record and would not move, or by noise alone, while loss and epsilon look as always: "
        f"{_some(still)}. Look for gradient checkpointing with use_reentrant=True{where}: leave it out, or set "
        'gradient_checkpointing_kwargs={"use_reentrant": False}; for adapters that are merged into the network; for a '
        "part of forward under torch.no_grad() or behind detach(); and for layers that forward does not call"
    )
