# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Load an image data set by name or folder, make sure of its three splits, and turn images into model inputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset, load_from_disk
from torch import Tensor


if TYPE_CHECKING:
    from transformers import BaseImageProcessor


logger = logging.getLogger(__name__)

DIGITS = "digits"
SPLITS = ("train", "validation", "test")
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
AUGMENTATIONS = ("none", "crop", "crop-flip")


def load_image_dataset(
    name: str = DIGITS,
    config_name: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    holdout: float = 0.1,
    seed: int = 42,
    revision: str | None = None,
) -> DatasetDict:
    """
    Load labelled images with the splits `train`, `validation` and `test`, and the columns `image` and `label`.

    A missing validation split is split off the training data, a missing test split is the validation data (or, where
    there is neither, is split off too), stratified by class; the log says so.

    Args:
        name (`str`, *optional*, defaults to `"digits"`):
            A data set on the Hub, a local folder that `datasets.load_dataset` or `load_from_disk` reads, or
            `"digits"`: 1,797 scanned digits of 8 by 8 pixels that ship with scikit-learn, split 60/20/20.
        config_name (`str`, *optional*):
            Configuration of the data set.
        image_column, label_column (`str`, *optional*):
            Columns to use. By default the only column of images, and the only column of class labels.
        holdout (`float`, *optional*, defaults to `0.1`):
            Share of the training data split off for each missing split, in (0, 1).
        seed (`int`, *optional*, defaults to `42`):
            Seed of the splitting.
        revision (`str`, *optional*):
            Revision of a data set on the Hub.

    Returns:
        `datasets.DatasetDict`: `label` is a `ClassLabel`, whose `names` are those of the classes.

    Raises:
        ValueError: If there is no training split, a column is missing or ambiguous, a split is empty, or a sample has
            no label.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"holdout must lie strictly between 0 and 1, got {holdout!r}.")
    if name == DIGITS and not Path(name).exists():
        return _split({"train": _digits()}, holdout=0.2, seed=seed, quiet=True)
    loaded = _load(name, config_name, revision)
    splits = {split: _two_columns(data, split, image_column, label_column) for split, data in loaded.items()}
    return _split(splits, holdout=holdout, seed=seed)


def load_images(
    name: str,
    config_name: str | None = None,
    *,
    split: str | None = None,
    labelled: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """
    Load one split of a data set as it is, for its images alone unless labels are asked for.

    Args:
        name (`str`):
            As for [`load_image_dataset`].
        config_name (`str`, *optional*):
            Configuration of the data set.
        split (`str`, *optional*):
            By default the test split, where there is none the validation split, where there is only one split that.
        labelled (`bool`, *optional*, defaults to `False`):
            Keep the labels, which every image must then have.
        image_column, label_column (`str`, *optional*):
            Columns to use, by default as for [`load_image_dataset`].
        revision (`str`, *optional*):
            Revision of a data set on the Hub.

    Returns:
        `datasets.Dataset`: With the column `image`, and `label` if asked for.

    Raises:
        ValueError: If the split or a column is missing or ambiguous, a split is empty, or a label that was asked for
            is missing.
    """
    digits = name == DIGITS and not Path(name).exists()
    splits = DatasetDict(train=_digits()) if digits else _load(name, config_name, revision)
    if split is None:
        known = [known for known in ("test", *_VALIDATION_NAMES) if known in splits]
        split = known[0] if known else next(iter(splits)) if len(splits) == 1 else None
    if split is None or split not in splits:
        wanted = "test or validation split" if split is None else f"split {split!r}"
        raise ValueError(f"The data set {name!r} has no {wanted}; it has {', '.join(splits)}. Name one of these.")
    data = splits[split]
    if labelled:
        return _two_columns(data, split, image_column, label_column)
    column = _find_column(data, split, image_column, Image, "image_column")
    data = data.select_columns([column])
    data = data if column == "image" else data.rename_column(column, "image")
    return data if isinstance(data.features["image"], Image) else data.cast_column("image", Image())


def _load(name: str, config_name: str | None, revision: str | None) -> DatasetDict:
    try:
        if (Path(name) / "dataset_dict.json").is_file():
            return load_from_disk(name)
        if (Path(name) / "state.json").is_file():  # a single split
            return DatasetDict(train=load_from_disk(name))
        return load_dataset(name, config_name, revision=revision)
    # Among them an empty split: 'Instruction "test" corresponds to no data!', and an IndexError from the disk.
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"The data set {name!r} cannot be loaded: {error} Every split must hold samples, and a data set of "
            "several configurations needs config_name (--dataset_config_name)."
        ) from error


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    rgb = [np.repeat(image[..., None], 3, axis=2) for image in images]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    return Dataset.from_dict({"image": rgb, "label": digits.target}, features=features)


def _two_columns(data: Dataset, split: str, image_column: str | None, label_column: str | None) -> Dataset:
    if len(data) == 0:
        raise ValueError(f"The split {split!r} is empty.")
    image_column = _find_column(data, split, image_column, Image, "image_column")
    label_column = _find_column(data, split, label_column, ClassLabel, "label_column")
    data = data.select_columns([image_column, label_column])
    renamed = {image_column: "image", label_column: "label"}
    data = data.rename_columns({old: new for old, new in renamed.items() if old != new})
    if not isinstance(data.features["label"], ClassLabel):
        data = data.class_encode_column("label")
    if not isinstance(data.features["image"], Image):
        data = data.cast_column("image", Image())
    labels = np.asarray(data.with_format("numpy")["label"][:])
    if labels.min() < 0:
        raise ValueError(
            f"The split {split!r} has samples without a label (index {labels.min()}): hidden labels cannot be used. "
            "Remove them, or pass a data set without this split."
        )
    return data


def _find_column(data: Dataset, split: str, given: str | None, kind: type, argument: str) -> str:
    columns = data.column_names
    if given is not None:
        if given not in columns:
            raise ValueError(
                f"The split {split!r} has no column {given!r}; its columns are {', '.join(columns)}. Set {argument} "
                f"(--{argument}_name) to one of them."
            )
        return given
    candidates = [column for column in columns if isinstance(data.features[column], kind)]
    # A column of that very name will do even where its type says nothing.
    plain = argument.removesuffix("_column")
    candidates = candidates or [column for column in columns if column == plain]
    if len(candidates) != 1:
        found = f"several could serve: {', '.join(candidates)}" if candidates else f"none of {', '.join(columns)} does"
        raise ValueError(
            f"Which column of the split {split!r} holds the {plain}s? {found[0].upper()}{found[1:]}. Set {argument} "
            f"(--{argument}_name)."
        )
    return candidates[0]


def _split(splits: Mapping[str, Dataset], holdout: float, seed: int, quiet: bool = False) -> DatasetDict:
    splits = dict(splits)
    say = logger.debug if quiet else logger.warning
    if "train" not in splits:
        raise ValueError(f"The data set has no split 'train'; it has {', '.join(splits)}.")
    train = splits["train"]
    names = [name for name in _VALIDATION_NAMES if name in splits]
    validation, test = splits[names[0]] if names else None, splits.get("test")
    total = len(train)
    if test is None and validation is not None:
        say("No test split: %r is the test set, and validation data are split off the training data.", names[0])
        validation, test = None, validation
    elif test is None:
        train, test = _hold_out(train, round(holdout * total), seed)
        say("No test split: %d of %d training samples are split off (seed %d).", len(test), total, seed)
    if validation is None:
        train, validation = _hold_out(train, round(holdout * total), seed)
        say("No validation split: %d of %d training samples are split off (seed %d).", len(validation), total, seed)
    result = DatasetDict(train=train, validation=validation, test=test)
    labels = {split: result[split].features["label"].names for split in SPLITS}
    if not labels["train"] == labels["validation"] == labels["test"]:
        raise ValueError(f"The splits do not agree on the classes: {labels}.")
    return result


def _hold_out(data: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    counts = np.bincount(np.asarray(data.with_format("numpy")["label"][:]))
    if size < 1 or size >= len(data):
        raise ValueError(f"Cannot split {size} samples off {len(data)}: too few. Bring a split of your own.")
    stratify: str | None = "label"
    if counts[counts > 0].min() < 2 or size < (counts > 0).sum():
        logger.warning("Too few samples per class to stratify: the split is drawn without regard to classes.")
        stratify = None
    parts = data.train_test_split(test_size=size, seed=seed, stratify_by_column=stratify)
    return parts["train"], parts["test"]


def take(data: Dataset, count: int | None, seed: int) -> Dataset:
    """A random `count` of the samples, or all of them where `count` is `None` or no smaller."""
    if count is None or count >= len(data):
        return data
    if count < 1:
        raise ValueError(f"At least 1 sample is needed, got {count}.")
    return data.shuffle(seed=seed).select(range(count))


class ImageTransform:
    """
    Turns batches of `image` and `label` into `pixel_values` and `labels`; for `Dataset.with_transform`. Images without
    labels become `pixel_values` alone.

    Args:
        processor (`transformers.BaseImageProcessor`):
            The image processor that is saved with the model, so that training sees what a pipeline will.
        augmentation (`str`, *optional*, defaults to `"none"`):
            `"none"`; `"crop"`: a random crop after padding by an eighth of the size (4 pixels for 32); `"crop-flip"`:
            that and a horizontal flip of every other image. Drawn from torch's generator.
    """

    def __init__(self, processor: BaseImageProcessor, augmentation: str = "none") -> None:
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}.")
        self.processor = processor
        self.augmentation = augmentation

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        images = [image.convert("RGB") for image in batch["image"]]
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        if self.augmentation != "none":
            pixels = random_crop(pixels, padding=pixels.shape[-1] // 8)
        if self.augmentation == "crop-flip":
            flipped = torch.rand(len(pixels)) < 0.5
            pixels = torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
        return {"pixel_values": list(pixels)} | ({"labels": batch["label"]} if "label" in batch else {})


def random_crop(pixels: Tensor, padding: int) -> Tensor:
    """Shift each image of a batch `(N, C, H, W)` by up to `padding` pixels either way; zeros come in at the border."""
    count, channels, height, width = pixels.shape
    padded = F.pad(pixels, (padding, padding, padding, padding))
    top, left = torch.randint(0, 2 * padding + 1, (2, count))
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None], rows, columns]
