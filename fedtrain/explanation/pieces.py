"""The parts of a text that the tokens of a model are made of, as a person reads them."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fedtrain.encoders.minilm import MiniLM, WordPieces
from fedtrain.encoders.tokens import Bytes, FileTokens, HashedWords, Tokenizer, open_tokenizer
from fedtrain.explanation.found import Piece
from fedtrain.tasks.minilm_package import PACKAGE

_WORD = re.compile(r"\w+|[^\w\s]")  # as HashedWords cuts a text


def library_of(file: Tensor, what: str) -> Any:
    """Return the tokenizer of the library `tokenizers` that an encoder holds the file of, uint8 of shape (bytes,)."""
    return open_tokenizer(file.cpu().numpy().tobytes(), what=what)


def pieces_of(tokenizer: Tokenizer, text: str, tokens: Sequence[int]) -> tuple[Piece, ...]:
    """Return the parts of a text, each with its tokens: all tokens are in exactly one.

    Args:
        tokenizer: made the tokens.
        text: the text.
        tokens: those that the model gets: the first ones of the text, from 1.
    """
    found: tuple[Piece, ...] = ()
    if isinstance(tokenizer, HashedWords):
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())[: len(tokens)]
        found = tuple(Piece(text=f" {word}", tokens=(place,)) for place, word in enumerate(words))
    elif isinstance(tokenizer, Bytes):
        found = _characters(text, len(tokens))
    elif isinstance(tokenizer, FileTokens):
        library = library_of(tokenizer.get_buffer("file"), "the tokenizer of the encoder")
        found = _by_offsets(text, library.encode(text, add_special_tokens=False).offsets[: len(tokens)])
    elif isinstance(tokenizer, WordPieces):
        found = pieces_of_minilm(tokenizer, text, len(tokens))
    if sum(len(piece.tokens) for piece in found) == len(tokens):
        return found
    return numbered(tokens, tokenizer)


def pieces_of_minilm(module: MiniLM | WordPieces, text: str, count: int) -> tuple[Piece, ...]:
    """Return the parts of a text between the first token and the last, which stand around every text."""
    library = library_of(module.get_buffer("file"), f"the tokenizer of {PACKAGE}")
    offsets = library.encode(text, add_special_tokens=False).offsets[: count - 2]
    within = _by_offsets(text, offsets, first=1)
    return (Piece(text="[CLS]", tokens=(0,)), *within, Piece(text=" [SEP]", tokens=(count - 1,)))


def numbered(tokens: Sequence[int], tokenizer: Tokenizer | None = None) -> tuple[Piece, ...]:
    """Return a part for each token: what its tokenizer writes for it, or its number."""
    written = [None if tokenizer is None else tokenizer.written([token]) for token in tokens]
    return tuple(
        Piece(text=f" {token}" if text is None else text, tokens=(place,))
        for place, (token, text) in enumerate(zip(tokens, written, strict=True))
    )


def _characters(text: str, count: int) -> tuple[Piece, ...]:
    """Return the characters of a text, whose bytes of UTF-8 are the tokens; the last one may be cut."""
    found, at = [], 0
    for character in text:
        size = min(len(character.encode()), count - at)
        if size == 0:
            break
        found.append(Piece(text=character, tokens=tuple(range(at, at + size))))
        at += size
    return tuple(found)


def _by_offsets(text: str, offsets: Sequence[tuple[int, int]], *, first: int = 0) -> tuple[Piece, ...]:
    """Return the parts of a text from where a tokenizer found each token, with what stands before them."""
    found, end = [], 0
    for place, (start, stop) in enumerate(offsets):
        found.append(Piece(text=text[min(end, start) : stop], tokens=(first + place,)))
        end = max(end, stop)
    return tuple(found)
