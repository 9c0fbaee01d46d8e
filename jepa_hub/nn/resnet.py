"""Residual networks of PAWS and SuNCEt, and the heads on them. Names of layers are torchvision's and upstream's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_hub.nn.positions import Grid


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut. Source: arXiv:1512.03385, fig. 5 left."""

    expansion: ClassVar[int] = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, width, ceil(H / stride), ceil(W / stride)]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which strides) and 1 x 1 convolutions and a shortcut. Source: arXiv:1512.03385, fig. 5 right."""

    expansion: ClassVar[int] = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _downsample(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, 4 * width, ceil(H / stride), ceil(W / stride)]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class WideBlock(nn.Module):
    """Norm and activation before each convolution; the convolutions have biases. Source: arXiv:1605.07146."""

    expansion: ClassVar[int] = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1)  # Upstream: the second one strides
        plain = stride == 1 and channels == width
        self.shortcut = nn.Sequential() if plain else nn.Sequential(nn.Conv2d(channels, width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, width, ceil(H / stride), ceil(W / stride)]."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + self.shortcut(x)


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck] | type[WideBlock]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "wide": WideBlock,
}
STEMS = ("imagenet", "small")


def _downsample(channels: int, width: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class ResNet(nn.Module):
    """A residual network whose last map is read as tokens.

    Args:
        block: "basic", "bottleneck" or "wide" (norms before convolutions, a norm at the end, no norm after the stem).
        depths: blocks of each stage; every stage but the first halves the map.
        base_width: channels of the first stage inside its blocks; each stage doubles them.
        stem: "imagenet" (7 x 7 of stride 2, then max pooling) or "small" (3 x 3 of stride 1).
        stem_width: channels of the stem; those of the first stage by default, 16 in wide networks.
        num_channels: of the pixels.
    """

    def __init__(
        self,
        block: str,
        depths: Sequence[int],
        base_width: int,
        *,
        stem: str = "imagenet",
        stem_width: int | None = None,
        num_channels: int = 3,
    ) -> None:
        super().__init__()
        kind = BLOCKS[block]
        self.wide, self.large_stem = block == "wide", stem == "imagenet"
        channels = stem_width or (16 if self.wide else base_width)
        kernel, stride = (7, 2) if self.large_stem else (3, 1)
        self.conv1 = nn.Conv2d(num_channels, channels, kernel, stride, kernel // 2, bias=self.wide)
        if not self.wide:
            self.bn1 = nn.BatchNorm2d(channels)
        self.num_stages = len(depths)
        for stage, depth in enumerate(depths):
            width = base_width * 2**stage
            blocks: list[nn.Module] = []
            for index in range(depth):
                blocks.append(kind(channels, width, 2 if stage and not index else 1))
                channels = width * kind.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        if self.wide:
            self.bn1 = nn.BatchNorm2d(channels, momentum=0.99)  # Upstream: running statistics are the last batch's
        self.width = channels
        self.stride = (4 if self.large_stem else 1) * 2 ** (self.num_stages - 1)

    def grid(self, pixels: Tensor) -> Grid:
        """(1, h, w) of the last map; any height and width will do, the edges are padded.

        Args:
            pixels: [B, C, 1, H, W].

        Raises:
            ValueError: another layout, other channels, or more than one frame.
        """
        channels = self.conv1.in_channels
        if pixels.ndim != 5 or pixels.shape[1] != channels:
            hint = ""
            if pixels.ndim == 5 and pixels.shape[2] == channels:
                hint = "; frames come after channels here: pixels.permute(0, 2, 1, 3, 4)"
            raise ValueError(
                f"pixels must be [B, {channels}, H, W] with {channels} channels, got {tuple(pixels.shape)}{hint}"
            )
        if pixels.shape[2] != 1:
            raise ValueError(
                f"this is an image model and the input has {pixels.shape[2]} frames: encode them one by one, "
                "pixels.transpose(1, 2).flatten(0, 1)"
            )
        return 1, -(-pixels.shape[3] // self.stride), -(-pixels.shape[4] // self.stride)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The last map [B, D, h, w] of pixels [B, C, H, W]."""
        x = self.conv1(pixels.to(self.conv1.weight.dtype))
        if not self.wide:
            x = F.relu(self.bn1(x))
        if self.large_stem:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return F.relu(self.bn1(x)) if self.wide else x

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens [B, h*w, D], the places of the last map, row by row.

        Args:
            pixels: [B, C, 1, H, W].
            keep: for encoders of tokens; a convolution sees all of a picture.

        Raises:
            ValueError: `keep` is given, or the layout is wrong.
        """
        if keep is not None:
            raise ValueError("a ResNet encodes whole pictures: it has no tokens that could be left out")
        self.grid(pixels)
        return self.feature_map(pixels[:, :, 0]).flatten(2).transpose(1, 2)  # [B, h*w, D]

    def pooled(self, pixels: Tensor) -> Tensor:
        """The mean of the last map [B, D]; pixels [B, C, 1, H, W]."""
        self.grid(pixels)
        return self.feature_map(pixels[:, :, 0]).mean(dim=(2, 3))  # [B, D]

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> NoReturn:
        """Refused: the stages of a ResNet have maps of different sizes."""
        raise ValueError("a ResNet has no blocks of equal grid: encode() without layers= gives its last map")


class ProjectionHead(nn.Module):
    """Pooled features to embeddings h: three linear layers with batch norm, or two without.

    Source: arXiv:2104.13963, sec. 4 and upstream's code; two layers: arXiv:2006.10803's runs.

    Args:
        input_size, hidden_size, output_size: D, and of the layers.
        num_layers: 3 or 2.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, *, num_layers: int = 3) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.fc1 = nn.Linear(input_size, hidden_size)
        if num_layers == 2:
            self.fc2 = nn.Linear(hidden_size, output_size)
            return
        self.bn1 = nn.BatchNorm1d(hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)
        self.bn2 = nn.BatchNorm1d(hidden_size)
        self.fc3 = nn.Linear(hidden_size, output_size)

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, D] -> [B, E]."""
        if self.num_layers == 2:
            return self.fc2(F.relu(self.fc1(pooled)))
        hidden = F.relu(self.bn1(self.fc1(pooled)))
        return self.fc3(F.relu(self.bn2(self.fc2(hidden))))  # [B, E]


class PredictionHead(nn.Module):
    """Embeddings h to z of the same size, through a quarter of it. Source: arXiv:2104.13963, sec. 4."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm1d(size)
        self.fc1 = nn.Linear(size, size // 4)
        self.bn2 = nn.BatchNorm1d(size // 4)
        self.fc2 = nn.Linear(size // 4, size)

    def forward(self, embedded: Tensor) -> Tensor:
        """[B, E] -> [B, E]."""
        return self.fc2(F.relu(self.bn2(self.fc1(self.bn1(embedded)))))


class Classifier(nn.Module):
    """The first layer of the projection head, kept, and a linear layer of classes: upstream's fine-tuned models."""

    def __init__(self, input_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size)
        self.bn1 = nn.BatchNorm1d(hidden_size)
        self.fc2 = nn.Linear(hidden_size, num_classes)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits [B, classes] of pooled features [B, D]."""
        return self.fc2(F.relu(self.bn1(self.fc1(pooled))))


def soft_neighbours(queries: Tensor, supports: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Class probabilities [Q, K]: a softmax over the cosines with the supports, summed by label; float32 or 64.

    Args:
        queries: embeddings [Q, E] of any length.
        supports: embeddings [S, E].
        labels: [S, K], each row sums to 1 (one-hot, or smoothed).
        temperature: of the softmax.

    Raises:
        ValueError: the shapes do not fit.

    Source: arXiv:2104.13963, eq. 1.
    """
    if queries.shape[-1] != supports.shape[-1] or supports.shape[0] != labels.shape[0]:
        raise ValueError(
            f"queries {tuple(queries.shape)}, supports {tuple(supports.shape)} and labels {tuple(labels.shape)} do "
            "not fit: expected [Q, E], [S, E] and [S, K]"
        )
    if queries.dtype != torch.float64:
        queries, supports = queries.float(), supports.float()  # cosines over 0.1 in half precision lose digits
    cosines = F.normalize(queries, dim=-1) @ F.normalize(supports, dim=-1).T  # [Q, S]
    return (cosines / temperature).softmax(dim=-1) @ labels.to(cosines.dtype)  # [Q, K]
