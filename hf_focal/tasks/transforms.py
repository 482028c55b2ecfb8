# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Images as inputs of a model: resized as they are decoded, cropped and flipped as bytes, in batches."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset
from PIL import Image as PILImage
from torch import Tensor
from transformers import BaseImageProcessor

from .image_checks import checked, tell_what_is_converted
from .kept import MEMORY, keep
from .levels import Levels
from .multi_label import multi_hot
from .pictures import decode, rows_at_once, undecoded
from .rows import UNREADABLE, unusable
from .timm_augmentation import PREFIX, TimmAugmentation, is_of_timm


logger = logging.getLogger(__name__)

AUGMENTATIONS = ("none", "crop", "crop-flip")


class ImageTransform:
    """
    Turns batches of `image` and, where it is there, `label` into `pixel_values` and `labels`; for
    `Dataset.with_transform`. Images may be decoded or, after `cast_column("image", Image(decode=False))`, not: then no
    more than one of them is held decoded at a time.

    Args:
        processor (`transformers.BaseImageProcessor`):
            The image processor that is saved with the model, so that training sees what a pipeline will.
        augmentation (`str`, *optional*, defaults to `"none"`):
            `"none"`; `"crop"`: a random crop after padding with black; `"crop-flip"`: that and a horizontal flip of
            half of the images; `"timm:rand-m9-mstd0.5-inc1"` and other policies of timm, see [`TimmAugmentation`].
            Drawn by torch's generator.
        padding (`int`, *optional*):
            Pixels to pad by before cropping. By default an eighth of the size (4 for 32).
        fast (`bool`, *optional*, defaults to `False`):
            Decode large JPEG files at an eighth, a quarter or half of their size, whose sides are still twice those of
            the input at least, and let torchvision resize where the processor lets Pillow: several times faster, but
            not quite the pixels that a pipeline sees.
    """

    def __init__(
        self, processor: BaseImageProcessor, augmentation: str = "none", padding: int | None = None,
        fast: bool = False,
    ) -> None:  # fmt: skip
        of_timm = is_of_timm(augmentation)
        if not of_timm and augmentation not in AUGMENTATIONS:
            known = f"{', '.join(AUGMENTATIONS)}, or {PREFIX} and a policy of timm"
            raise ValueError(f"augmentation must be one of {known}, got {augmentation!r}.")
        if padding is not None and padding < 1:
            raise ValueError(f"padding must be at least 1 pixel, got {padding!r}.")
        if padding is not None and of_timm:
            raise ValueError(f"padding is for crop and crop-flip: {augmentation} crops without. Leave it unset.")
        self.processor, self.augmentation, self.padding = processor, augmentation, padding
        self.mode = "L" if processed_channels(processor) == 1 else "RGB"
        self.levels = Levels(processor, self.mode, fast)
        channels, *sides = self.levels.shape
        if self.mode == "L" and channels != 1:
            found = f"normalises one channel, but makes images of {channels}"
            raise ValueError(f"The image processor ({type(processor).__name__}) {found}.")
        self.at_least = 2 * max(sides) if fast else None
        self.before: tuple[Callable[[PILImage.Image], PILImage.Image], ...] = ()
        self.timm = TimmAugmentation(self, augmentation) if of_timm else None

    @property
    def offset(self) -> Tensor:
        """What black becomes, `(1, C, 1, 1)`."""
        return self.levels.offset

    @property
    def scale(self) -> Tensor:
        """The inputs' difference from one of 256 levels to the next, `(1, C, 1, 1)`."""
        return self.levels.scale

    def after(self, *steps: Callable[[PILImage.Image], PILImage.Image]) -> ImageTransform:
        """The same transform of images to which something else is done first."""
        other = copy.copy(self)
        other.before = steps
        return other

    def plain(self) -> ImageTransform:
        """The same transform without crops and flips."""
        other = copy.copy(self)
        other.augmentation, other.timm = "none", None
        return other

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        pixels = list(self.inputs(batch["image"], generator))
        return {"pixel_values": pixels} | ({"labels": batch["label"]} if "label" in batch else {})

    def inputs(self, images: Iterable[Any], generator: np.random.Generator) -> Tensor:
        """Inputs of a model, augmented, of images or cells of a column that is not decoded."""
        if self.timm is not None:  # whose crops are of the images as they are
            return torch.stack([self.timm(self.picture(image), generator) for image in images])
        return self.finished(torch.stack([self.read(image) for image in images]), generator)

    def sample(self, image: Any, label: int, generator: np.random.Generator) -> dict[str, Any]:
        """An image with its label as a sample of inputs, augmented."""
        return {"pixel_values": self.inputs([image], generator)[0], "labels": label}

    def picture(self, cell: Any) -> PILImage.Image:
        """One image of a column, decoded, of the mode that the processor takes, and changed by what comes before."""
        picture = self.levels.picture(cell, self.at_least)
        for step in self.before:
            picture = step(picture)
        return picture

    def process(self, images: Iterable[Any]) -> Tensor:
        """What the processor makes of images, `(N, C, H, W)`; of grey ones, where it normalises a single channel."""
        return torch.stack([self.levels.process(self.picture(image)) for image in images])

    def read(self, cell: Any) -> Tensor:
        """One image of a column as bytes, resized but not normalised; without `levels.exact` as an input already."""
        if not self.levels.exact:
            return self.levels.process(self.picture(cell))
        return self.levels.of(self.picture(cell) if self.before else cell, self.at_least)

    def finished(self, images: Tensor, generator: np.random.Generator) -> Tensor:
        """Inputs of a batch of what [`ImageTransform.read`] gave: augmented, of bytes before they are normalised."""
        if self.levels.exact:
            return self.levels.normalize(self.augment(images, generator))
        return images if self.augmentation == "none" else self.augment(images - self.offset, generator) + self.offset

    def augment(self, pixels: Tensor, generator: np.random.Generator) -> Tensor:
        """Crops and flips of a batch `(N, C, H, W)` whose black is 0."""
        if self.augmentation != "none":
            pixels = random_crop(pixels, self.padding or pixels.shape[-1] // 8, generator)
        if self.augmentation == "crop-flip":
            flipped = torch.from_numpy(generator.random(len(pixels)) < 0.5)
            pixels[flipped] = pixels[flipped].flip(-1)
        return pixels


def processed_channels(processor: Any) -> int | None:
    """The channels that an image processor normalises; `None` where it does not tell."""
    mean = (getattr(processor, "data_config", None) or {}).get(
        "mean", getattr(processor, "image_mean", None)
    )  # timm's
    return len(mean) if isinstance(mean, Sequence) else None


def random_crop(pixels: Tensor, padding: int, generator: np.random.Generator) -> Tensor:
    """Shift each image of a batch `(N, C, H, W)` by up to `padding` pixels either way; zeros come in at the border."""
    count, _, height, width = pixels.shape
    padded = F.pad(pixels, (padding, padding, padding, padding))
    top, left = generator.integers(0, 2 * padding + 1, (2, count))
    # NumPy copies row by row what PyTorch would copy value by value, five times slower.
    windows = np.lib.stride_tricks.sliding_window_view(padded.numpy(), (height, width), axis=(2, 3))
    return torch.from_numpy(windows[np.arange(count), :, top, left])


class ImageInputs(torch.utils.data.Dataset):
    """
    Images and labels as a `Trainer` takes them, `pixel_values` and `labels`, read a batch at a time.

    Crops and flips depend on `seed` and on which samples a batch holds, in which order, and on nothing else: workers,
    reading ahead and a run that is resumed change none. (Without shuffling each epoch repeats them.) Of images that
    are not kept, one at a time is held decoded; a ValueError names the row of one that cannot be read.

    Args:
        data (`datasets.Dataset`):
            With the column `image` and, where there are labels, `label`; of several a sample as [`multi_hot`] makes
            them.
        transform ([`ImageTransform`]):
            What makes inputs of images.
        pixels (`torch.Tensor` of shape `(N, C, H, W)` and type `uint8`, *optional*):
            Room for all images, resized but not normalised. Without, they are decoded and processed each time.
        seed (`int`, *optional*, defaults to `0`):
            Of crops and flips.
        filled (`torch.Tensor` of shape `(N,)` and type `bool`, *optional*):
            Which images are in `pixels` already; the others are put there once they are read. By default all are.
    """

    def __init__(
        self, data: Dataset, transform: ImageTransform, pixels: Tensor | None = None, seed: int = 0,
        filled: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.data, self.transform, self.pixels, self.seed, self.filled = data, transform, pixels, seed, filled
        known = "label" in data.column_names
        self.labels = np.asarray(data.with_format("numpy")["label"][:]) if known else None
        self._cells, self._at_once = undecoded(data.select_columns(["image"])), rows_at_once(data)
        self._mode = getattr(data.features["image"], "mode", None)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([range(len(self))[index]])[0]

    @property
    def decoding(self) -> bool:
        """Whether images are still decoded when they are read, and not all of them in memory."""
        return self.pixels is None or self.filled is not None

    def sample(self, count: int, seed: int) -> torch.utils.data.Dataset:
        """At most `count` of the samples, drawn at random, without crops and flips."""
        rows = np.random.default_rng(seed).permutation(len(self))[:count]
        plain = ImageInputs(self.data, self.transform.plain(), self.pixels, filled=self.filled)
        return torch.utils.data.Subset(plain, rows.tolist())

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The samples of a batch, as data loaders of PyTorch ask for them."""
        generator = np.random.default_rng([self.seed, *indices])
        try:
            pixels = self._inputs(indices, generator)
        except UNREADABLE:
            for index, cell in zip(indices, self._stored(indices), strict=True):
                try:
                    self.transform.read(cell)
                except UNREADABLE as error:
                    raise unusable(self.data, index, "image", error) from error
            raise
        if self.labels is None:
            return [{"pixel_values": image} for image in pixels]
        labels = self.labels[indices].tolist()
        return [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)]

    def _inputs(self, indices: list[int], generator: np.random.Generator) -> Tensor:
        if self.pixels is None:
            return self.transform.inputs(self._stored(indices), generator)
        wanted = torch.tensor(indices)
        if self.filled is not None:
            missing = wanted[~self.filled[wanted]].tolist()
            for index, cell in zip(missing, self._stored(missing), strict=True):
                self.pixels[index] = self.transform.read(cell)
                self.filled[index] = True
        return self.transform.finished(self.pixels.index_select(0, wanted), generator)

    def _stored(self, indices: list[int]) -> Iterator[Any]:
        """The cells of samples, of which no more are read at a time than few bytes hold."""
        for start in range(0, len(indices), self._at_once):
            for cell in self._cells[indices[start : start + self._at_once]]["image"]:
                yield cell if self._mode is None else decode(cell, self._mode)


def create_image_inputs(
    dataset: Mapping[str, Dataset],
    processor: BaseImageProcessor,
    augmentation: str = "none",
    *,
    padding: int | None = None,
    seed: int = 0,
    skip_corrupted: bool = False,
    check_images: str | None = None,
    memory: float = MEMORY,
    fast: bool = False,
) -> dict[str, ImageInputs]:
    """
    Look at images, and make inputs of them; `train` is augmented, the others are not.

    All images are looked at where some ten seconds of a core decode them, else a sample. Splits whose inputs fit into
    `memory` as bytes are kept there, if the processor resizes and normalises and does no more, so that bytes lose
    nothing; the log (at level INFO) says which are, and why others are not. What was converted or resized, and which
    classes are missing, is said once. Images are resized as they are decoded, so that memory does not grow with their
    number.

    Args:
        dataset (`Mapping[str, Dataset]`):
            Splits with the columns `image` and `label`, as [`load_image_dataset`] gives them.
        processor, augmentation, padding, seed:
            As for [`ImageTransform`] and [`ImageInputs`].
        skip_corrupted (`bool`, *optional*, defaults to `False`):
            Leave out images that cannot be read, instead of raising.
        check_images (`str`, *optional*):
            How much is looked at: `"all"`, a `"sample"` of 256 images or fewer large ones, or `"none"`; by default
            what the size of the data allows for, and all with `skip_corrupted`. Another that cannot be read is named
            when it is met. Processes share the work, and what was found is remembered by the data's fingerprint.
        memory (`float`, *optional*, defaults to `4e9`):
            Bytes that all splits together may take, in their order; 0 keeps none.
        fast (`bool`, *optional*, defaults to `False`):
            As for [`ImageTransform`].

    Returns:
        `dict[str, ImageInputs]`: One data set per split.

    Raises:
        ValueError: If an image that is looked at cannot be read and `skip_corrupted` is off, or none of a split can.
    """
    how = "all" if skip_corrupted and check_images is None else check_images
    seen: Counter[tuple[str, tuple[int, int]]] = Counter()
    training = ImageTransform(processor, augmentation, padding, fast)
    plain = training.plain()
    inputs = {}
    to_keep = {split: data for split, data in dataset.items() if training.timm is None or split != "train"}
    room = keep(to_keep, plain.levels, memory)
    for split, data in dataset.items():
        data, pixels, filled = checked(data, split, plain, room.get(split), how, skip_corrupted, seen)
        transform = training if split == "train" else plain
        inputs[split] = ImageInputs(multi_hot(data), transform, pixels, seed, filled)
        if not isinstance(data.features["label"], ClassLabel):
            continue
        names, present = data.features["label"].names, set(np.asarray(inputs[split].labels).tolist())
        if absent := [name for index, name in enumerate(names) if index not in present]:
            shown = f"{len(absent)} of {len(names)} classes: {', '.join(absent[:5])}"
            logger.warning("The split %r has no sample of %s%s.", split, shown, ", ..." if len(absent) > 5 else "")
    tell_what_is_converted(seen, plain.mode)
    return inputs


def largest_side(data: Dataset) -> int | None:
    """The longer side, in pixels, of the first image that can be read; `None` where none can."""
    for cell in undecoded(data)["image"]:
        try:
            return max(decode(cell).size)
        except UNREADABLE:
            continue
    return None
