# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Augmentations of timm, by name: random crops of any size, RandAugment and its kin, erasing."""

from __future__ import annotations

import ast
import random
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, posterize
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from ..names import suggestion
from .pictures import as_mode, as_planes


PREFIX, EXAMPLE = "timm:", "timm:rand-m9-mstd0.5-inc1"
ERASING = {"re_prob": 0.25, "re_mode": "pixel", "re_count": 1}  # with which DeiT and most since were trained
_WORDS = "train_crop_mode", "interpolation", "re_mode"
_CHANCES = "hflip", "vflip", "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob", "re_prob"
_SETTINGS = *_WORDS, *_CHANCES, "scale", "ratio", "color_jitter", "re_count"
_LOCK = threading.Lock()
# What the sections of a policy may be: timm skips those that it does not know.
_AUTO = r"mstd[\d.]+"
_POLICIES = {
    "rand": r"(m|n|p|mstd|mmax|inc)[\d.]+|t(weights|3a|3aw)",
    "augmix": r"(m|w|d|a|b|mstd)[\d.]+",
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), _AUTO),
}


def is_of_timm(augmentation: str) -> bool:
    """Whether an augmentation is one of timm."""
    return augmentation.startswith(PREFIX)


class TimmAugmentation:
    """
    What `timm.data.create_transform` does to training images, but that the image processor's mean and deviation, of
    whatever kind it is, normalise them.

    Args:
        transform ([`ImageTransform`]):
            Whose processor tells the size of the inputs and how they are normalised.
        name (`str`):
            `"timm:"`, a policy such as `rand-m9-mstd0.5-inc1`, and, after commas, settings of `create_transform`:
            `"timm:rand-m9-mstd0.5-inc1,re_prob=0,scale=(0.3,1)"`. Without a policy colours are jittered. A quarter of
            the images have a rectangle erased (`re_prob=0.25`, `re_mode=pixel`), the interpolation is drawn.

    Raises:
        ValueError: If timm has no such policy, there is no such setting, or the processor does more to colours
            than to normalise each.
    """

    def __init__(self, transform: Any, name: str) -> None:
        policy, settings = _parse(name)
        self.mode = transform.mode
        self.scale, self.offset = (of.reshape(-1, 1, 1) for of in (transform.scale, transform.offset))
        size = self._size(transform)
        erasing = {key: settings.pop(key, value) for key, value in ERASING.items()}
        mean = (-self.offset / (255 * self.scale)).clamp(0, 1).flatten().tolist()  # with which timm fills corners
        options = {"auto_augment": policy or None, "interpolation": "random", **settings}
        about: dict[str, Any] = {"mean": tuple(mean * (3 // len(mean))), "normalize": False, "separate": True}
        try:
            crop, change, _ = create_transform((3, *size), is_training=True, **about, **options)
            count, chance = int(erasing["re_count"]), float(erasing["re_prob"])
            self._erase = RandomErasing(chance, mode=str(erasing["re_mode"]), max_count=count, device="cpu")
        except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            why = str(error).removesuffix(".") or "its settings will not do"
            raise ValueError(f"timm cannot make the augmentation {name!r}: {why}.") from error
        _mend_posterize(change.transforms)
        self._steps = crop, change

    def __call__(self, image: PILImage.Image, generator: np.random.Generator) -> Tensor:
        """An input `(C, H, W)` of an image of whatever size, drawn by the generator alone."""
        image = as_mode(image, "RGB")  # which grey becomes in the end, if the model takes that
        with _drawing_from(generator):
            for step in self._steps:
                image = step(image)
            erased: Tensor = self._erase(self._normalized(image))
        return erased

    def _size(self, transform: Any) -> tuple[int, int]:
        """Height and width of the inputs of a processor that normalises colours and does no more to them."""
        image = PILImage.new("RGB", (64, 64), (10, 100, 200))
        made = transform.process([image])[0]
        wanted = self._normalized(image)[:, :1, :1].expand_as(made)
        if not torch.allclose(made, wanted, rtol=0, atol=1e-3):
            does = f"The image processor ({type(transform.processor).__name__}) does more to colours than to normalise"
            raise ValueError(f"{does} each, which augmentations of timm would leave out: use crop-flip.")
        height, width = made.shape[-2:]
        return height, width

    def _normalized(self, image: PILImage.Image) -> Tensor:
        return as_planes(as_mode(image, self.mode)).float().contiguous().mul_(self.scale).add_(self.offset)


def _parse(name: str) -> tuple[str, dict[str, Any]]:
    """The policy, and the settings after it."""
    policy, *rest = re.split(r",(?![^(\[]*[)\]])", name.removeprefix(PREFIX))  # commas between brackets are no ends
    if "=" in policy:
        policy, rest = "", [policy, *rest]
    first, *sections = policy.strip().split("-")
    if first not in ("", *_POLICIES):
        near = suggestion(first, _POLICIES) or f" It has {', '.join(_POLICIES)}."
        raise ValueError(f"augmentation={name!r}: timm has no policy {first!r}.{near}")
    for section in sections:
        if not re.fullmatch(_POLICIES.get(first, "(?!)"), section):
            raise ValueError(f"augmentation={name!r}: {section!r} is no part of a policy {first!r} of timm.")
    settings = {}
    for part in rest:
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in _SETTINGS:
            what = f"takes no {key!r}" if equals else f"has {key!r} for a setting, which has no value"
            near = suggestion(key, _SETTINGS) or f" Settings are {', '.join(_SETTINGS)}."
            raise ValueError(f"augmentation={name!r} {what}.{near}")
        settings[key] = _value(name, key, value)
    return policy.strip(), settings


def _value(name: str, key: str, text: str) -> Any:
    """What a setting is set to."""
    if key in _WORDS:
        return text
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = None
    numbers = value if isinstance(value, tuple) else (value,)
    plain = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in numbers)
    if not plain or key in _CHANCES and (len(numbers) > 1 or not 0 <= numbers[0] <= 1):
        needed = "a chance in [0, 1]" if key in _CHANCES else "a number, or some in brackets, such as (0.3,1)"
        raise ValueError(f"augmentation={name!r}: {key} must be {needed}, got {text!r}.")
    return value


def _mend_posterize(transforms: Sequence[Any]) -> None:
    """Let images of which no bit is kept be black, as timm means it: Pillow refuses that as of its version 13."""
    for one in transforms:
        found = getattr(one, "ops", ()) or [op for ops in getattr(one, "policy", ()) for op in ops]
        for op in found:
            if isinstance(op, AugmentOp) and op.aug_fn is posterize:
                op.aug_fn = _posterize


def _posterize(image: PILImage.Image, bits_to_keep: int, **kwargs: Any) -> PILImage.Image:
    black = PILImage.new("RGB", image.size)
    posterized: PILImage.Image = posterize(image, bits_to_keep) if bits_to_keep > 0 else black
    return posterized


@contextmanager
def _drawing_from(generator: np.random.Generator) -> Iterator[None]:
    """Let the generators of Python, NumPy and torch, which timm draws from, start from a number of this one."""
    with _LOCK:  # they are those of all threads
        yield from _drawn_from(generator)


def _drawn_from(generator: np.random.Generator) -> Iterator[None]:
    seed = int(generator.integers(2**32))
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
