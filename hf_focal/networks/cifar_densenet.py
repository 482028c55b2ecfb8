# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""DenseNet for images of 32 by 32 pixels: timm's, with a 3x3 stem of stride 1 that neither normalises nor pools."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseNet
from torch import nn

from .cifar_resnet import cifar_cfg


class CifarDenseNet(DenseNet):
    """
    timm's DenseNet behind a plain 3x3 convolution. Weights start as PyTorch initialises them, not as timm does.

    Args:
        in_chans (`int`, *optional*, defaults to `3`):
            Colour channels.
        growth_rate (`int`, *optional*, defaults to `32`):
            Channels that each layer adds; the stem has twice as many.
        num_classes (`int`, *optional*, defaults to `10`):
            Number of classes; 0 leaves the head out.
        kwargs:
            As for `timm.models.DenseNet`.
    """

    def __init__(self, in_chans: int = 3, growth_rate: int = 32, num_classes: int = 10, **kwargs: Any) -> None:
        super().__init__(growth_rate=growth_rate, num_classes=num_classes, in_chans=in_chans, **kwargs)
        self.features.conv0 = nn.Conv2d(in_chans, 2 * growth_rate, 3, padding=1, bias=False)
        self.features.norm0 = nn.Identity()
        self.features.pool0 = nn.Identity()
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()


default_cfgs = generate_default_cfgs(
    {"cifar_densenet121.untrained": cifar_cfg(pool_size=(4, 4), first_conv="features.conv0", classifier="classifier")}
)


@register_model
def cifar_densenet121(pretrained: bool = False, **kwargs: Any) -> CifarDenseNet:
    """DenseNet-121 of the paper: blocks of 6, 12, 24 and 16 layers that each add 32 channels."""
    return build_model_with_cfg(CifarDenseNet, "cifar_densenet121", pretrained, block_config=(6, 12, 24, 16), **kwargs)
