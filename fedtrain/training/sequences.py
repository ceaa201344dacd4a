"""Layers of sequences whose weights are used inside of one function: attention and LSTM, run in parts.

While a model is watched by `fedtrain.training.bookkeeping`, these stand in the place of the layers' own ``forward``.
They compute the same from products with weights that the book notes. What they do not know (packed sequences, keys and
values that are added, projections of an LSTM) they leave to the layer's own code, whose weights then have no
contributions, so that the preflight finds another way.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.training.contributions import Gram, Products, Rows, single, unfolded
from fedtrain.training.layers import Found, of_linear, runs


class Notes(Protocol):
    """Where products are noted.

    Attributes:
        with_weights: whether autograd's own gradients of the weights are asked for, too.
    """

    with_weights: bool

    def note_part(
        self, layer: nn.Module, taken: Tensor, made: Tensor, contribute: Callable[[Tensor], Found], *, records: int = 0
    ) -> None:
        """Note a part of a layer: what it took and made, how the gradient contributes, and the dimension of records."""


Forward = Callable[..., Any]


def replacement(layer: nn.Module, notes: Notes) -> Forward | None:
    """Return what stands in the place of a layer's ``forward`` while it is watched, if anything does."""
    if runs(layer, nn.MultiheadAttention):
        attention: nn.MultiheadAttention = layer  # type: ignore[assignment]
        if attention.bias_k is None and not attention.add_zero_attn:
            return lambda *taken, **named: _attention(attention, notes, *taken, **named)
    if runs(layer, nn.LSTM):
        recurrent: nn.LSTM = layer  # type: ignore[assignment]
        if not recurrent.proj_size:
            return lambda *taken, **named: _recurrent(recurrent, notes, *taken, **named)
    return None


def _attention(
    layer: nn.MultiheadAttention,
    notes: Notes,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,  # noqa: FBT001, FBT002 -- as torch has it
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,  # noqa: FBT001, FBT002
    is_causal: bool = False,  # noqa: FBT001, FBT002
) -> tuple[Tensor, Tensor | None]:
    """Attend as `torch.nn.MultiheadAttention` does, to its documentation."""
    if query.ndim != _SEQUENCES:
        return nn.MultiheadAttention.forward(
            layer, query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )
    del is_causal  # a hint on the mask, which is there
    same = query is key and key is value
    if not layer.batch_first:
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    count, length, width = query.shape
    heads, dropout = layer.num_heads, layer.dropout if layer.training else 0.0
    if same:
        parts = _product(notes, layer, query, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
    else:
        parts = tuple(_part(notes, layer, each, number) for number, each in enumerate((query, key, value)))
    of_heads = [each.reshape(count, -1, heads, width // heads).transpose(1, 2) for each in parts]
    mask = _mask(query, heads, attn_mask, key_padding_mask)
    weights = None
    if need_weights:
        scores = of_heads[0] @ of_heads[1].mT * (width // heads) ** -0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = functional.dropout(weights, dropout) if dropout else weights
        attended = weights @ of_heads[2]
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        queries, keys, values = of_heads
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
    attended = attended.transpose(1, 2).reshape(count, length, width)
    result = _product(notes, layer, attended, layer.out_proj.weight, layer.out_proj.bias)
    return (result if layer.batch_first else result.transpose(0, 1)), weights


_SEQUENCES = 3


def _mask(query: Tensor, heads: int, attention: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """Return what is added to the scores, of a shape that expands to (n, heads, length, keys)."""
    masks = []
    if attention is not None:
        shape = (len(query), heads, *attention.shape[1:]) if attention.ndim == _SEQUENCES else attention.shape
        masks.append(attention.reshape(shape))
    if padding is not None:
        masks.append(padding[:, None, None, :])
    numbers = [
        torch.zeros(each.shape, dtype=query.dtype, device=query.device).masked_fill(each, float("-inf"))
        if each.dtype is torch.bool
        else each.to(query.dtype)
        for each in masks
    ]
    return sum(numbers[1:], start=numbers[0]) if numbers else None


def _product(notes: Notes, layer: nn.Module, taken: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    made = functional.linear(taken, weight, bias)
    value = taken.detach()
    notes.note_part(layer, taken, made, lambda arrival: of_linear(weight, bias, value, arrival))
    return made


def _part(notes: Notes, layer: nn.MultiheadAttention, taken: Tensor, number: int) -> Tensor:
    """Return one of query, key and value, of weights of its own or of a third of the common ones."""
    width, bias = layer.embed_dim, layer.in_proj_bias
    third = slice(number * width, (number + 1) * width)
    own = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)[number]
    weight = layer.in_proj_weight[third] if own is None else own
    made = functional.linear(taken, weight, None if bias is None else bias[third])
    value = taken.detach()

    def contribute(arrival: Tensor) -> Found:
        padded = functional.pad(single(arrival), (third.start, (2 - number) * width))
        if own is None:
            yield from of_linear(layer.in_proj_weight, bias, value, padded)
            return
        yield from of_linear(own, None, value, arrival)
        if bias is not None and bias.requires_grad:
            yield bias, Rows(values=padded.sum(1), fold=unfolded(bias.shape))

    notes.note_part(layer, taken, made, contribute)
    return made


def _recurrent(
    layer: nn.LSTM,
    notes: Notes,
    input: Any,  # noqa: A002 -- as torch has it
    hx: tuple[Tensor, Tensor] | None = None,
) -> Any:
    """Run an LSTM as `torch.nn.LSTM` does, to its documentation."""
    if not isinstance(input, Tensor) or input.ndim != _SEQUENCES:
        return nn.LSTM.forward(layer, input, hx)
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    # The time first, whose slices are contiguous then.
    current = input.transpose(0, 1) if layer.batch_first else input
    count = current.shape[1]
    if hx is None:
        zeros = current.new_zeros(layer.num_layers * len(directions), count, layer.hidden_size)
        hx = (zeros, zeros)
    last: list[tuple[Tensor, Tensor]] = []
    for number in range(layer.num_layers):
        if number and layer.dropout and layer.training:
            current = functional.dropout(current, layer.dropout)
        outputs = []
        for direction in directions:
            start = (hx[0][len(last)], hx[1][len(last)])
            taken = current.flip(0) if direction else current
            output, *ends = _pass(layer, notes, taken, start, f"_l{number}{direction}")
            outputs.append(output.flip(0) if direction else output)
            last.append((ends[0], ends[1]))
        current = torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]
    result = current.transpose(0, 1) if layer.batch_first else current
    return result, (torch.stack([hidden for hidden, _ in last]), torch.stack([cell for _, cell in last]))


def _pass(
    layer: nn.LSTM, notes: Notes, taken: Tensor, start: tuple[Tensor, Tensor], name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer in one direction over (time, n, width)."""
    of_input, of_state = (getattr(layer, f"weight_{of}{name}") for of in ("ih", "hh"))
    biases = [getattr(layer, f"bias_{of}{name}") for of in ("ih", "hh")] if layer.bias else []
    gates = functional.linear(taken, of_input, sum(biases[1:], start=biases[0]) if biases else None)
    weight = of_state if notes.with_weights else of_state.detach()
    output, hidden, cell = _Lstm.apply(gates, weight, *start)  # type: ignore[no-untyped-call] # torch's own
    value = taken.detach().transpose(0, 1)
    before = torch.cat([start[0].detach().unsqueeze(0), output.detach()[:-1]]).transpose(0, 1)

    def contribute(arrival: Tensor) -> Found:
        made = single(arrival).transpose(0, 1).unsqueeze(1)
        gram, trained = Gram(made), [each for each in ((of_input, value), (of_state, before)) if each[0].requires_grad]
        width = sum(weight.shape[1] for weight, _ in trained)
        for weight, vectors in trained:
            yield (
                weight,
                Products(
                    taken=single(vectors).unsqueeze(1),
                    made=made,
                    fold=unfolded(weight.shape),
                    gram=gram,
                    beside=width - weight.shape[1],
                ),
            )
        sums = made.sum((1, 2)) if biases else made
        for bias in biases:
            if bias.requires_grad:
                yield bias, Rows(values=sums, fold=unfolded(bias.shape))

    notes.note_part(layer, taken, gates, contribute, records=1)
    return output, hidden, cell


class _Lstm(torch.autograd.Function):
    """The recurrent part of an LSTM, whose output gradient with respect to the gates is what the book needs."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (time, n, width), and the last hidden and cell states, from gates (time, n, 4 * width)."""
        time, count, width = *gates.shape[:2], hidden.shape[1]
        active, (states, cells) = torch.empty_like(gates), gates.new_empty(2, time + 1, count, width)
        candidates, tangents = gates.new_empty(2, time, count, width)
        states[0], cells[0], transposed = hidden, cell, weight.T
        # To go over tensors is faster than to index them.
        taken = zip(gates, states[:-1], cells[:-1], active, *active.view(time, count, 4, width).unbind(2), strict=True)
        given = zip(candidates, cells[1:], tangents, states[1:], strict=True)
        for (gate, state, before, now, enters, stays, asked, leaves), (candidate, after, tangent, made) in zip(
            taken, given, strict=True
        ):
            torch.addmm(gate, state, transposed, out=now)
            torch.tanh(asked, out=candidate)
            now.sigmoid_()
            torch.addcmul(stays * before, enters, candidate, out=after)
            torch.tanh(after, out=tangent)
            torch.mul(leaves, tangent, out=made)
        ctx.save_for_backward(active, candidates, states, cells, tangents, weight)
        return states[1:], states[-1].clone(), cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return the gradients of gates, weight, and the first states."""
        active, candidates, states, cells, tangents, weight = ctx.saved_tensors
        of_outputs, of_hidden, of_cell = arrived
        width = candidates.shape[2]
        taken, kept, _, given = active.view(*active.shape[:2], 4, width).unbind(2)
        # What a gate has of the gradient of the cell, and the last one of that of the output.
        gradients = torch.addcmul(active, active, active, value=-1.0)
        gates = gradients.view(*active.shape[:2], 4, width)
        gates[:, :, 0].mul_(candidates)
        gates[:, :, 1].mul_(cells[:-1])
        torch.addcmul(taken, taken * candidates, candidates, value=-1.0, out=gates[:, :, 2])
        gates[:, :, 3].mul_(tangents)
        through = torch.addcmul(given, given * tangents, tangents, value=-1.0)
        later: Tensor | None = None
        lines = zip(of_outputs, through, gradients, gates, kept, strict=True)
        for of_output, slope, gradient, gate, keeps in reversed(list(lines)):
            of_hidden = of_output + of_hidden if later is None else torch.addmm(of_output, later, weight)
            of_cell = torch.addcmul(of_cell, of_hidden, slope)
            gate[:, :3].mul_(of_cell.unsqueeze(1))
            gate[:, 3].mul_(of_hidden)
            of_cell, later = of_cell * keeps, gradient
        of_weight = gradients.flatten(0, 1).T @ states[:-1].flatten(0, 1) if ctx.needs_input_grad[1] else None
        return gradients, of_weight, gradients[0] @ weight, of_cell
