"""What each kind of layer contributes to the gradients of single records: from what it took, and its output gradient.

A formula here is tried against records alone by `fedtrain.training.preflight` before it is used, with the model and the
task that it is used for. A kind of layer without a formula is computed again for each record, by ``torch.func.vmap`` of
that layer alone.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional

from fedtrain.training.contributions import (
    Contribution,
    Fold,
    Lookups,
    Products,
    Rows,
    are_cheaper,
    multiplied,
    single,
    unfolded,
)
from fedtrain.training.gradients import NotRecordsError

# Channels from which on torch's convolutions are fast, values of a weight up to which several records fit into one, and
# how many records and values of their weights do.
_WIDE, _SMALL, _TOGETHER, _VALUES = 8, 1 << 16, 32, 1 << 18

_IMAGES = 4

Found = Iterator[tuple[Tensor, Contribution]]
Formula = Callable[[Any, Tensor, Tensor], Found]
"""From a layer, what it took and the gradient of what it made to the contributions to its parameters."""


def formula_of(layer: nn.Module) -> Formula | None:
    """Return the formula for a layer, if there is one for the code that it runs."""
    return next((formula for kind, formula in _FORMULAS.items() if runs(layer, kind)), None)


def runs(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a layer runs the code of a kind, and no forward that somebody set on the layer itself."""
    return type(layer).forward is kind.forward and "forward" not in vars(layer)


def of_linear(weight: Tensor, bias: Tensor | None, taken: Tensor, made: Tensor) -> Found:
    """Yield the contributions of a product with a weight, from (n, ..., in) and (n, ..., out)."""
    count = len(taken)
    taken = single(taken).reshape(count, 1, -1, taken.shape[-1])
    made = single(made).reshape(count, 1, -1, made.shape[-1])
    if weight.requires_grad:
        yield weight, Products(taken=taken, made=made, fold=unfolded(weight.shape))
    if bias is not None and bias.requires_grad:
        yield bias, Rows(values=made.sum((1, 2)), fold=unfolded(bias.shape))


def _linear(layer: nn.Linear, taken: Tensor, made: Tensor) -> Found:
    return of_linear(layer.weight, layer.bias, taken, made)


def _convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, taken: Tensor, made: Tensor) -> Found:
    taken, made, weight = single(taken), single(made), layer.weight
    if weight.requires_grad:
        taken = _padded(layer, taken)
        size, positions = weight[0].numel(), prod(made.shape[2:])
        width, height = len(weight) // layer.groups, weight.shape[1]
        if are_cheaper(positions, size, width):
            windows, fold = _windows(layer, taken, made)
            yield weight, Products(taken=windows(slice(None)), made=_by_position(layer, made), fold=fold)
        elif min(width, height) >= _WIDE and width * size <= _SMALL:
            yield weight, _apart(layer, taken, made)
        else:
            windows, fold = _windows(layer, taken, made)
            yield weight, multiplied(windows, _by_position(layer, made), size, fold)
    if layer.bias is not None and layer.bias.requires_grad:
        yield layer.bias, Rows(values=made.flatten(2).sum(2), fold=unfolded(layer.bias.shape))


def _apart(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, taken: Tensor, made: Tensor) -> Rows:
    """Return the gradients of each record by convolutions in which the channels of each record are a group."""
    shape, none = layer.weight.shape, [0] * (taken.ndim - 2)
    values = made.new_empty(len(made), *shape)
    step = max(1, min(_TOGETHER, _VALUES // layer.weight.numel()))
    for block in (slice(start, start + step) for start in range(0, len(made), step)):
        chosen = values[block].flatten(0, 1)
        channels = [each[block].contiguous().flatten(0, 1).unsqueeze(0) for each in (made, taken)]
        found = torch.ops.aten.convolution_backward(
            *channels,
            chosen,
            None,
            layer.stride,
            none,
            layer.dilation,
            False,
            none,
            len(values[block]) * layer.groups,
            [False, True, False],
        )
        chosen.copy_(found[1])
    return Rows(values=values, fold=unfolded(shape))


def _by_position(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, made: Tensor) -> Tensor:
    """Return (n, G * out, *sides) as (n, G, T, out)."""
    return made.reshape(len(made), layer.groups, -1, prod(made.shape[2:])).mT


def _padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, taken: Tensor) -> Tensor:
    """Return what a convolution took with its padding, as the layer pads."""
    amounts: list[int] = layer._reversed_padding_repeated_twice  # noqa: SLF001 -- torch has no other for "same"
    if not any(amounts):
        return taken
    padding = layer.padding_mode
    return functional.pad(taken, amounts, mode="constant" if padding == "zeros" else padding)


def _windows(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, taken: Tensor, made: Tensor
) -> tuple[Callable[[slice], Tensor], Fold]:
    """Return what gives the window of each position, shape (m, G, T, channels / G * kernel), and how it is a weight.

    Values are copied along what is next to each other in memory.

    Args:
        layer: the convolution.
        taken: with its padding, shape (n, channels, *sides).
        made: its output gradient.
    """
    groups, channels, kernel = layer.groups, layer.weight.shape[1], layer.kernel_size
    last = taken.stride(1) == 1 and channels >= _WIDE
    taken = taken if last else taken.contiguous()
    sides, steps = made.shape[2:], taken.stride()[2:]
    # In steps from window to window, and inside of a window.
    outer = [step * stride for step, stride in zip(steps, layer.stride, strict=True)]
    inner = [step * dilation for step, dilation in zip(steps, layer.dilation, strict=True)]
    of_group = (taken.stride(0), channels * taken.stride(1))

    def with_channels_last(block: slice) -> Tensor:
        chosen = taken[block]
        view = chosen.as_strided((len(chosen), groups, *sides, *kernel, channels), (*of_group, *outer, *inner, 1))
        return view.reshape(len(chosen), groups, prod(sides), -1)

    def with_channels_first(block: slice) -> Tensor:
        chosen = taken[block]
        steps = (*of_group, taken.stride(1), *inner, *outer)
        view = chosen.as_strided((len(chosen), groups, channels, *kernel, *sides), steps)
        return view.reshape(len(chosen), groups, -1, prod(sides)).mT

    if last:
        order = (0, len(kernel) + 1, *range(1, len(kernel) + 1))
        return with_channels_last, Fold(sizes=(len(layer.weight), *kernel, channels), order=order)
    return with_channels_first, unfolded(layer.weight.shape)


def _embedding(layer: nn.Embedding, taken: Tensor, made: Tensor) -> Found:
    if layer.scale_grad_by_freq:
        raise NotRecordsError("an Embedding with scale_grad_by_freq counts the words of the whole batch")
    words, made = taken.reshape(len(taken), -1), single(made).reshape(len(taken), -1, made.shape[-1])
    if layer.padding_idx is not None:
        made = made.masked_fill((words == layer.padding_idx).unsqueeze(-1), 0.0)
    if layer.weight.requires_grad:
        yield layer.weight, Lookups(words=words, made=made, size=layer.num_embeddings)


def _group_norm(layer: nn.GroupNorm, taken: Tensor, made: Tensor) -> Found:
    return _of_scale(layer, taken, made, layer.num_groups, layer.eps)


def _instance_norm(layer: nn.InstanceNorm1d, taken: Tensor, made: Tensor) -> Found:
    return _of_scale(layer, taken, made, taken.shape[1], layer.eps)


def _of_scale(layer: nn.Module, taken: Tensor, made: Tensor, groups: int, eps: float) -> Found:
    weight, bias = layer.weight, layer.bias
    count, channels = taken.shape[:2]
    taken, made = single(taken), single(made).reshape(count, channels, -1)
    sums = made.sum(2)
    if isinstance(weight, nn.Parameter) and weight.requires_grad:
        if not (taken.ndim == _IMAGES and taken.is_contiguous(memory_format=torch.channels_last)):
            taken = taken.contiguous()
        # For its means and scales, which it computes faster than any other function.
        _, *found = torch.native_group_norm(taken, None, None, count, channels, made.shape[2], groups, eps)
        mean, scale = (each.reshape(count, groups).repeat_interleave(channels // groups, dim=1) for each in found)
        values = scale * ((taken.reshape(made.shape) * made).sum(2) - mean * sums)
        yield weight, Rows(values=values, fold=unfolded(weight.shape))
    if isinstance(bias, nn.Parameter) and bias.requires_grad:
        yield bias, Rows(values=sums, fold=unfolded(bias.shape))


def _layer_norm(layer: nn.LayerNorm, taken: Tensor, made: Tensor) -> Found:
    shape = layer.normalized_shape
    made = single(made).reshape(len(made), -1, prod(shape))
    if layer.weight is not None and layer.weight.requires_grad:
        normal = functional.layer_norm(single(taken), shape, eps=layer.eps).reshape(made.shape)
        yield layer.weight, Rows(values=(normal * made).sum(1), fold=unfolded(shape))
    if layer.bias is not None and layer.bias.requires_grad:
        yield layer.bias, Rows(values=made.sum(1), fold=unfolded(shape))


_FORMULAS: dict[type[nn.Module], Formula] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.Embedding: _embedding,
    nn.GroupNorm: _group_norm,
    nn.InstanceNorm1d: _instance_norm,
    nn.LayerNorm: _layer_norm,
}


def by_replay(
    layer: nn.Module, arguments: Sequence[Any], keywords: dict[str, Any], gradients: Sequence[Tensor | None]
) -> Found:
    """Yield the contributions of a layer of any kind: each record through it again, by vmap of this layer alone.

    Args:
        layer: it has parameters of its own.
        arguments: what it took by position; the records are the first dimension of each tensor.
        keywords: what it took by keyword, likewise.
        gradients: of each tensor that it made, ``None`` for zero.

    Raises:
        Exception: an operation cannot be mapped, or draws at random, and would draw another number now.
    """
    weights = {name: value.detach() for name, value in layer.named_parameters(recurse=False) if value.requires_grad}
    taken = {("", key): value for key, value in enumerate(arguments)} | {("", key): v for key, v in keywords.items()}
    mapped = {key: value for key, value in taken.items() if isinstance(value, Tensor)}
    made = {number: value for number, value in enumerate(gradients) if value is not None}

    def of_record(record: dict[Any, Tensor], output: dict[int, Tensor]) -> dict[str, Tensor]:
        one = {key: value.unsqueeze(0) for key, value in record.items()}
        positional = [one.get(("", key), value) for key, value in enumerate(arguments)]
        named = {key: one.get(("", key), value) for key, value in keywords.items()}

        def call(weights: dict[str, Tensor]) -> dict[int, Tensor]:
            result = functional_call(layer, weights, tuple(positional), named)
            tensors = tensors_of(result)
            return {number: tensors[number] for number in output}

        back = vjp(call, weights)[1]
        found: dict[str, Tensor] = back({number: value.unsqueeze(0) for number, value in output.items()})[0]
        return found

    with warnings.catch_warnings():
        # Operations without a rule of their own are slower, and right.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        found = vmap(of_record, randomness="error")(mapped, made)
    for name, value in layer.named_parameters(recurse=False):
        if name in found:
            yield value, Rows(values=single(found[name]).contiguous(), fold=unfolded(value.shape))


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in what a layer took or made, in their order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [each for part in value for each in tensors_of(part)] if isinstance(value, (tuple, list)) else []
