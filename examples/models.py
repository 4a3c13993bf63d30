"""The image classifiers of the studies: logits out, (n, 3, 32, 32) inputs in [0, 1]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


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
