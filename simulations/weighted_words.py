"""Hashed words and their beginnings, long ones with more weight: an encoder of an experiment's own that saw no record.

A linear model on them is a number of each word for each class. Noise in the weights moves the output for a record by as
much as the norm of its features, however many there are, and here the norm is 1. So little of it is to be in words that
say nothing of a text, and in most languages these are short. Pairs of words are for training without noise: most are in
few texts.
"""

import math
import unicodedata
from hashlib import blake2b
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data import DataInfo
from fedtrain.encoders.tokens import text_of
from fedtrain.errors import TaskError

WORDS = 64
"""Words of a text that are read."""
BEGINNING = 5
"""Letters of a word that are a feature of their own, so that its forms have something in common."""
FULL = 8
"""Letters of a word that has the whole weight; one of half as many has half of it."""


class WeightedWords(nn.Module):
    """Which words, beginnings of words and pairs of words are in a text, each by a public hash, at norm 1."""

    def __init__(self, *, features: int, pairs: bool) -> None:
        """Keep how many features there are, and whether pairs are among them."""
        super().__init__()
        self.features, self.pairs = features, pairs
        self.register_buffer("limits", torch.tensor([features, pairs, WORDS, BEGINNING, FULL]))  # in the digest

    def forward(self, texts: Tensor) -> Tensor:
        """Return features of norm 1, zeros where there is no word: shape (1, features), of bytes, uint8 (1, bytes)."""
        normal = unicodedata.normalize("NFKC", text_of(texts[0])).casefold()
        words = "".join(sign if sign.isalnum() else " " for sign in normal).split()[:WORDS]
        weights: dict[int, float] = {}
        for word in words:
            for part in (f" {word}", word[:BEGINNING]):  # with a space, a whole word is no beginning
                weights[self._number(part)] = _weight(word)
        for first, second in pairwise(words) if self.pairs else ():
            weights[self._number(f"{first} {second}")] = math.sqrt(_weight(first) * _weight(second))
        found = torch.zeros(1, self.features)
        found[0, list(weights)] = torch.tensor(list(weights.values()))
        return functional.normalize(found)

    def _number(self, part: str) -> int:
        return int.from_bytes(blake2b(part.encode(), digest_size=8).digest()) % self.features


def _weight(word: str) -> float:
    return min(len(word), FULL) / FULL


def build(info: DataInfo) -> WeightedWords:
    """Return the encoder of the texts of a data set, without pairs."""
    return _built(info, features=1 << 14, pairs=False)


def build_with_pairs(info: DataInfo) -> WeightedWords:
    """Return the encoder of the texts of a data set, with pairs."""
    return _built(info, features=1 << 15, pairs=True)


def _built(info: DataInfo, *, features: int, pairs: bool) -> WeightedWords:
    if info.kind != "text":
        raise TaskError(f'weighted_words takes texts, and this data set is of kind "{info.kind}".')
    return WeightedWords(features=features, pairs=pairs)
