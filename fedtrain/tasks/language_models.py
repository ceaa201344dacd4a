"""The models of languages that a configuration can name: what stands at each place of a text, from what came before.

A model takes what came before, tokens (n, length) of which the first of each row is 0, and returns a logit for each
token, (n, length, vocabulary). At a place it has looked at nothing behind it, so that neither what comes nor the
padding after a text is in what it says. Each works in every privacy mode, as `fedtrain.tasks.models` says.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedtrain.data.types import Tokens
from fedtrain.tasks.text_models import HEADS, LAYERS, WIDTH, TransformerBlock, sines

_VECTOR, _STATE = 32, 128


class Lstm(nn.Module):
    """One recurrent layer: 124,321 parameters for bytes.

    Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", with gates that forget.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, _VECTOR)
        self.recurrent = nn.LSTM(_VECTOR, _STATE, batch_first=True)
        self.dense = nn.Linear(_STATE, vocabulary)

    def forward(self, before: Tensor) -> Tensor:
        """Map tokens (n, length) to logits (n, length, vocabulary)."""
        states, _ = self.recurrent(self.embedding(before))
        logits: Tensor = self.dense(states)
        return logits


class CausalTransformer(nn.Module):
    """A small transformer decoder: 100,225 parameters for bytes.

    Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", with layer normalisation
    before each part. Positions are sines and cosines, as those of `fedtrain.tasks.text_models.TextTransformer`.
    """

    def __init__(self, vocabulary: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.register_buffer("positions", sines(length, WIDTH), persistent=False)
        self.register_buffer("seen", torch.ones(length, length, dtype=torch.bool).tril(), persistent=False)
        self.blocks = nn.ModuleList(TransformerBlock(WIDTH, HEADS) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.dense = nn.Linear(WIDTH, vocabulary)

    def forward(self, before: Tensor) -> Tensor:
        """Map tokens (n, length) to logits (n, length, vocabulary); there may be fewer than in training."""
        length = before.shape[1]
        hidden = self.embedding(before) + self.get_buffer("positions")[:length]
        seen = self.get_buffer("seen")[:length, :length]
        for block in self.blocks:
            hidden = block(hidden, seen)
        logits: Tensor = self.dense(self.norm(hidden))
        return logits


def lstm(features: Tokens, outputs: int) -> nn.Module:
    """Return an `Lstm`."""
    del outputs  # as many as there are tokens
    return Lstm(features.vocabulary)


def causal(features: Tokens, outputs: int) -> nn.Module:
    """Return a `CausalTransformer`."""
    del outputs
    return CausalTransformer(features.vocabulary, features.shape[0])


LANGUAGE_MODELS: dict[str, Callable[[Tokens, int], nn.Module]] = {"lstm": lstm, "causal": causal}
