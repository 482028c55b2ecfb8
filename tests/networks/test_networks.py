# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The networks of the paper: size, structure as written out in plain PyTorch, first weights, use."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import AutoModelForImageClassification, pipeline

from hf_focal import CalibrationTrainer, create_image_classifier, fold_temperature
from hf_focal.networks import ARCHITECTURES


# Of the published code, with 10 classes (200 of Tiny-ImageNet), and of He et al. (2016) for the two small ones.
PARAMETERS = {
    "cifar_resnet8": 78_042, "cifar_resnet20": 272_474, "cifar_resnet50": 23_520_842, "cifar_resnet110": 45_864_522,
    "cifar_wide_resnet26_10": 36_481_434, "cifar_densenet121": 6_956_298, "tiny_imagenet_resnet50": 25_138_952,
}  # fmt: skip
FEATURES = {
    "cifar_resnet8": (64, 8), "cifar_resnet20": (64, 8), "cifar_resnet50": (2048, 4), "cifar_resnet110": (2048, 4),
    "cifar_wide_resnet26_10": (640, 8), "cifar_densenet121": (1024, 4), "tiny_imagenet_resnet50": (2048, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_are_registered_with_timm_and_have_the_published_size(name):
    model = timm.create_model(name).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    size = model.default_cfg["input_size"][-1]
    channels, width = FEATURES[name]
    with torch.no_grad():
        features = model.forward_features(torch.randn(1, 3, size, size))
        assert features.shape == (1, channels, width, width)
        assert model.forward_head(features).shape == (1, model.num_classes)
        assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    model.reset_classifier(3)
    assert model.get_classifier().out_features == 3 and model.num_classes == 3


# ---- Structure: the same networks in plain PyTorch, which take the weights in the order of their definition ---------


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class PlainBlock(nn.Module):
    """Convolution, normalisation, activation, convolution, normalisation; added to the shortcut, then activated."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first, self.second = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.third, self.fourth = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.second(self.first(x)))
        y = self.fourth(self.third(y))
        return F.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


def plain_wide_resnet(width=10, classes=10):
    layers, inputs = [conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        for index in range(4):
            layers.append(PlainBlock(inputs, outputs, stride if index == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(inputs, classes))


class PlainDenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(inputs), conv(inputs, 4 * growth, 1)
        self.third, self.fourth = nn.BatchNorm2d(4 * growth), conv(4 * growth, growth, 3)

    def forward(self, x):
        y = self.second(F.relu(self.first(x)))
        return torch.cat([x, self.fourth(F.relu(self.third(y)))], dim=1)


def plain_densenet(growth=32, classes=10):
    channels = 2 * growth
    layers = [conv(3, channels, 3)]
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            layers.append(PlainDenseLayer(channels, growth))
            channels += growth
        if stage < 3:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


class PlainBottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.first, self.second = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.third, self.fourth = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.fifth, self.sixth = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        if stride > 1 or inputs != 4 * width:
            self.shortcut = nn.Sequential(conv(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = F.relu(self.second(self.first(x)))
        y = self.sixth(self.fifth(F.relu(self.fourth(self.third(y)))))
        return F.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


def plain_tiny_imagenet_resnet(classes=200):
    layers, inputs = [conv(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU()], 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            layers.append(PlainBottleneck(inputs, width, stride if index == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4 * inputs, classes))


@pytest.mark.parametrize(
    ("name", "plain", "size"),
    [
        ("cifar_wide_resnet26_10", plain_wide_resnet, 32),
        ("cifar_densenet121", plain_densenet, 32),
        ("tiny_imagenet_resnet50", plain_tiny_imagenet_resnet, 64),
    ],
)
def test_a_network_is_the_published_one(name, plain, size):
    """Logits and batch statistics agree with the same weights in both. (DenseNet up to the order of its channels.)"""
    ours, theirs = timm.create_model(name), plain()
    state = list(ours.state_dict().values())
    assert [value.shape for value in state] == [value.shape for value in theirs.state_dict().values()]
    generator = torch.Generator().manual_seed(0)
    for value in state:  # no normalisation may stay the identity
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state, strict=True)))
    images = torch.randn(2, 3, size, size, generator=generator)
    for training in (True, False):
        with torch.no_grad():
            found, expected = ours.train(training)(images), theirs.train(training)(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# ---- First weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_residual_branch_starts_at_zero(name):
    """`zero_init_last` is off, as in the published code: every normalisation starts at weight 1 and bias 0. (timm's
    own ResNets start the last one of each block at 0.)"""
    for module in timm.create_model(name).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    blocks = [module for module in timm.create_model("resnet18").modules() if hasattr(module, "zero_init_last")]
    assert all((block.bn2.weight == 0).all() for block in blocks)


@pytest.mark.parametrize("name", ["cifar_resnet50", "cifar_resnet110", "cifar_densenet121"])
def test_weights_start_from_the_default_initialisation_of_pytorch(name):
    """Uniform within 1 / sqrt(fan in): the bound and the standard deviation of every layer."""
    torch.manual_seed(0)
    for module in timm.create_model(name).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            if module.bias is not None:
                assert 0 < module.bias.abs().max() <= bound


@pytest.mark.parametrize("name", ["cifar_wide_resnet26_10", "tiny_imagenet_resnet50"])
def test_convolutions_that_the_release_draws_itself_start_normal_with_variance_by_fan_out(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels))
            assert module.weight.std().item() == pytest.approx(std, rel=0.1)
            assert module.weight.abs().max() > 2.5 * std  # a uniform one ends at 1.73
    bound = 1 / math.sqrt(model.fc.in_features)  # the linear layer starts as PyTorch has it
    assert 0.9 * bound < model.fc.weight.abs().max() <= bound


# ---- Use ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar_wide_resnet26_10", "cifar_densenet121", "tiny_imagenet_resnet50"])
def test_a_network_is_saved_loaded_folded_and_served_like_any_other(name, tmp_path):
    torch.manual_seed(0)
    model, processor = create_image_classifier(name, ["a", "b", "c"], from_scratch=True)
    size = 64 if name.startswith("tiny") else 32
    assert processor.data_config["input_size"] == (3, size, size)
    image = Image.effect_noise((size, size), 80).convert("RGB")
    inputs = processor(image, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        logits = model(**inputs).logits
    fold_temperature(model, 2.0)
    CalibrationTrainer(model=model, processing_class=processor).save_model(str(tmp_path))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, logits / 2, rtol=1e-5, atol=1e-6)
    scores = {row["label"]: row["score"] for row in pipeline("image-classification", model=str(tmp_path))(image)}
    expected = (logits[0] / 2).softmax(-1)
    assert [scores[label] for label in "abc"] == pytest.approx(expected.tolist(), abs=1e-5)
