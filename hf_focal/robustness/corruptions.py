# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Corruptions of images at five severities, with the parameters of CIFAR-10-C (Hendrycks and Dietterich, 2019)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from copy import copy
from io import BytesIO
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ..names import suggestion
from ..tasks.pictures import to_rgb


SEVERITIES = (1, 2, 3, 4, 5)


def _brightness(pixels: NDArray[np.float64], added: float, generator: Generator) -> NDArray[np.float64]:
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    if pixels.shape[-1] == 1:  # grey, which is its value
        return pixels + added
    hsv = rgb_to_hsv(pixels)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return hsv_to_rgb(hsv)


def _contrast(pixels: NDArray[np.float64], factor: float, generator: Generator) -> NDArray[np.float64]:
    means = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - means) * factor + means


def _jpeg_compression(pixels: NDArray[np.float64], quality: float, generator: Generator) -> NDArray[np.float64]:
    file = BytesIO()
    _to_image(pixels).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file), np.float64).reshape(pixels.shape) / 255


_Function = Callable[[NDArray[np.float64], float, Generator], NDArray[np.float64]]
# Name -> function, and its parameter at each severity as published for images of 32 by 32 pixels in [0, 1].
CORRUPTIONS: dict[str, tuple[_Function, tuple[float, ...]]] = {
    "gaussian_noise": (
        lambda pixels, std, draw: pixels + draw.normal(0, std, pixels.shape),
        (0.04, 0.06, 0.08, 0.09, 0.10),
    ),
    "shot_noise": (lambda pixels, photons, draw: draw.poisson(pixels * photons) / photons, (500, 250, 100, 75, 50)),
    "gaussian_blur": (
        lambda pixels, by, _: gaussian_filter(pixels, (by, by, 0), mode="nearest"),
        (0.4, 0.6, 0.7, 0.8, 1.0),
    ),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "jpeg_compression": (_jpeg_compression, (80, 65, 58, 50, 40)),
}


class ImageCorruption:
    """
    Corrupts the images of a batch as CIFAR-10-C does; for `Dataset.with_transform`, or before an [`ImageTransform`] in
    a `torchvision.transforms.Compose`.

    The published parameters are for images of 32 by 32 pixels; larger ones were given others. Noise is drawn from the
    seed, the severity and the pixels: an image is corrupted alike in any order, batch or subset. The published arrays
    were drawn without a seed, so that noise agrees with them in distribution only.

    Args:
        name (`str`): `"gaussian_noise"`, `"shot_noise"`, `"gaussian_blur"`, `"brightness"`, `"contrast"` or
            `"jpeg_compression"`.
        severity (`int`):
            From 1 to 5. Gaussian noise has standard deviations of 0.04, 0.06, 0.08, 0.09 and 0.10 on pixels in [0, 1].
        seed (`int`, *optional*, defaults to `0`): Another seed draws other noise; at least 0.

    Raises:
        ValueError: If the name is unknown, the severity is not one of the five, or the seed is negative.
    """

    def __init__(self, name: str, severity: int, seed: int = 0) -> None:
        if name not in CORRUPTIONS:
            near = suggestion(name, CORRUPTIONS)
            raise ValueError(f"Unknown corruption {name!r}.{near} Known: {', '.join(CORRUPTIONS)}.")
        if severity not in SEVERITIES:
            raise ValueError(f"severity must be a whole number from 1 to 5, got {severity!r}.")
        np.random.SeedSequence(seed)  # refuses what is no seed
        self.name, self.severity, self.seed, self.mode = name, int(severity), seed, "RGB"

    def of_mode(self, mode: str) -> ImageCorruption:
        """The same corruption, of images that are `"RGB"` or, for models of one channel, `"L"`."""
        other = copy(self)
        other.mode = mode
        return other

    def corrupt(self, image: Image.Image) -> Image.Image:
        """One corrupted image, RGB (see [`ImageTransform`]) unless [`of_mode`] says so, and of the same size."""
        pixels = np.asarray(to_rgb(image).convert(self.mode))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        digest = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest(), "big")
        function, parameters = CORRUPTIONS[self.name]
        generator = np.random.default_rng([self.seed, self.severity, digest])
        return _to_image(function(pixels / 255.0, parameters[self.severity - 1], generator))

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        return {**batch, "image": [self.corrupt(image) for image in batch["image"]]}


def _to_image(pixels: NDArray[np.float64]) -> Image.Image:
    """Clipped to [0, 1] and cut down to whole numbers, not rounded, as published."""
    levels = (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
