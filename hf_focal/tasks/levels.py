# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What an image processor makes of a picture, as bytes of 256 levels, and inputs of a model from these."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torchvision.transforms import Resize, v2

from .pictures import as_mode, as_planes, decode, planes, to_rgb
from .rows import UNREADABLE


CLOSE = 1e-6  # how far inputs made of bytes may be from the processor's own, relative where these exceed 1
NEAR = 0.3  # levels that a faster way of resizing may be away from the processor's, in the mean, of noise


_Make = Callable[[Any, Any], Tensor]


class Levels:
    """
    The steps of an image processor that come before it normalises, and its normalisation apart from them. That both
    together are the processor is tried on pictures of noise, wide and high, small and large.

    Args:
        processor (`transformers.BaseImageProcessor`): Or whatever is called like one.
        mode (`str`): Pillow's mode of the pictures it is given, `"RGB"` or `"L"`.
        fast (`bool`, *optional*, defaults to `False`): Let torchvision resize, where the processor lets Pillow.

    Attributes:
        shape (`tuple[int, ...]`): Of an input, `(C, H, W)`.
        offset, scale (`torch.Tensor` of shape `(1, C, 1, 1)`): An input is `level * scale + offset`.
        exact (`bool`): Whether bytes lose nothing. Where they do, [`Levels.of`] is of no use.
    """

    def __init__(self, processor: Any, mode: str, fast: bool = False) -> None:
        self.processor, self.mode = processor, mode
        black, white = (self.process(PILImage.new(mode, (64, 64), colour)) for colour in ("black", "white"))
        self.shape = tuple(black.shape)
        centre = black.shape[-2] // 2, black.shape[-1] // 2  # one pixel: the mean of a plane would be rounded
        low, high = (pixels[:, centre[0], centre[1]].double()[None, :, None, None] for pixels in (black, white))
        self.offset, self.scale = low.float(), ((high - low) / 255).float()
        probes = self._probes()
        found = (make for make in (_of_timm, _of_torchvision, _of_any) if self._gap(make, probes)[0] <= CLOSE)
        self._make = next(found, None)
        self.exact = self._make is not None
        if fast and self._make is _of_timm and self._gap(_of_timm_planes, probes)[1] <= NEAR:
            self._make = _of_timm_planes

    def process(self, picture: PILImage.Image) -> Tensor:
        """What the processor makes of one picture, `(C, H, W)`."""
        return self.processor([picture], return_tensors="pt")["pixel_values"][0]

    def picture(self, cell: Any, at_least: int | None = None) -> PILImage.Image:
        """The picture in a cell, see [`decode`], as the processor takes it."""
        return as_mode(to_rgb(decode(cell, at_least=at_least)), self.mode)

    def of(self, cell: Any, at_least: int | None = None) -> Tensor:
        """What the processor makes of the picture in a cell before it normalises, bytes of shape `(C, H, W)`."""
        if self._make is None:
            raise ValueError("The image processor does more than resize and normalise: its inputs are no bytes.")
        of_planes = self._make in (_of_torchvision, _of_timm_planes)
        picture = planes(cell, self.mode, at_least) if of_planes else self.picture(cell, at_least)
        return self._make(self.processor, picture)

    def normalize(self, levels: Tensor) -> Tensor:
        """Inputs `(N, C, H, W)` of levels."""
        return levels.float().mul_(self.scale).add_(self.offset)

    def _probes(self) -> list[tuple[PILImage.Image, Tensor]]:
        """Pictures and what the processor makes of them; none where it cannot take these."""
        generator = np.random.default_rng(0)
        height, width = self.shape[-2:]
        sizes = [(64, 64), (91, 40), (40, 91), (height + height // 3, width + 7)]
        shapes = [(*size, 3) if self.mode == "RGB" else size for size in sizes]
        pictures = [PILImage.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
        try:
            return [(picture, self.process(picture)) for picture in pictures]
        except UNREADABLE:
            return []

    def _gap(self, make: _Make, probes: list[tuple[PILImage.Image, Tensor]]) -> tuple[float, float]:
        """
        How far inputs of bytes that are made so lie from the processor's own: at most, relative where these exceed 1,
        and in the mean, in levels. Infinite where there are no such bytes.
        """
        largest, means = [inf] * (not probes), [0.0]
        for picture, wanted in probes:
            try:
                levels = make(self.processor, picture)
            except (*UNREADABLE, AttributeError, TypeError, KeyError):  # a processor of another make
                return inf, inf
            if levels.dtype != torch.uint8 or not levels.shape == wanted.shape == self.shape:
                return inf, inf
            gap = (self.normalize(levels[None])[0] - wanted).abs()
            largest.append(float(gap.max() / wanted.abs().max().clamp(min=1)))
            means.append(float((gap / self.scale[0].abs()).mean()))
        return max(largest), max(means)


def _of_timm(processor: Any, picture: Any) -> Tensor:
    """All steps but the last two, which make a tensor and normalise it."""
    for step in processor.val_transforms.transforms[:-2]:
        picture = step(picture)
    return as_planes(picture)


def _of_timm_planes(processor: Any, picture: Any) -> Tensor:
    """The same steps on bytes, which torchvision resizes by itself."""
    pixels = as_planes(picture) if isinstance(picture, PILImage.Image) else picture
    for step in processor.val_transforms.transforms[:-2]:
        if isinstance(step, Resize):  # whose own way with tensors passes through floats
            pixels = v2.functional.resize(pixels, step.size, step.interpolation, step.max_size, step.antialias)
        else:
            pixels = step(pixels)
    return pixels


def _of_torchvision(processor: Any, picture: Any) -> Tensor:
    """The steps of a processor of transformers on tensors, where it has no others, without what a call costs."""
    if not processor._preprocess.__module__.startswith("transformers.image_processing"):  # noqa: SLF001
        raise TypeError("a processor with steps of its own")
    pixels = as_planes(picture) if isinstance(picture, PILImage.Image) else picture
    if processor.do_resize:
        pixels = processor.resize(image=pixels, size=processor.size, resample=processor.resample)
    return processor.center_crop(pixels, processor.crop_size) if processor.do_center_crop else pixels


def _of_any(processor: Any, picture: Any) -> Tensor:
    unnormalised = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    return processor([picture], **unnormalised)["pixel_values"][0]
