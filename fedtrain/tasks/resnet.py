"""A residual network for small images, normalised over groups of channels."""

from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 8


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
