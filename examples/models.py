"""The image classifiers of the studies: logits out, (n, 3, 32, 32) inputs in [0, 1]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

NAMES = (
    "published_cnn",
    "small_cnn",
    "resnet10",
    "resnet18",
    "mobilenet",
    "fastnet",
    "fastnet_quarter",
)


def published_cnn(n_classes: int = 10) -> nn.Module:
    """Build the four-convolution CNN of an FGSM adversarial-training study's published code.

    Maps (n, 3, 32, 32) to (n, n_classes) with 783,370 parameters at ten classes. The study's
    write-up says 2.4 million, which is the size of :func:`small_cnn`.
    """
    return _cnn([64, 128, 128, 256], pooled=4, features=256 * 2 * 2, n_classes=n_classes)


def small_cnn(n_classes: int = 10) -> nn.Module:
    """Build a four-convolution CNN of the size that the same study's write-up reports.

    Maps (n, 3, 32, 32) to (n, n_classes) with 2,340,810 parameters at ten classes, most of them
    between the last feature map, 128 channels of 8 x 8, and the hidden layer.
    """
    return _cnn([32, 64, 128, 128], pooled=2, features=128 * 8 * 8, n_classes=n_classes)


def _cnn(widths: list[int], *, pooled: int, features: int, n_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (channels_in, channels_out) in enumerate(pairwise([3, *widths])):
        layers.append(nn.Conv2d(channels_in, channels_out, 3, padding=1))
        if i < pooled:
            layers.append(nn.MaxPool2d(2))
        layers.append(nn.ReLU())  # After pooling: the same function as before it, at a quarter.
    head = [nn.Flatten(), nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, n_classes)]
    return nn.Sequential(*layers, *head)


def _conv_norm(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv_norm(channels_in, channels_out, 3, stride),
            nn.ReLU(),
            _conv_norm(channels_out, channels_out, 3, 1),
        )
        keeps_shape = stride == 1 and channels_in == channels_out
        self.shortcut = (
            nn.Identity() if keeps_shape else _conv_norm(channels_in, channels_out, 1, stride)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(self.residual(inputs) + self.shortcut(inputs))


def resnet18(n_classes: int = 10) -> nn.Module:
    """Build the CIFAR form of ResNet-18: a 3x3 stem and no pooling before the first stage.

    Maps (n, 3, 32, 32) to (n, n_classes) with 11,173,962 parameters at ten classes.

    Reference:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return _resnet(64, blocks_per_stage=2, n_classes=n_classes)


def resnet10(n_classes: int = 10) -> nn.Module:
    """Build a residual network for processors: one block per stage, a quarter of the width.

    Maps (n, 3, 32, 32) to (n, n_classes) with 308,826 parameters at ten classes; otherwise it is
    :func:`resnet18`.
    """
    return _resnet(16, blocks_per_stage=1, n_classes=n_classes)


def _resnet(channels: int, *, blocks_per_stage: int, n_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = [_conv_norm(3, channels, 3, 1), nn.ReLU()]
    widths = [channels * 2**stage for stage in range(4)]
    for width in widths:
        for _ in range(blocks_per_stage):
            stride = 1 if width == channels else 2
            layers.append(_BasicBlock(channels, width, stride))
            channels = width
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(channels, n_classes))


def mobilenet(n_classes: int = 10) -> nn.Module:
    """Build a small network of depthwise separable convolutions, in the manner of MobileNet.

    Maps (n, 3, 32, 32) to (n, n_classes) with 543,050 parameters at ten classes.

    Reference:
        Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
        Applications", arXiv 1704.04861.
    """
    layers: list[nn.Module] = [_conv_norm(3, 32, 3, 1), nn.ReLU()]
    widths = [32, 64, 128, 128, 256, 256, 512, 512]
    for i, (channels_in, channels_out) in enumerate(pairwise(widths)):
        stride = 2 if i % 2 else 1
        depthwise = nn.Conv2d(
            channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False
        )
        layers += [depthwise, nn.BatchNorm2d(channels_in), nn.ReLU()]
        layers += [_conv_norm(channels_in, channels_out, 1, 1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], n_classes)]
    return nn.Sequential(*layers, *head)


class _Normalise(nn.Module):
    """Subtract the mean of each channel and divide by its standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2470, 0.2435, 0.2616]).view(1, 3, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.std


class _Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:.3g}"


def _pooled_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two 3x3 convolutions, a pooling after the first one, each normalised and GELU."""
    layers = [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(channels_out),
        nn.GELU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.GELU(),
    ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):  # passes its inputs on, beside what it learns
            nn.init.dirac_(layer.weight.data[: layer.in_channels])
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.requires_grad_(False)  # the next convolution has a scale of its own
    return nn.Sequential(*layers)


def fastnet(
    n_classes: int = 10,
    *,
    images: Tensor | None = None,
    widths: tuple[int, int, int] = (64, 256, 256),
) -> nn.Module:
    """Build the network of the CIFAR-10 speed runs, which half an hour of one processor trains.

    Maps (n, 3, 32, 32) to (n, n_classes) with 1,972,792 parameters at ten classes. The first
    convolution whitens patches of 2 x 2 pixels: its weights, and the mean and the deviation that
    come before, are taken from images and stay. That is one of the reasons why it learns so fast.

    Args:
        n_classes: The number of logits.
        images: Training images, (n, 3, 32, 32) uint8, to take the whitening from. Without them the
            first convolution is a random one, for weights to be loaded into.
        widths: The channels of the three blocks.

    Reference:
        Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498.
    """
    normalise, whitening = _Normalise(), nn.Conv2d(3, 24, 2)
    whitening.weight.requires_grad_(False)
    if images is not None:
        pixels = images[:: max(1, len(images) // 5000)].float() / 255
        normalise.mean.copy_(pixels.mean(dim=(0, 2, 3)).view(1, 3, 1, 1))
        normalise.std.copy_(pixels.std(dim=(0, 2, 3)).view(1, 3, 1, 1))
        filters = _whitening(normalise(pixels))
        whitening.weight.data.copy_(torch.cat([filters, -filters]))
        nn.init.zeros_(whitening.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        normalise,
        whitening,
        nn.GELU(),
        *(_pooled_block(*channels) for channels in pairwise([24, *widths])),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(widths[-1], n_classes, bias=False),
        _Scale(1 / 9),
    )


def fastnet_quarter(n_classes: int = 10, *, images: Tensor | None = None) -> nn.Module:
    """Build :func:`fastnet` at a quarter of its width, for studies of many networks.

    Maps (n, 3, 32, 32) to (n, n_classes) with 127,096 parameters at ten classes.
    """
    return fastnet(n_classes, images=images, widths=(16, 64, 64))


def _whitening(inputs: Tensor) -> Tensor:
    """Return the 12 filters of 3 x 2 x 2 whose responses are uncorrelated and of variance one."""
    patches = nn.functional.unfold(inputs, 2).transpose(1, 2).flatten(0, 1)
    variances, directions = torch.linalg.eigh(patches.T.double().cov())
    filters = directions / (variances + 5e-4).sqrt()  # the least of them are noise: held down
    whitening: Tensor = filters.T.reshape(12, 3, 2, 2).float()
    return whitening
