# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Networks for images of 32 or 64 pixels, built of timm's blocks: a 3x3 stem of stride 1 and no max-pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d, create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseNet
from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv
from torch import Tensor, nn


class CifarResNet(nn.Module):
    """
    A ResNet of `depths` and `widths` a stage, whose weights, unlike those of timm's, start as PyTorch has them; with
    `he_start` those of the convolutions are drawn from N(0, 2 / (k k out)) instead, as He et al. (2015) have it.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        stem_width: int | None = None,
        pool_size: int = 1,
        he_start: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.num_features = widths[-1] * block.expansion
        self.head_hidden_size = self.num_features * pool_size**2
        self.pool_size = pool_size
        channels = stem_width or widths[0]
        self.conv1 = nn.Conv2d(in_chans, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.layers = nn.Sequential()
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks, outputs = nn.Sequential(), width * block.expansion
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                same = stride == 1 and channels == outputs
                shortcut = None if same else downsample_conv(channels, outputs, kernel_size=1, stride=stride)
                blocks.append(block(channels, width, stride, shortcut))
                channels = outputs
            self.layers.append(blocks)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules() if he_start else ():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        self.num_classes = num_classes
        _, self.fc = create_classifier(self.head_hidden_size, num_classes, pool_type=global_pool)
        self.global_pool = SelectAdaptivePool2d(self.pool_size, global_pool, flatten=True)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layers(self.act1(self.bn1(self.conv1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class CifarWideResNet(CifarResNet):
    """That of the paper's published code: unlike Zagoruyko and Komodakis (2016), blocks of an ordinary ResNet."""

    def __init__(self, depth: int, width: int, **kwargs: Any) -> None:
        widths = (16 * width, 32 * width, 64 * width)
        super().__init__(BasicBlock, ((depth - 2) // 6,) * 3, widths, stem_width=16, he_start=True, **kwargs)


class CifarDenseNet(DenseNet):
    """timm's DenseNet behind a plain 3x3 convolution. Weights start as PyTorch initialises them, not as timm does."""

    def __init__(self, in_chans: int = 3, growth_rate: int = 32, num_classes: int = 10, **kwargs: Any) -> None:
        super().__init__(growth_rate=growth_rate, num_classes=num_classes, in_chans=in_chans, **kwargs)
        self.features.conv0 = nn.Conv2d(in_chans, 2 * growth_rate, 3, padding=1, bias=False)
        self.features.norm0 = nn.Identity()
        self.features.pool0 = nn.Identity()
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()


BASIC: dict[str, Any] = {"block": BasicBlock, "widths": (16, 32, 64)}
BOTTLENECK: dict[str, Any] = {"block": Bottleneck, "widths": (64, 128, 256, 512)}
# Of each network its class, its layout, and what timm is to know of it beyond _CIFAR.
_NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any], dict[str, Any]]] = {
    # The 6n + 2 networks of He et al. (2016) with n = 1 and n = 3, and 1x1 convolutions as shortcuts.
    "cifar_resnet8": (CifarResNet, {**BASIC, "depths": (1, 1, 1)}, {}),
    "cifar_resnet20": (CifarResNet, {**BASIC, "depths": (3, 3, 3)}, {}),
    # Of the paper (Mukhoti et al., 2020, Section 5); its published code calls the second one ResNet-110.
    "cifar_resnet50": (CifarResNet, {**BOTTLENECK, "depths": (3, 4, 6, 3)}, {"pool_size": (4, 4)}),
    "cifar_resnet110": (CifarResNet, {**BOTTLENECK, "depths": (3, 4, 26, 3)}, {"pool_size": (4, 4)}),
    "cifar_wide_resnet26_10": (CifarWideResNet, {"depth": 26, "width": 10}, {}),
    "cifar_densenet121": (
        CifarDenseNet,
        {"block_config": (6, 12, 24, 16)},
        {"pool_size": (4, 4), "first_conv": "features.conv0", "classifier": "classifier"},
    ),
    # For images of 64 pixels: the pooling leaves 2 by 2 values of each of 2,048 features. Its convolutions start as
    # the published code draws them.
    "tiny_imagenet_resnet50": (
        CifarResNet,
        {**BOTTLENECK, "depths": (3, 4, 6, 3), "pool_size": 2, "he_start": True, "num_classes": 200},
        {"num_classes": 200, "input_size": (3, 64, 64), "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD},
    ),
}
_CIFAR = {
    "url": "", "num_classes": 10, "input_size": (3, 32, 32), "pool_size": (8, 8), "crop_pct": 1.0,
    "interpolation": "bicubic", "first_conv": "conv1", "classifier": "fc",
    "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010),  # of CIFAR-10, as in the published code
}  # fmt: skip
default_cfgs = generate_default_cfgs({f"{name}.untrained": {**_CIFAR, **cfg} for name, (*_, cfg) in _NETWORKS.items()})


def _register(name: str) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        network, layout, _ = _NETWORKS[name]
        return build_model_with_cfg(network, name, pretrained, **{**layout, **kwargs})

    create.__name__ = create.__qualname__ = name
    register_model(create)


for _name in _NETWORKS:
    _register(_name)
