# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Residual networks for images of 32 by 32 pixels, built of timm's blocks: a 3x3 stem of stride 1 and no max-pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv
from torch import Tensor, nn


class CifarResNet(nn.Module):
    """
    A ResNet for small images.

    Args:
        block (`type`):
            `timm.models.resnet.BasicBlock` or `Bottleneck`.
        depths (`Sequence[int]`):
            Blocks per stage; every stage but the first halves the resolution.
        widths (`Sequence[int]`):
            Width of each stage's blocks; the stem has the first.
        num_classes (`int`, *optional*, defaults to `10`):
            Number of classes; 0 leaves the head out.
        in_chans (`int`, *optional*, defaults to `3`):
            Colour channels.
        global_pool (`str`, *optional*, defaults to `"avg"`):
            Pooling before the head.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = widths[-1] * block.expansion
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)
        stages, channels = [], widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                outputs = width * block.expansion
                shortcut = None
                if stride != 1 or channels != outputs:
                    shortcut = downsample_conv(channels, outputs, kernel_size=1, stride=stride)
                blocks.append(block(channels, width, stride, shortcut))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.layers = nn.Sequential(*stages)
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layers(self.act1(self.bn1(self.conv1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        # Of CIFAR-10, as in the paper's published code.
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2023, 0.1994, 0.2010),
        "first_conv": "conv1",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": _cfg() for name in ("cifar_resnet8", "cifar_resnet20", "cifar_resnet50", "cifar_resnet110")}
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, variant, pretrained, **kwargs)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """The 6n + 2 network of He et al. (2016) with n = 1, widths 16-32-64 and 1x1 convolutions as shortcuts."""
    return _create("cifar_resnet8", pretrained, block=BasicBlock, depths=(1, 1, 1), widths=(16, 32, 64), **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """The 6n + 2 network of He et al. (2016) with n = 3, widths 16-32-64 and 1x1 convolutions as shortcuts."""
    return _create("cifar_resnet20", pretrained, block=BasicBlock, depths=(3, 3, 3), widths=(16, 32, 64), **kwargs)


@register_model
def cifar_resnet50(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-50 of the paper: bottleneck blocks 3-4-6-3, widths 64 to 512 (Mukhoti et al., 2020, Section 5)."""
    layout = {"block": Bottleneck, "depths": (3, 4, 6, 3), "widths": (64, 128, 256, 512)}
    return _create("cifar_resnet50", pretrained, **layout, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """What the paper's published code calls ResNet-110: bottleneck blocks 3-4-26-3, widths 64 to 512."""
    layout = {"block": Bottleneck, "depths": (3, 4, 26, 3), "widths": (64, 128, 256, 512)}
    return _create("cifar_resnet110", pretrained, **layout, **kwargs)
