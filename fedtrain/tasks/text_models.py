"""The models of sequences of tokens that a configuration can name.

Padding is no token: a record has the same outputs and the same gradients whatever the zeros after it. A record without
any token, as of an empty text, has outputs too. Each works in every privacy mode, as `fedtrain.tasks.models` says.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data.types import Tokens

WIDTH, HEADS, LAYERS = 64, 4, 2
_BAG = 64


class Bag(nn.Module):
    """The mean of the vectors of a text's tokens, and a linear layer: 1.05 million parameters for 16,384 words.

    Source: Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", without its n-grams.
    """

    def __init__(self, vocabulary: int, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, _BAG, padding_idx=0)
        self.dense = nn.Linear(_BAG, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to outputs (n, outputs)."""
        logits: Tensor = self.dense(mean_over(self.embedding(tokens), tokens != 0))
        return logits


class Attention(nn.Module):
    """Attention of several heads within each record, of linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.parts = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """Map (n, length, width) to the same shape.

        ``seen`` says which positions are looked at: of a shape that expands to (n, heads, length, length).
        """
        count, length, width = hidden.shape
        parts = self.parts(hidden).reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        result: Tensor = self.joined(attended.transpose(1, 2).reshape(count, length, width))
        return result


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each on what is normalised before, and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.rise = nn.Linear(width, 2 * width)
        self.fall = nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """Map (n, length, width) to the same shape; ``seen`` is as in `Attention`."""
        hidden = hidden + self.attention(self.norm1(hidden), seen)
        made: Tensor = hidden + self.fall(functional.gelu(self.rise(self.norm2(hidden))))
        return made


class TextTransformer(nn.Module):
    """A small transformer encoder: 1.12 million parameters for 16,384 words.

    Source: Vaswani et al. 2017, "Attention Is All You Need", with layer normalisation before each part. Positions are
    its sines and cosines: a table of learned ones would be more to add noise to, and hooks take its first dimension for
    that of records. The last layer takes the mean over the tokens.
    """

    def __init__(self, vocabulary: int, length: int, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH, padding_idx=0)
        self.register_buffer("positions", sines(length, WIDTH), persistent=False)
        self.blocks = nn.ModuleList(TransformerBlock(WIDTH, HEADS) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.dense = nn.Linear(WIDTH, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to outputs (n, outputs)."""
        there = tokens != 0
        hidden = self.embedding(tokens) + self.get_buffer("positions")
        # A record without tokens looks at its first position: nothing to look at would be no number.
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        for block in self.blocks:
            hidden = block(hidden, (there | first)[:, None, None, :])
        logits: Tensor = self.dense(mean_over(self.norm(hidden), there))
        return logits


def mean_over(hidden: Tensor, there: Tensor) -> Tensor:
    """Return the mean of (n, length, width) over the positions with a token; zero where there is none."""
    counts = there.sum(1, keepdim=True).clamp(min=1)
    return (hidden * there.unsqueeze(-1)).sum(1) / counts


def sines(length: int, width: int) -> Tensor:
    """Return positions, shape (length, width): sines and cosines of periods from 2 pi to 20,000 pi."""
    periods = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length).unsqueeze(1) * periods
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def bag(features: Tokens, outputs: int) -> nn.Module:
    """Return a `Bag`."""
    return Bag(features.vocabulary, outputs)


def transformer(features: Tokens, outputs: int) -> nn.Module:
    """Return a `TextTransformer`."""
    return TextTransformer(features.vocabulary, features.shape[0], outputs)


TEXT_MODELS: dict[str, Callable[[Tokens, int], nn.Module]] = {"bag": bag, "transformer": transformer}
