"""Hold still what a model draws at random, so that its losses can be compared."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_HALF = 0.5
_NUMBERS = frozenset(
    {"rand", "rand_like", "randn", "randn_like", "normal", "normal_", "uniform", "uniform_", "exponential_"}
    | {"cauchy_", "log_normal_", "geometric_", "poisson", "binomial", "normal_functional", "exponential"}
)
_INDICES = frozenset({"randint", "randint_like", "random", "random_", "multinomial"})
_COINS = frozenset({"bernoulli", "bernoulli_"})


class Still(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """While it is entered, every draw of torch is the same constant, in a batch and alone.

    A coin that may show 1 does, so that dropout keeps everything. A permutation moves every record by one, so that
    records that are mixed at random still meet. Draws from a generator that the caller names stay as they are.

    Attributes:
        drew: whether anything was drawn.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to import the compiler takes seconds

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drew = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and replace what it drew."""
        del types
        name = func.name().removeprefix("aten::").split(".")[0]
        if name == "native_dropout":
            self.drew = True
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        result = func(*args, **(kwargs or {}))
        if kwargs and kwargs.get("generator") is not None:
            return result  # as an augmentation draws, or a caller
        if not isinstance(result, Tensor) or name not in _NUMBERS | _INDICES | _COINS | {"randperm"}:
            return result
        self.drew = True
        if name == "randperm":
            return result.copy_(torch.arange(len(result), device=result.device).roll(1))
        if name in _COINS:
            # The chance is the second argument; that of bernoulli may be in the first, one for each value.
            chance = args[1] if len(args) > 1 else args[0] if name == "bernoulli" else _HALF
            return result.copy_(torch.as_tensor(chance, device=result.device) > 0)
        return result.fill_(_HALF if name in _NUMBERS and result.is_floating_point() else 0)
