"""What of a model is trained."""

from torch import nn


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Return the names in the state dict of all that is trained.

    In a private mode all else, buffers and frozen parameters, is released as it was received: no noise covers it.
    """
    parameters = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, value in parameters if value.requires_grad)
