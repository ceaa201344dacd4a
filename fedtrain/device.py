"""Where tensors live."""

import torch

from fedtrain.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device that a configuration names; ``auto`` is the GPU where there is one.

    Raises:
        ConfigError: ``cuda`` on a machine without it.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            'device = "cuda" is not allowed: this machine has no GPU that torch can use; use "auto" or "cpu"'
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")
