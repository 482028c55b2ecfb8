# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Images as inputs of a model: read once, kept as bytes where that loses nothing, cropped and flipped in batches."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import Tensor
from transformers import BaseImageProcessor

from .rows import UNREADABLE, reason, stored_rows
from .timm_augmentation import PREFIX, TimmAugmentation, is_of_timm


logger = logging.getLogger(__name__)

AUGMENTATIONS = ("none", "crop", "crop-flip")
MEMORY = 2**31  # bytes of one split that may be kept
_BLOCK = 512  # images decoded at a time


class ImageTransform:
    """
    Turns batches of `image` and, where it is there, `label` into `pixel_values` and `labels`; for
    `Dataset.with_transform`.

    Args:
        processor (`transformers.BaseImageProcessor`):
            The image processor that is saved with the model, so that training sees what a pipeline will.
        augmentation (`str`, *optional*, defaults to `"none"`):
            `"none"`; `"crop"`: a random crop after padding with black; `"crop-flip"`: that and a horizontal flip of
            half of the images; `"timm:rand-m9-mstd0.5-inc1"` and other policies of timm, see [`TimmAugmentation`].
            Drawn by torch's generator.
        padding (`int`, *optional*):
            Pixels to pad by before cropping. By default an eighth of the size (4 for 32).
    """

    def __init__(self, processor: BaseImageProcessor, augmentation: str = "none", padding: int | None = None) -> None:
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
        black, white = (self.process([PILImage.new("RGB", (64, 64), value)]) for value in ("black", "white"))
        if self.mode == "L" and black.shape[1] != 1:
            found = f"normalises one channel, but makes images of {black.shape[1]}"
            raise ValueError(f"The image processor ({type(processor).__name__}) {found}.")
        self.offset = black.mean((0, 2, 3), keepdim=True)
        self.scale = (white.mean((0, 2, 3), keepdim=True) - self.offset) / 255
        self.timm = TimmAugmentation(self, augmentation) if of_timm else None

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        pixels = list(self.inputs(batch["image"], generator))
        return {"pixel_values": pixels} | ({"labels": batch["label"]} if "label" in batch else {})

    def inputs(self, images: Sequence[PILImage.Image], generator: np.random.Generator) -> Tensor:
        if self.timm is not None:
            return self.timm([to_rgb(image) for image in images], generator)
        pixels = self.process(images)
        return pixels if self.augmentation == "none" else self.augment(pixels - self.offset, generator) + self.offset

    def sample(self, image: PILImage.Image, label: int, generator: np.random.Generator) -> dict[str, Any]:
        """An image with its label as a sample of inputs, augmented."""
        return {"pixel_values": self.inputs([image], generator)[0], "labels": label}

    def process(self, images: Sequence[PILImage.Image]) -> Tensor:
        """What the processor makes of images, `(N, C, H, W)`; of grey ones, where it normalises a single channel."""
        images = [to_rgb(image).convert(self.mode) for image in images]
        return self.processor(images, return_tensors="pt")["pixel_values"]

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels.float().mul_(self.scale).add_(self.offset)

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


def to_rgb(image: PILImage.Image | None) -> PILImage.Image:
    """An image as pipelines make it: grey copied, transparency dropped. But grey of 16 bits is scaled, not clipped."""
    if image is None:
        raise ValueError("the cell is empty")
    if image.mode.startswith("I;16"):
        image = PILImage.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"the image is of mode {image.mode}, whose range is not known: convert it to 8 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without a warning
    return image.convert("RGB")


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
    reading ahead and a run that is resumed change none. (Without shuffling each epoch repeats them.)

    Args:
        data (`datasets.Dataset`):
            With the columns `image` and `label`.
        transform ([`ImageTransform`]):
            What makes inputs of images.
        pixels (`torch.Tensor` of shape `(N, C, H, W)` and type `uint8`, *optional*):
            All images, resized but not normalised. Without, they are decoded and processed each time.
        seed (`int`, *optional*, defaults to `0`):
            Of crops and flips.
    """

    def __init__(self, data: Dataset, transform: ImageTransform, pixels: Tensor | None = None, seed: int = 0) -> None:
        self.data, self.transform, self.pixels, self.seed = data, transform, pixels, seed
        self.labels = np.asarray(data.with_format("numpy")["label"][:])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([range(len(self))[index]])[0]

    def sample(self, count: int, seed: int) -> ImageInputs:
        """At most `count` of the samples, drawn at random, without crops and flips."""
        rows = np.random.default_rng(seed).permutation(len(self))[:count]
        pixels = None if self.pixels is None else self.pixels[rows]
        return ImageInputs(self.data.select(rows), ImageTransform(self.transform.processor), pixels)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The samples of a batch, as data loaders of PyTorch ask for them."""
        generator = np.random.default_rng([self.seed, *indices])
        transform = self.transform
        if self.pixels is None:
            pixels = transform.inputs(self.data[indices]["image"], generator)
        else:
            kept = self.pixels.index_select(0, torch.tensor(indices))
            pixels = transform.normalize(transform.augment(kept, generator))
        labels = self.labels[indices].tolist()
        return [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)]


def create_image_inputs(
    dataset: Mapping[str, Dataset],
    processor: BaseImageProcessor,
    augmentation: str = "none",
    *,
    padding: int | None = None,
    seed: int = 0,
    skip_corrupted: bool = False,
    memory: int = MEMORY,
) -> dict[str, ImageInputs]:
    """
    Read every image of every split once, and make inputs of them; `train` is augmented, the others are not.

    A split whose inputs fit into `memory` as bytes is kept there, if the processor resizes and normalises and does no
    more, so that bytes lose nothing. What was converted or resized, and which classes are missing, is said once.

    Args:
        dataset (`Mapping[str, Dataset]`):
            Splits with the columns `image` and `label`, as [`load_image_dataset`] gives them.
        processor, augmentation, padding, seed:
            As for [`ImageTransform`] and [`ImageInputs`].
        skip_corrupted (`bool`, *optional*, defaults to `False`):
            Leave out images that cannot be read, instead of raising.
        memory (`int`, *optional*, defaults to 2 GiB):
            Bytes that one split may take.

    Returns:
        `dict[str, ImageInputs]`: One data set per split.

    Raises:
        ValueError: If an image cannot be read and `skip_corrupted` is off, or none of a split can.
    """
    seen: Counter[tuple[str, tuple[int, int]]] = Counter()
    plain, training = ImageTransform(processor), ImageTransform(processor, augmentation, padding)
    inputs = {}
    for split, data in dataset.items():
        transform = training if split == "train" else plain
        room = 0 if transform.timm is not None else memory  # whose crops are of the images as they are
        data, pixels = _read(data, split, plain, skip_corrupted, room, seen)
        inputs[split] = ImageInputs(data, transform, pixels, seed)
        names, present = data.features["label"].names, set(inputs[split].labels.tolist())
        if absent := [name for index, name in enumerate(names) if index not in present]:
            shown = f"{len(absent)} of {len(names)} classes: {', '.join(absent[:5])}"
            logger.warning("The split %r has no sample of %s%s.", split, shown, ", ..." if len(absent) > 5 else "")
    modes = Counter(mode for mode, _ in seen.elements())
    sizes = {size for _, size in seen}
    if others := ", ".join(f"{count} of mode {mode}" for mode, count in modes.most_common() if mode != plain.mode):
        deep = " Pipelines clip grey of 16 bits instead of scaling it: scale such images before one."
        more = deep if any(mode.startswith("I;16") for mode in modes) else ""
        made = "RGB" if plain.mode == "RGB" else "grey"
        logger.warning("Images made %s of 8 bits: %s. Transparency is dropped.%s", made, others, more)
    if len(sizes) > 1:
        smallest, *_, largest = (f"{width}x{height}" for width, height in sorted(sizes, key=math.prod))
        logger.warning("Images of %d sizes, from %s to %s, are resized to one.", len(sizes), smallest, largest)
    return inputs


def largest_side(data: Dataset) -> int | None:
    """The longer side, in pixels, of the first image that can be read; `None` where none can."""
    images = map(_decode, data.cast_column("image", Image(decode=False))["image"])
    return next((max(found[0].size) for found in images if not isinstance(found, Exception)), None)


def _read(
    data: Dataset, split: str, transform: ImageTransform, skip_corrupted: bool, memory: int, seen: Counter[Any]
) -> tuple[Dataset, Tensor | None]:
    """The rows that are images, and their bytes: `None` where these would not fit or not do."""
    cells = data.cast_column("image", Image(decode=False))
    stored = stored_rows(data)
    blocks: list[Tensor] | None = []
    rows: list[int] = []
    corrupted: list[str] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(data), _BLOCK):
            images = []
            for row, found in enumerate(pool.map(_decode, cells[start : start + _BLOCK]["image"]), start):
                if isinstance(found, Exception):
                    corrupted.append(f"row {stored[row]} ({reason(found)})")
                    continue
                image, mode = found
                seen[mode, image.size] += 1
                images.append(image)
                rows.append(row)
            if images and blocks is not None:
                block = _as_bytes(transform, images, memory // len(data))
                blocks = None if block is None else [*blocks, block]
    if corrupted:
        message = f"{len(corrupted)} of {len(data)} images of the split {split!r} cannot be read: "
        message += "; ".join(corrupted[:5]) + ("; ..." if len(corrupted) > 5 else ".")
        if not skip_corrupted or not rows:
            mend = "Mend or remove them, or leave them out with skip_corrupted=True (--skip_corrupted_images)."
            raise ValueError(f"{message} Rows are counted from 0 in the split as it is stored. {mend}")
        logger.warning("%s They are left out.", message)
        data = data.select(rows)
    return data, None if blocks is None else torch.cat(blocks)


def _decode(cell: Any) -> tuple[PILImage.Image, str] | Exception:
    """The image in a cell of a data set and its mode, or why there is none."""
    try:
        image = None if cell is None else Image().decode_example(cell)
        rgb = to_rgb(image)
        return rgb, rgb.mode if image is None else image.mode
    except UNREADABLE as error:
        return error


def _as_bytes(transform: ImageTransform, images: list[PILImage.Image], limit: int) -> Tensor | None:
    """Inputs as bytes of at most `limit` an image, if normalising these gives the same inputs again."""
    wanted = transform.process(images)
    if wanted[0].numel() > limit:
        return None
    levels = ((wanted - transform.offset) / transform.scale).round_().clamp_(0, 255).to(torch.uint8)
    return levels if (transform.normalize(levels) - wanted).abs().max() <= 1e-6 else None
