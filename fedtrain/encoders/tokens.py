"""Tokenizers: encoders that turn a text into numbers of tokens.

Two are built in, and know of no text: a public hash of each word, and the bytes of UTF-8. A file of the library
`tokenizers` brings a vocabulary that somebody learned from texts, and so has a declared origin.

>>> from fedtrain.encoders.tokens import HashedWords
>>> words = HashedWords(6)
>>> words.numbers("Hello, hello!") == words.numbers("hello , HELLO !")
True
"""

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtrain.data.types import DataInfo, Text
from fedtrain.errors import TaskError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

WORDS: Final = 1 << 14
"""Numbers that words are hashed to."""

_WORD = re.compile(r"\w+|[^\w\s]")
_LARGEST = 64 << 20  # bytes of a file
# Letters of several alphabets, a sign and a character that no vocabulary has. Each must leave a trace.
_PROBES = ("a", "\u00e9", "\u0436", "\u4e2d", "\u20ac", "\U0001f642", "\U0010fffe")


class Tokenizer(nn.Module):
    """A frozen module that makes tokens of a text: what an encoder is to return where a model takes tokens.

    Args:
        length: tokens that are kept of a text.
        vocabulary: one more than the largest number of a token.

    A subclass of one's own says in ``numbers`` what the tokens of a text are.
    """

    def __init__(self, length: int, vocabulary: int) -> None:
        super().__init__()
        self.length, self.vocabulary = length, vocabulary
        # In the digest as every buffer is.
        self.register_buffer("limits", torch.tensor([length, vocabulary]))

    @abstractmethod
    def numbers(self, text: str) -> list[int]:
        """Return the tokens of a text, all of them, each from 1 to ``vocabulary - 1``."""

    def written(self, tokens: Sequence[int]) -> str | None:
        """Return the text of tokens, as a model of a language draws them; ``None`` where tokens do not say it."""
        del tokens
        return None

    def forward(self, texts: Tensor) -> Tensor:
        """Return tokens, int32 of shape (1, length) with zeros after them, of stored bytes, uint8 (1, bytes)."""
        found = self.numbers(text_of(texts[0]))[: self.length]
        tokens = torch.zeros(1, self.length, dtype=torch.int32, device=texts.device)
        tokens[0, : len(found)] = torch.tensor(found, dtype=torch.int32)
        return tokens

    def checked(self, found: object) -> NDArray[np.int32]:
        """Return the tokens of one record as an array.

        Raises:
            TaskError: they are no tokens of this vocabulary.
        """
        if not isinstance(found, Tensor) or found.dtype != torch.int32 or found.shape != (1, self.length):
            raise TaskError(f"the tokenizer is to return int32 of shape (1, {self.length}), and did not")
        tokens: NDArray[np.int32] = found[0].cpu().numpy()
        if tokens.min() < 0 or tokens.max() >= self.vocabulary:
            raise TaskError(f"the tokenizer returns numbers that are not from 0 to {self.vocabulary - 1}")
        return tokens


def text_of(record: Tensor) -> str:
    """Return the text of a stored record, uint8 of shape (bytes,) with zeros after it."""
    return record.cpu().numpy().tobytes().rstrip(b"\0").decode()


class HashedWords(Tokenizer):
    """Words and signs, each by a public hash: there is no vocabulary, and no word is unknown.

    A text is normalised (NFKC, case folded); a word is a run of letters, digits and underscores, and every other
    character but white space is a word. The number is BLAKE2b of its UTF-8, 8 bytes, modulo 16,384, plus one. Words
    that share a number are one to the model.
    """

    def __init__(self, length: int) -> None:
        super().__init__(length, WORDS + 1)

    def numbers(self, text: str) -> list[int]:
        """Return the hash of each word."""
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
        hashes = (blake2b(word.encode(), digest_size=8).digest() for word in words)
        return [int.from_bytes(each) % WORDS + 1 for each in hashes]


class Bytes(Tokenizer):
    """The bytes of UTF-8, each plus one."""

    def __init__(self, length: int) -> None:
        super().__init__(length, 257)

    def numbers(self, text: str) -> list[int]:
        """Return the bytes."""
        return [byte + 1 for byte in text.encode()]

    def written(self, tokens: Sequence[int]) -> str:
        """Return the text; bytes that are no character are replaced."""
        return bytes(token - 1 for token in tokens).decode(errors="replace")


class FileTokens(Tokenizer):
    """The tokens of a file of the library `tokenizers`, each by its number there plus one.

    Neither the padding, the truncation nor the special tokens of the file are used: what a user writes is text, also
    where it reads like a special token.

    Args:
        path: the file.
        length: tokens that are kept of a text.

    Raises:
        TaskError: the library is not installed, the file is missing or is no tokenizer, or it leaves out characters
            that it does not know.
    """

    def __init__(self, path: Path, length: int) -> None:
        try:
            content = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
        except OSError as error:
            raise TaskError(f"{path}: the tokenizer cannot be read: {error.strerror or error}") from error
        library = open_tokenizer(content, what=str(path))
        for probe in _PROBES:
            if not library.encode(probe, add_special_tokens=False).ids:
                raise TaskError(
                    f"{path}: the tokenizer leaves out characters that it does not know, such as {probe!r}: texts with "
                    "them would look like others. Train it with a token for unknown ones (unk_token), or on bytes "
                    "(ByteLevel)"
                )
        super().__init__(length, max(library.get_vocab(with_added_tokens=True).values()) + 2)
        self.register_buffer("file", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._library = library

    def numbers(self, text: str) -> list[int]:
        """Return the numbers of the file, plus one."""
        return [number + 1 for number in self._library.encode(text, add_special_tokens=False).ids]

    def written(self, tokens: Sequence[int]) -> str:
        """Return what the file says that the tokens read."""
        found: str = self._library.decode([token - 1 for token in tokens], skip_special_tokens=False)
        return found


def open_tokenizer(content: bytes, *, what: str) -> "Library":
    """Return the tokenizer of a file, for which a text is a text, whatever it reads like.

    Args:
        content: the file.
        what: names it in errors.

    Raises:
        TaskError: the library is not installed, or the file is no tokenizer.
    """
    try:
        from tokenizers import Tokenizer as Library  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise TaskError(
            f'{what}: tokenizers of files need the package tokenizers; install it with pip install "fedtrain[text]", '
            'or set task.encoder = "words"'
        ) from error
    try:
        library: Library = Library.from_buffer(content)
    except Exception as error:  # of several types
        raise TaskError(
            f"{what}: this is no file of a tokenizer, as tokenizers.Tokenizer.save writes it: {error}"
        ) from error
    library.no_padding()
    library.no_truncation()
    library.encode_special_tokens = True
    return library


def refuse_other_than_text(name: str, info: DataInfo) -> None:
    """Refuse records that are no texts.

    Raises:
        TaskError: they are not.
    """
    if not isinstance(info.features, Text):
        raise TaskError(
            f'task.encoder = "{name}" takes texts, and this data set is of kind {info.kind}; name the column of the '
            "text with data.text_column, or use another encoder"
        )
