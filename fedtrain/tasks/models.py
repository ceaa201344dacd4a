"""The models that a configuration can name.

Each works in every privacy mode: no batch statistics, no in-place operations (the hooks that collect per-sample
gradients need the values that these overwrite), and an empty batch passes through, which Poisson sampling can draw.
Weights are PyTorch's default initialisation, drawn from torch's global generator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from fedtrain.config.sections import ADAPTED
from fedtrain.data.types import DataInfo, Tokens
from fedtrain.errors import TaskError
from fedtrain.tasks.base import unknown
from fedtrain.tasks.language_models import LANGUAGE_MODELS
from fedtrain.tasks.text_models import TEXT_MODELS

Shape = tuple[int, ...]

_GROUPS = 8
_IMAGE = 3  # dimensions of an image, and of the maps of an encoder


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a model, and what it fits.

    Attributes:
        build: makes a fresh model from the shape of a record and the number of classes.
        smallest: the least height and width of an image in pixels.
        table: whether it also takes records of any other shape: rows of a table, and what encoders return.
    """

    build: Callable[[Shape, int], nn.Module]
    smallest: int = 1
    table: bool = False

    def fits(self, info: DataInfo) -> bool:
        """Say whether it takes records of a schema."""
        if info.kind == "tokens":
            return False
        if info.kind == "table" or len(info.shape) != _IMAGE:
            return self.table
        return min(info.shape[1:]) >= self.smallest


def cnn_cifar(shape: Shape, classes: int) -> nn.Module:
    """Return the CNN of the Keras tutorial on CIFAR-10: 122,570 parameters for 3x32x32 and 10 classes.

    Source: https://www.tensorflow.org/tutorials/images/cnn. Its convolutions take no padding.
    """
    channels, height, width = shape
    pixels = math.prod(((side - 2) // 2 - 2) // 2 - 2 for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, kernel_size=3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * pixels, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def cnn_small(shape: Shape, classes: int) -> nn.Module:
    """Return a CNN for images of 8x8 pixels and more: 9,930 parameters for one channel and 10 classes.

    The second pool averages to 4x4 whatever the size of the image, so that the number of parameters, and with it the
    norm of the noise of private training, does not grow with the image.
    """
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, classes),
    )


def resnet_gn(shape: Shape, classes: int) -> nn.Module:
    """Return the ResNet-20 with group normalisation: 269,722 parameters for three channels and 10 classes."""
    return ResNet20(channels=shape[0], classes=classes)


def mlp(shape: Shape, classes: int) -> nn.Module:
    """Return a perceptron with one hidden layer of 64 units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 64), nn.ReLU(), nn.Linear(64, classes))


def linear(shape: Shape, classes: int) -> nn.Module:
    """Return multinomial logistic regression: few parameters, for small images or tables under strong privacy."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def linear_no_bias(shape: Shape, classes: int) -> nn.Module:
    """Return a linear model without constants, for features of norm 1 and mean near 0, as encoders give them.

    A constant is a feature of norm 1 that all records have in common: half of each clipped gradient would go into it,
    and a learning rate that suits the features would be far too high for it.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes, bias=False))


class Block(nn.Module):
    """Two 3x3 convolutions and the identity around them.

    Where the block halves the image and doubles the channels, the identity takes every second pixel and fills the new
    channels with zeros, so that it has no parameters (He et al., option A).
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = width - channels
        self.conv1 = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(_GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(_GROUPS, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, channels, h, w) to (n, width, ceil(h / stride), ceil(w / stride))."""
        residual = functional.relu(self.norm1(self.conv1(inputs)))
        residual = self.norm2(self.conv2(residual))
        identity = inputs[:, :, :: self.stride, :: self.stride]
        identity = functional.pad(identity, (0, 0, 0, 0, 0, self.added))
        return functional.relu(residual + identity)


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR with group instead of batch normalisation.

    The shape is that of He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2: one 3x3
    convolution, three stages of three blocks with 16, 32 and 64 channels, global average pooling, one dense layer. It
    is chosen over the larger ResNet-18, which was made for images of 224 pixels, because both the noise of private
    training and the size of an update grow with the number of parameters: 0.27 million here, 11 million there.
    Group normalisation (Wu & He 2018) uses one record at a time, as record privacy needs; 8 groups divide all three
    widths. Weights keep PyTorch's default initialisation, not that of the paper.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, kernel_size=3, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, 16)
        self.stage1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.stage2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.stage3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.dense = nn.Linear(64, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to logits (n, classes)."""
        hidden = functional.relu(self.norm(self.conv(inputs)))
        hidden = self.stage3(self.stage2(self.stage1(hidden)))
        logits: Tensor = self.dense(hidden.mean(dim=(2, 3)))
        return logits


ARCHITECTURES = {
    "cnn-cifar": Architecture(build=cnn_cifar, smallest=18),
    "resnet-gn": Architecture(build=resnet_gn, smallest=8),
    "cnn-small": Architecture(build=cnn_small, smallest=8),
    "mlp": Architecture(build=mlp, table=True),
    "linear": Architecture(build=linear, table=True),
    "linear-no-bias": Architecture(build=linear_no_bias, table=True),
}


def choose(info: DataInfo) -> str:
    """Return the name of the model to use where the configuration names none.

    Tables: ``mlp``. Features of an encoder: ``linear``. Tokens: ``bag``, and ``lstm`` where they are predicted.
    Spectrograms of sounds: ``cnn-small``. Images by their shorter side: ``cnn-cifar`` from 32 pixels,
    ``cnn-small`` from 8, ``mlp`` below.
    """
    if info.kind == "table":
        return "mlp"
    if info.kind == "encoded":
        return "linear"
    if info.kind == "audio":
        return "cnn-small"
    if info.kind == "tokens":
        return "lstm" if info.target.kind == "text" else "bag"
    side = min(info.shape[1:])
    return next((name for name, least in (("cnn-cifar", 32), ("cnn-small", 8)) if side >= least), "mlp")


def find(name: str, info: DataInfo) -> Callable[[int], nn.Module]:
    """Return what builds the named model for records of a schema, from the numbers that it returns for each.

    Raises:
        TaskError: the model is unknown, or does not fit the records.
    """
    sequences = LANGUAGE_MODELS if info.target.kind == "text" else TEXT_MODELS
    if isinstance(info.features, Tokens) and name in sequences:
        return partial(sequences[name], info.features)
    fits = [known for known, model in ARCHITECTURES.items() if model.fits(info)]
    if info.kind == "tokens":
        fits = [*sequences, *(() if info.target.kind == "text" else ADAPTED)]
    if name not in ARCHITECTURES and name not in _NEEDS:
        raise unknown("task.model", name, fits, " (those that fit the data)")
    if name not in fits:
        needs = _NEEDS[name] if name in _NEEDS else _needs(ARCHITECTURES[name])
        size = "x".join(str(side) for side in info.shape)
        allowed = ", ".join(f'"{fit}"' for fit in fits)
        raise TaskError(
            f'task.model = "{name}" takes {needs}, and this data set holds {info.kind} records of shape {size}; '
            f"models that fit it: {allowed}."
        )
    return partial(ARCHITECTURES[name].build, info.shape)


_NEEDS = {
    **dict.fromkeys(TEXT_MODELS, "tokens of a text"),
    **dict.fromkeys(LANGUAGE_MODELS, 'tokens of a text with data.target = "text"'),
}


def _needs(model: Architecture) -> str:
    side = model.smallest
    return "numbers" if model.table else f"images of at least {side}x{side} pixels"
