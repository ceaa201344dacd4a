"""The built-in tasks: predict a class, a number or a set of labels, of an image, a sound, a text or a table's row."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.config.sections import ADAPTED, TaskConfig
from fedtrain.data.types import DataInfo, Encoded, Kind, TargetKind
from fedtrain.errors import ConfigError, TaskError
from fedtrain.statistics import parse_scaling
from fedtrain.tasks import adapters, models
from fedtrain.tasks.base import Batch, Metrics, Records, Task
from fedtrain.tasks.metrics import ClassificationMetrics, MultilabelMetrics, RegressionMetrics
from fedtrain.tasks.public import PublicWeights
from fedtrain.tasks.sounds import Spectrograms

PADDING = 4

Encoding = Callable[[Tensor, torch.Generator | None], Tensor]
"""From stored features (n, *shape) to inputs, float32; with a generator for training, without one for evaluation."""


_FITTING = {
    ("image", "class"): "vision",
    ("table", "class"): "tabular",
    ("audio", "class"): "speech",
    ("image", "number"): "regression",
    ("table", "number"): "regression",
    ("audio", "number"): "regression",
    ("image", "labels"): "multilabel",
    ("table", "labels"): "multilabel",
    ("audio", "labels"): "multilabel",
    ("tokens", "class"): "text",
    ("tokens", "number"): "regression",
    ("tokens", "labels"): "multilabel",
    ("tokens", "text"): "language",
    ("text", "class"): "text",
    ("text", "number"): "regression",
    ("text", "labels"): "multilabel",
    ("text", "text"): "language",
    ("encoded", "class"): "vision",
    ("encoded", "number"): "regression",
    ("encoded", "labels"): "multilabel",
    ("encoded", "text"): "language",
}


def fitting(info: DataInfo) -> str:
    """Return the name of the built-in task for records of a schema."""
    return _FITTING[info.kind, info.target.kind]


class Supervised(Task):
    """Encoding and model of a built-in task; a subclass says what it predicts.

    A batch has ``inputs``, float32, or int64 where they are tokens, and ``targets``, as stored.

    Attributes:
        inputs: the schema of the inputs of a record.

    Raises:
        TaskError: the features or the target are of another kind, or do not fit the model.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "table", "audio", "tokens")
    target: ClassVar[TargetKind]

    def __init__(self, config: TaskConfig, info: DataInfo) -> None:
        if info.kind == "text":
            raise TaskError(
                f'task.name = "{config.name}" has no model of a text as it is stored; set task.encoder to "minilm", '
                '"words" or "bytes", or to the file of a tokenizer'
            )
        # Of what kind encoded records were nothing says, and any task takes them.
        if info.kind not in (*self.kinds, "encoded") or info.target.kind != self.target:
            raise TaskError(
                f'task.name = "{config.name}" takes data of kind "{" or ".join(self.kinds)}" with a '
                f'{_WORDS[self.target]} as target, and this data set is of kind "{info.kind}" with a '
                f'{_WORDS[info.target.kind]} as target; set task.name = "{fitting(info)}", or use another data set '
                f"(data.target says what is read as target)."
            )
        if config.augment and info.kind not in {"image", "audio"}:
            kind = "a table" if info.kind == "table" else info.kind
            raise TaskError(
                f'task.augment = true is for images and sounds, and task.name = "{config.name}" has no augmentation of '
                f"{kind}; unset it."
            )
        self.info = self.inputs = info
        self._encode: Encoding = encode_tokens if info.kind == "tokens" else encode_columns
        if info.kind == "image":
            self._encode = augment_pixels if config.augment else encode_pixels
        elif info.kind == "audio":
            self._encode = spectrograms = Spectrograms(info, augment=config.augment)
            self.inputs = replace(info, features=Encoded(shape=spectrograms.shape))
        if config.scaling is not None:
            self._encode = _standardising(config.scaling, info)
        name = models.choose(info) if config.model is None else config.model
        self._build = adapters.adapted(config, info) if name in ADAPTED else models.find(name, self.inputs)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers the model returns for a record, or at each place of a sequence."""

    @property
    def returned(self) -> tuple[int, ...]:
        """The shape of what the model returns for a record."""
        return (self.outputs,)

    def model(self) -> nn.Module:
        """Build a model with fresh weights, drawn from torch's global generator. It returns ``outputs`` numbers."""
        return self._build(self.outputs)

    def public_weights(self, model: nn.Module) -> PublicWeights | None:
        """Return where the frozen weights of a model with adapters come from."""
        return adapters.public_weights(model)

    def collate(self, records: Records, generator: torch.Generator | None) -> Batch:
        """Return the encoded features as ``inputs``, and ``targets``."""
        return {"inputs": self._encode(records.features, generator), "targets": records.targets}


class Classification(Supervised):
    """Puts a record into one of the classes: the model returns logits.

    Raises:
        TaskError: as `Supervised`, or there are fewer than two classes.
    """

    target = "class"

    def __init__(self, config: TaskConfig, info: DataInfo) -> None:
        super().__init__(config, info)
        if len(info.classes) < 2:  # noqa: PLR2004 -- fewer cannot be told apart
            raise TaskError(
                f'task.name = "{config.name}" needs at least 2 classes, and the data set has {len(info.classes)}; '
                "check data.label_column."
            )

    @property
    def outputs(self) -> int:
        """A logit for each class."""
        return len(self.info.classes)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the cross entropy of each record in nats, shape (n,)."""
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self) -> Metrics:
        """Return fresh `ClassificationMetrics`."""
        return ClassificationMetrics(self.outputs)


class Vision(Classification):
    """Puts images into classes. ``task.model``: every name in ``fedtrain.tasks.models``."""

    kinds = ("image",)


class Speech(Classification):
    """Puts sounds into classes, by their log-mel spectrograms. ``task.model``: a name in ``fedtrain.tasks.models``."""

    kinds = ("audio",)


class TextClassification(Classification):
    """Puts texts into classes, by their tokens.

    ``task.model``: ``bag`` (the default), ``transformer``, or ``minilm-lora`` with the encoder "minilm-tokens".
    """

    kinds = ("tokens",)


class Tabular(Classification):
    """Puts rows of numbers into classes. ``task.model``: ``mlp`` (the default) or ``linear``."""

    kinds = ("table",)


class Regression(Supervised):
    """Predicts a number. The model returns it in the target's unit; nothing is scaled by statistics of the records."""

    target = "number"

    @property
    def outputs(self) -> int:
        """The number."""
        return 1

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the squared error of each record, shape (n,)."""
        return (outputs.squeeze(1) - batch["targets"].to(outputs.dtype)).square()

    def metrics(self) -> Metrics:
        """Return fresh `RegressionMetrics`."""
        return RegressionMetrics()


class Multilabel(Supervised):
    """Gives a record any number of the labels: the model returns a logit for each label.

    Raises:
        TaskError: as `Supervised`, or there is no label.
    """

    target = "labels"

    def __init__(self, config: TaskConfig, info: DataInfo) -> None:
        super().__init__(config, info)
        if not info.classes:
            raise TaskError(
                f'task.name = "{config.name}" needs at least 1 label, and the data set has none; check '
                "data.label_column or data.label_columns."
            )

    @property
    def outputs(self) -> int:
        """A logit for each label."""
        return len(self.info.classes)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the binary cross entropy of each record in nats, the mean over the labels, shape (n,)."""
        targets = batch["targets"].to(outputs.dtype)
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1)

    def metrics(self) -> Metrics:
        """Return fresh `MultilabelMetrics`."""
        return MultilabelMetrics(self.outputs)


_WORDS: dict[TargetKind, str] = {"class": "class", "number": "number", "labels": "set of labels", "text": "text"}


def encode_columns(features: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG001 -- an `Encoding`
    """Return the features of a table or of an encoder, float32 of shape (n, *shape), as they are.

    They are not standardised, because means and deviations are statistics of private records. ``task.scaling`` brings
    columns to similar ranges by constants that are public, or of a private release.
    """
    return features


def encode_tokens(features: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG001 -- an `Encoding`
    """Return tokens, int32 of shape (n, length), as int64."""
    return features.to(torch.int64)


def _standardising(scaling: str, info: DataInfo) -> Encoding:
    """Return an encoding that standardises columns of a table by the constants of the configuration.

    Raises:
        TaskError: the records are no table, or lack a column of that name.
        ConfigError: a scaling is none, or a column has two.
    """
    if info.kind != "table":
        raise TaskError(
            f"task.scaling is for columns of a table, and this data set holds {info.kind} records; unset it"
        )
    scalings = [parse_scaling(text) for text in scaling.split(",")]
    places = {info.feature(at): at for at in range(info.shape[0])}
    if missing := [each.name for each in scalings if each.name not in places]:
        # Without the names that there are: the error reaches the server, and they are the site's.
        raise TaskError(
            f"task.scaling names {', '.join(missing)}, which this data set does not have as a column of numbers; what "
            "a run has is on its screen and in its report (data.features)"
        )
    if len({each.name for each in scalings}) < len(scalings):
        raise ConfigError(f"task.scaling = {scaling!r} names a column twice")
    centres, units = torch.zeros(info.shape), torch.ones(info.shape)
    for each in scalings:
        centres[places[each.name]], units[places[each.name]] = each.centre, each.unit

    def encode(features: Tensor, generator: torch.Generator | None) -> Tensor:
        return (encode_columns(features, generator) - centres.to(features.device)) / units.to(features.device)

    return encode


def encode_pixels(features: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG001 -- an `Encoding`
    """Turn pixels, uint8 of shape (n, channels, height, width), into float32 in [-1, 1] of the same shape.

    Pixels are divided by 127.5 and reduced by 1: constants that everyone knows. The usual means and deviations of
    the training images are statistics of private records, which would be published with the model and which no
    privacy budget pays for.
    """
    return features.to(torch.float32) / 127.5 - 1


def augment_pixels(features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Encode as `encode_pixels`, and with a generator move and mirror each image at random.

    Each image is cropped from itself with a border of 4 zeros, and mirrored left to right with probability 1/2 (He et
    al. 2016, section 4.2). Zero after the normalisation is the middle grey, 127.5, before it. The draws come from the
    generator alone, and are the same for the same state of it, wherever the images are. Mirroring suits photographs;
    it destroys digits and letters.
    """
    images = encode_pixels(features, generator)
    return images if generator is None else _crop_and_mirror(images, generator)


def _crop_and_mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``PADDING`` pixels each way, and mirror half of them."""
    n, channels, height, width = images.shape
    top, left = torch.randint(2 * PADDING + 1, (2, n, 1), generator=generator, device=generator.device)
    mirror = torch.randint(2, (n, 1), generator=generator, device=generator.device) == 1
    across = torch.arange(width, device=generator.device)
    rows = top + torch.arange(height, device=generator.device)
    columns = left + torch.where(mirror, across.flip(0), across)
    # One gather over flattened pixels is two to three times as fast as indexing rows and columns.
    pixels = (rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]).to(images.device)
    padded = functional.pad(images, (PADDING, PADDING, PADDING, PADDING)).flatten(2)
    return padded.gather(2, pixels.flatten(1)[:, None].expand(n, channels, -1)).reshape(images.shape)
