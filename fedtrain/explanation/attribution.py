"""Attributions by Captum: integrated gradients, with the check that they are complete, and occlusion.

Sources: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks"; Zeiler and Fergus 2014,
"Visualizing and Understanding Convolutional Networks", section 4.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from fedtrain.errors import ConfigError
from fedtrain.explanation.found import Attribution
from fedtrain.tasks.user_code import described

Scores = Callable[[Tensor], Tensor]
"""From n inputs of a model, shape (n, *shape), to its outputs, shape (n, outputs)."""

_STEPS: Final = (50, 200)  # of the path; more where fewer do not sum up
_TOGETHER: Final = 50  # inputs that a model takes at once
_SIDES = 8  # windows of occlusion along a side, without those that overlap
_FEATURES = 512  # windows of a row of features


def require_captum() -> None:
    """Refuse where Captum is not installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import captum.attr  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "explanations of images, sounds and texts need the package captum: pip install 'fedtrain[explain]'"
        ) from error


def why_no_gradient(scores: Scores, inputs: Tensor, output: int) -> str:
    """Say why an output has no gradient at an input, shape (1, *shape); empty where it has one."""
    tried = inputs.clone().requires_grad_()
    try:
        (found,) = torch.autograd.grad(scores(tried.clone())[0, output], tried, allow_unused=True)
    except Exception as error:  # noqa: BLE001 - of many types, and of the user's own code
        return described(error)
    if found is None or not bool(found.any()):
        return "no output changes with it"
    return "" if bool(found.isfinite().all()) else "its gradient is not finite"


def integrated_gradients(scores: Scores, inputs: Tensor, baseline: Tensor, output: int) -> Attribution | None:
    """Return the gradients of an output, integrated along the straight line from a baseline; ``None`` if not finite.

    A model may work in place, as ``nn.ReLU(inplace=True)`` does: it gets a copy at each step.

    Args:
        scores: the model.
        inputs: shape (1, *shape), float32.
        baseline: of the same shape.
        output: which one.

    Returns:
        Values of the shape of a record.
    """
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - an extra

    method = IntegratedGradients(lambda some: scores(some.clone()))
    with torch.no_grad():
        ends = scores(torch.cat([inputs, baseline]))[:, output].double()
    difference = float(ends[0] - ends[1])
    found: Attribution | None = None
    for steps in _STEPS:
        values = method.attribute(
            inputs, baselines=baseline, target=output, n_steps=steps, internal_batch_size=_TOGETHER
        )
        if not bool(values.isfinite().all()) or not math.isfinite(difference):
            return None
        summed = values[0].detach().double().numpy()
        found = Attribution(
            method="integrated gradients",
            values=summed,
            sum=float(summed.sum()),
            difference=difference,
            steps=steps,
        )
        if found.complete:
            break
    return found


def occlusion(scores: Scores, inputs: Tensor, baseline: Tensor, output: int) -> Attribution:
    """Return by how much an output falls where a window of the inputs is as the baseline has it.

    A window has an eighth of each side of a picture and all its channels, and moves by half of itself; of a row of
    features it has one. Where windows overlap, a value is their mean.

    Args:
        scores: the model.
        inputs: shape (1, *shape), float32, of one to three dimensions after the first.
        baseline: of the same shape.
        output: which one.
    """
    from captum.attr import Occlusion  # noqa: PLC0415 - an extra

    channels, sides = inputs.shape[1:-2], inputs.shape[-2:] if inputs.ndim > 2 else inputs.shape[-1:]  # noqa: PLR2004
    parts = _SIDES if len(sides) > 1 else _FEATURES
    window = [math.ceil(side / parts) for side in sides]
    strides = [max(1, side // 2) if len(sides) > 1 else side for side in window]
    method = Occlusion(scores)
    with torch.no_grad():
        values = method.attribute(
            inputs,
            sliding_window_shapes=(*channels, *window),
            strides=(*channels, *strides),
            baselines=baseline,
            target=output,
            perturbations_per_eval=_TOGETHER,
        )
    found = values[0].double().numpy()
    return Attribution(method="occlusion", values=found, sum=float(found.sum()))


def ablation(scores: Scores, tokens: Tensor, baseline: Tensor, output: int) -> Attribution:
    """Return by how much an output falls where one of the tokens is as the baseline has it.

    Args:
        scores: from tokens (n, length) to outputs.
        tokens: int64, shape (1, length).
        baseline: of the same shape.
        output: which one.

    Returns:
        Values of shape (length,).
    """
    from captum.attr import FeatureAblation  # noqa: PLC0415 - an extra

    method = FeatureAblation(scores)
    with torch.no_grad():
        values = method.attribute(tokens, baselines=baseline, target=output, perturbations_per_eval=_TOGETHER)
    found = values[0].double().numpy()
    return Attribution(method="occlusion", values=found, sum=float(found.sum()))
