# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Augmentations of timm by name: what timm's own transform gives, from one generator, under any image processor."""

import random

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from timm.data import create_transform
from torch.utils.data import DataLoader
from transformers import MobileViTImageProcessor, ViTImageProcessor

from hf_focal import ImageTransform, create_image_classifier, create_image_inputs
from hf_focal.tasks.timm_augmentation import EXAMPLE


def pictures(count=8, size=(48, 40)):
    pixels = np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3)).astype(np.uint8)
    return [PILImage.fromarray(image) for image in pixels]


@pytest.fixture(scope="module")
def processor():
    return create_image_classifier("test_resnet", ["a", "b"], from_scratch=True, image_size=32)[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (EXAMPLE, {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"}),
        ("timm:", {"re_prob": 0.25, "re_mode": "pixel"}),
        (
            "timm:augmix-m4, re_prob=1, re_mode=const, re_count=2, scale=(0.5, 1), vflip=0.5, interpolation=bicubic",
            {"auto_augment": "augmix-m4", "re_prob": 1, "re_count": 2, "scale": (0.5, 1), "vflip": 0.5,
             "interpolation": "bicubic"},
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_inputs_are_what_timms_own_transform_gives_from_the_same_numbers(processor, name, options, kind):
    mean, std = (processor.data_config[key] for key in ("mean", "std"))
    if kind == "transformers":
        mean, std = [0.1, 0.5, 0.6], [0.2, 0.3, 0.4]
        processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=mean, image_std=std)
    images = pictures()
    pixels = ImageTransform(processor, name).inputs(images, np.random.default_rng(3))
    options = {"interpolation": "random", **options}
    reference = create_transform(32, is_training=True, mean=mean, std=std, **options)
    generator = np.random.default_rng(3)
    for found, image in zip(pixels, images, strict=True):
        seed = int(generator.integers(2**32))
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        torch.testing.assert_close(found, reference(image), rtol=0, atol=1e-5)


def test_the_generators_of_python_numpy_and_torch_stay_where_they_were(processor):
    transform = ImageTransform(processor, EXAMPLE)
    drawn = []
    for augment in (False, True):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        if augment:
            transform.inputs(pictures(), np.random.default_rng(0))
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


def test_training_alone_is_augmented_from_whole_images_and_the_same_with_workers(processor):
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict({"image": pictures(), "label": [0, 1] * 4}, features=features)
    inputs = create_image_inputs({"train": data, "test": data}, processor, "timm:re_prob=0,color_jitter=0", seed=5)
    (first,), (again,), (plain,) = (
        DataLoader(inputs[split], 8, collate_fn=list, num_workers=workers)
        for split, workers in (("train", 0), ("train", 1), ("test", 0))
    )
    expected = processor(pictures(), return_tensors="pt")["pixel_values"]
    for one, same, other, image in zip(first, again, plain, expected, strict=True):
        assert torch.equal(one["pixel_values"], same["pixel_values"])
        torch.testing.assert_close(other["pixel_values"], image, rtol=0, atol=1e-5)
        assert (one["pixel_values"] - image).abs().mean() > 0.1


def test_grey_images_stay_grey():
    model, processor = create_image_classifier("vit_tiny_patch16_224", ["a", "b"], from_scratch=True, image_size=32)
    processor.data_config |= {"mean": [0.4], "std": [0.2]}
    grey = create_transform(input_size=(1, 32, 32), mean=[0.4], std=[0.2], crop_pct=1.0)
    processor.val_transforms = grey
    pixels = ImageTransform(processor, "timm:rand-m9-n4-inc1-p1").inputs(pictures(), np.random.default_rng(0))
    assert pixels.shape == (8, 1, 32, 32)
    levels = pixels[(pixels >= -2.001) & (pixels <= 3.001)] * 0.2 * 255 + 0.4 * 255  # what is erased may lie outside
    assert (levels - levels.round()).abs().lt(1e-3).float().mean() > 0.8


def test_images_of_which_no_bit_is_kept_are_black(processor):
    """Magnitude 10 keeps none, which Pillow 13 refuses: one image in some hundreds would end a training."""
    transform = ImageTransform(processor, "timm:rand-m10-inc1-p1-n9,re_prob=0")
    pixels = transform.inputs(pictures(60), np.random.default_rng(0))
    black = (pixels - transform.offset).abs().amax((1, 2, 3)) < 1e-5
    assert 0 < black.sum() < 60


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:ran-m9", "timm has no policy 'ran'. Did you mean 'rand'"),
        ("timm:rand-m9-foo", "'foo' is no part of a policy 'rand'"),
        ("timm:rand-m9.5", "cannot make.*9.5"),
        ("timm:rand-m9,reprob=1", "takes no 'reprob'. Did you mean 're_prob'"),
        ("timm:rand-m9,re_prob", "has no value"),
        ("timm:re_prob=2", r"re_prob must be a chance in \[0, 1\], got '2'"),
        ("timm:scale=(0.3", "scale must be a number, or some in brackets"),
        ("timm:re_mode=x", "cannot make"),
        ("rand-m9", "none, crop, crop-flip, or timm: and a policy"),
    ],
)
def test_what_timm_does_not_have_is_refused_by_name(processor, name, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform(processor, name)


def test_padding_and_processors_that_change_colours_are_refused(processor):
    with pytest.raises(ValueError, match="padding is for crop"):
        ImageTransform(processor, "timm:", padding=4)
    flipped = MobileViTImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with pytest.raises(ValueError, match="MobileViTImageProcessor.* does more to colours"):
        ImageTransform(flipped, EXAMPLE)
