# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Networks of the paper. Importing this package registers them with timm, so that `timm.create_model` knows them."""

from .cifar_densenet import CifarDenseNet
from .cifar_resnet import CifarResNet, CifarWideResNet


# What a checkpoint needs `import hf_focal.networks` for.
ARCHITECTURES = (
    "cifar_resnet8",
    "cifar_resnet20",
    "cifar_resnet50",
    "cifar_resnet110",
    "cifar_wide_resnet26_10",
    "cifar_densenet121",
    "tiny_imagenet_resnet50",
)

__all__ = ["ARCHITECTURES", "CifarDenseNet", "CifarResNet", "CifarWideResNet"]
