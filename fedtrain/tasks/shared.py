"""What of a model is trained, and what of it clients and server share."""

from typing import TYPE_CHECKING

from torch import nn

from fedtrain.errors import TaskError

if TYPE_CHECKING:
    from fedtrain.tasks.types import Task


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Return the names in the state dict of all that is trained.

    In a private mode all else, buffers and frozen parameters, is released as it was received: no noise covers it.
    """
    parameters = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, value in parameters if value.requires_grad)


def shared_names(task: "Task", model: nn.Module) -> frozenset[str]:
    """Return the names in the state dict that a task shares.

    Whatever sends, clips, adds noise, masks or digests goes by this set, and by no other.

    Raises:
        TaskError: the task names what is not trained, and so is neither clipped nor noised, or names nothing.
    """
    shared, trainable = frozenset(task.shared(model)), trainable_names(model)
    if strange := sorted(shared - trainable):
        raise TaskError(
            f"the task shares {', '.join(strange[:3])}, which is no trainable parameter of its model: what is not "
            "trained is neither clipped nor noised, and is never sent; return names of trainable parameters from "
            "shared(model)"
        )
    if not shared:
        raise TaskError(
            "the task shares nothing: the model has no trainable parameter, or shared(model) names none; nothing "
            "would be learned"
        )
    return shared
