"""From the configuration to a frozen module that encodes one record at a time, and what identifies it."""

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtrain.config.sections import TOKENIZER_FILE, TaskConfig
from fedtrain.data.types import DataInfo, Encoded, Tokens
from fedtrain.encoders.log_mel import log_mel_encoder
from fedtrain.encoders.minilm import minilm_encoder, word_pieces
from fedtrain.encoders.scattering import scattering_encoder
from fedtrain.encoders.tokens import Bytes, FileTokens, HashedWords, Tokenizer, refuse_other_than_text
from fedtrain.errors import TaskError
from fedtrain.tasks.named import load_named
from fedtrain.tasks.user_code import kind_of, telling

_BUILT_IN: Final[dict[str, Callable[[DataInfo], nn.Module]]] = {
    "scattering": scattering_encoder,
    "log-mel": log_mel_encoder,
    "minilm": minilm_encoder,
}
_TOKENIZERS: Final[dict[str, Callable[[int], nn.Module]]] = {
    "words": HashedWords,
    "bytes": Bytes,
    "minilm-tokens": word_pieces,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """A frozen module, and what is public about it.

    Attributes:
        name: as the configuration names it.
        origin: what it was fitted on, in words.
        digest: SHA-256 of its source and state, in hexadecimal.
        info: the schema of encoded records.
        module: in evaluation mode, without gradients.
        device: where it computes.
    """

    name: str
    origin: str
    digest: str
    info: DataInfo
    module: nn.Module
    device: torch.device

    def encode(self, record: NDArray[np.generic]) -> NDArray[Any]:
        """Return the features of one record.

        The module sees no other record, and so features depend on none.

        Args:
            record: its stored features, of shape and dtype as the data set has them.

        Returns:
            Shape ``info.shape``, float32; of a `Tokenizer` int32.

        Raises:
            TaskError: the module fails, or returns other features than it is to.
        """
        features = _called(self.module, torch.from_numpy(np.array(record)[None]), self.device)
        if features.shape != self.info.shape:
            raise TaskError("the encoder returns features of another shape for one record than for another")
        return features


def open_encoder(
    config: TaskConfig,
    info: DataInfo,
    *,
    device: torch.device | None = None,
    deployed: bool = False,
    folder: Path | None = None,
) -> Encoder | None:
    """Return the encoder that the configuration names, for a data set; ``None`` where it names none.

    ``config.encoder`` is one that is built in; or the file of a tokenizer; or ``module:attribute``: a callable in a
    module on Python's path that takes the ``DataInfo`` and returns a ``torch.nn.Module``. The module takes the stored
    features of one record, uint8 for images and texts and float32 for all else, and returns what it computes of them,
    both with a first dimension of 1. A `Tokenizer` returns tokens, any other module floating-point numbers.

    Args:
        config: names the encoder.
        info: the data set, as its records are stored.
        device: where the encoder computes; by default on the CPU.
        deployed: whether clients are on machines of their own, so that a digest must be declared.
        folder: of a site, in which the file of a tokenizer lies under its own name, wherever the server has it.

    Raises:
        TaskError: there is no such encoder, or it fails on a record of zeros, returns something else than features, is
            not the one of the declared digest, or has no declared digest in a deployment.
    """
    if config.encoder is None:
        return None
    name, device = config.encoder, device or torch.device("cpu")
    factory = _factory(config, name, folder)
    with telling(f'task.encoder = "{name}", called with the DataInfo,'), torch.random.fork_rng(devices=[]):
        module: object = factory(info)
    if not isinstance(module, nn.Module):
        raise TaskError(f'task.encoder = "{name}" is to return a torch.nn.Module, and returned {kind_of(module)}')
    module = module.eval().requires_grad_(requires_grad=False)
    digest = digest_of(module)
    _check_digest(config, digest, deployed=deployed)
    module = module.to(device)
    zeros = torch.from_numpy(np.zeros((1, *info.shape), info.features.dtype))
    shape = _called(module, zeros, device).shape
    features = (
        Tokens(shape=shape, vocabulary=module.vocabulary) if isinstance(module, Tokenizer) else Encoded(shape=shape)
    )
    return Encoder(
        name=name,
        origin=config.origin or "",
        digest=digest,
        info=replace(info, features=features),
        module=module,
        device=device,
    )


def _factory(config: TaskConfig, name: str, folder: Path | None) -> Callable[[DataInfo], object]:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name in _TOKENIZERS:
        return partial(_tokenizer, name, lambda: _TOKENIZERS[name](config.max_tokens))
    if name.endswith(TOKENIZER_FILE) and ":" not in name:
        path = Path(name).expanduser() if folder is None else folder / Path(name).name
        return partial(_tokenizer, name, lambda: FileTokens(path, config.max_tokens))
    return load_named(
        "task.encoder", name, example="own_encoder:build", makes="takes the DataInfo and returns a torch.nn.Module"
    )


def _tokenizer(name: str, build: Callable[[], nn.Module], info: DataInfo) -> nn.Module:
    refuse_other_than_text(name, info)
    return build()


def _check_digest(config: TaskConfig, digest: str, *, deployed: bool) -> None:
    if config.encoder_digest is None and deployed:
        raise TaskError(
            f'task.encoder_digest is not set, and in a deployment each site checks that "{config.encoder}" is the '
            f'encoder of the experiment; the digest here is "{digest}"'
        )
    if config.encoder_digest not in (None, digest):
        raise TaskError(
            f'task.encoder = "{config.encoder}" is another encoder than the experiment declares: its digest is '
            f"{digest}, and task.encoder_digest is {config.encoder_digest}; its source or its weights were changed, or "
            "are of another version. Nothing was trained"
        )


def digest_of(module: nn.Module) -> str:
    """Return the SHA-256 of what a module computes with, in hexadecimal.

    It is over the source of the modules that define its classes, and over its parameters and buffers, also those that
    are not in its state dict. Of what is in torch itself only the names are in it; what a module keeps in other
    attributes, or calls in other modules, is not.
    """
    classes = [f"{type(part).__module__}.{type(part).__qualname__}" for part in module.modules()]
    own = {kind for part in module.modules() for kind in type(part).__mro__ if not _of_libraries(kind)}
    sources = {kind.__module__: _source(kind) for kind in own}
    tensors = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    digest = sha256(b"fedtrain.encoder/1\n")
    digest.update(json.dumps([classes, sorted(sources.items())]).encode())
    for name, value in sorted(tensors.items()):
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(content.data)
    return digest.hexdigest()


def _of_libraries(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in {"torch", "builtins", "typing", "abc"}


def _source(kind: type) -> str:
    module = sys.modules.get(kind.__module__)
    try:
        return inspect.getsource(kind if module is None or kind.__module__ == "__main__" else module)
    except (OSError, TypeError) as error:
        raise TaskError(
            f"the encoder has a {kind.__module__}.{kind.__qualname__}, whose source cannot be read, so that no digest "
            "says what it computes; put the class into a file"
        ) from error


def _called(module: nn.Module, record: Tensor, device: torch.device) -> NDArray[Any]:
    """Return the features of one record.

    Raises:
        TaskError: the module fails, or does not return finite numbers for the record, or tokens.
    """
    with telling("the encoder"), torch.no_grad():
        found: object = module(record.to(device))
    if isinstance(module, Tokenizer):
        return module.checked(found)
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != 1 or not found.is_floating_point():  # noqa: PLR2004
        shape = (
            f"a tensor of {found.dtype} and shape {tuple(found.shape)}" if isinstance(found, Tensor) else kind_of(found)
        )
        raise TaskError(
            "the encoder is to return the features of one record, floating point of shape (1, ...), and returned "
            f"{shape}"
        )
    features: NDArray[np.float32] = found[0].to(torch.float32).cpu().numpy()
    if features.size == 0 or not np.isfinite(features).all():
        raise TaskError("the encoder returns features that are not finite, or none at all")
    return features
