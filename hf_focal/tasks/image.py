# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Images with a class each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, Image
from transformers import AutoModelForImageClassification, PreTrainedModel

from .base import Task, register_task
from .columns import Column, find_column
from .embedded import DIGITS, digits
from .multi_label import multi_hot
from .rows import named_split
from .splits import TEST_NAMES, VALIDATION_NAMES, load_splits
from .transforms import ImageInputs, ImageTransform, processed_channels


def _is_image(feature: Any) -> bool:
    return isinstance(feature, Image)


@register_task
class ImageClassification(Task):
    """Images with a class each, whose inputs an [`ImageTransform`] makes whenever they are read."""

    name = "image-classification"
    suffix = "ForImageClassification"
    auto_class = AutoModelForImageClassification
    processor = "image_processor"
    input = Column("image", "images", _is_image, ("image", "img"), "image_column (--image_column_name)")
    column_flag = "image_column_name"
    embedded = {DIGITS: digits}
    example = "image.png"
    batch = '[Image.new("RGB", (64, 64))] * 2'
    batch_imports = ("from PIL import Image",)

    def check_inputs(self, data: Dataset, split: str, column: str) -> Dataset:
        if _is_image(feature := data.features[column]):
            return data
        try:
            return data.cast_column(column, Image())
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"The column {column!r} of the split {split!r} must hold images: {feature}.") from error

    def prepare(self, model: PreTrainedModel, processor: Any, max_length: int | None = None) -> None:
        prepare_image_processor(model, processor)

    def encode(self, data: Dataset, processor: Any) -> ImageInputs:
        return ImageInputs(multi_hot(data), ImageTransform(processor))

    def sample_encoder(self, processor: Any) -> Callable[[Any, Any, Any], dict[str, Any]]:
        return ImageTransform(processor).sample

    def size(self, processor: Any) -> str:
        of_timm = getattr(processor, "data_config", None) or {}
        sizes = of_timm.get("input_size") or _sizes(getattr(processor, "crop_size", None) or processor.size)
        return f"images of {sizes[-2]} by {sizes[-1]} pixels" if len(sizes) > 1 else ""


def _sizes(size: Any) -> list[int]:
    """Height and width, where an image processor tells them."""
    known = [
        getattr(size, side, None) or (size.get(side) if isinstance(size, dict) else None)
        for side in ("height", "width")
    ]
    return [int(one) for one in known if one]


def channels_of(model: PreTrainedModel) -> int | None:
    """The channels of the images that a model takes; `None` where its config does not tell."""
    config: Any = getattr(model.config, "vision_config", model.config)
    if (of_timm := getattr(config, "pretrained_cfg", None)) is not None:
        return (config.model_args or {}).get("in_chans", of_timm.get("input_size", (3,))[0])
    return getattr(config, "num_channels", None)


def prepare_image_processor(model: PreTrainedModel, processor: Any) -> None:
    """Let an image processor normalise as many channels as the model takes; an [`ImageTransform`] then makes these."""
    channels = channels_of(model)
    if channels is None:
        return
    if channels not in (1, 3):
        raise ValueError(f"The model takes images of {channels} channels; only 1 (grey) and 3 (RGB) are supported.")
    if channels == 1 and getattr(processor, "do_convert_rgb", None):
        processor.do_convert_rgb = False
    if (made := processed_channels(processor)) == channels or (channels == 3 and made is None):
        return
    for key in ("image_mean", "image_std"):
        values = getattr(processor, key, None)
        values = list(values) if isinstance(values, Sequence) else [0.5 if values is None else values]
        if hasattr(processor, "data_config") or (len(set(values)) > 1 and processor.do_normalize):
            taken = "1 channel" if channels == 1 else "3 channels"
            found = f"The model takes images of {taken}, but its image processor normalises {made}."
            raise ValueError(f"{found} Give it an {key} of as many numbers and save it anew.")
        setattr(processor, key, values[:1] * channels)


def load_image_dataset(
    name: str = DIGITS,
    config_name: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    holdout: float = 0.1,
    validation_size: int | None = None,
    seed: int = 42,
    revision: str | None = None,
) -> DatasetDict:
    """
    Load labelled images with the splits `train`, `validation` and `test`, and the columns `image` and `label`.

    A missing validation split is split off the training data, a missing test split is the validation data (or, where
    there is neither, is split off too), stratified by class; the log says so. Other splits are not looked at. Rows
    without a label (nothing, -1 or -100) are left out, and so are splits that have none; a warning counts them.

    Args:
        name (`str`, *optional*, defaults to `"digits"`):
            A data set on the Hub, a local folder that `datasets.load_dataset` or `load_from_disk` reads, or
            `"digits"`: 1,797 scanned digits of 8 by 8 pixels that ship with scikit-learn, split 60/20/20.
        config_name (`str`, *optional*):
            Configuration of the data set.
        image_column, label_column (`str`, *optional*):
            Columns to use. By default the column of images and that of class labels, where there are several the one
            that is called so. Several labels a sample come in a column of lists of them (of class indices or names, or
            vectors of 0 and 1), or in as many columns of 0 and 1 as there are labels, all of which are named.
        holdout (`float`, *optional*, defaults to `0.1`):
            Share of the training data split off for each missing split, in (0, 1).
        validation_size (`int`, *optional*):
            Take so many training samples for validation, in place of the share: the first of a permutation of all by
            NumPy's `RandomState(seed)`, without regard to class. With `seed=1` and 5,000 of the 50,000 images of CIFAR
            that is the split of the paper's published code.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the splitting.
        revision (`str`, *optional*):
            Revision of a data set on the Hub.

    Returns:
        `datasets.DatasetDict`: `label` is a `ClassLabel`, whose `names` are those of the classes. Labels that are
        whole numbers or strings become classes in their sorted order. Of several labels a sample it is a `List` of
        them, which may be empty, and in which `~index` says that it is not known whether a class is right; see
        [`multi_hot`].

    Raises:
        ValueError: If there is no training split, a column is missing or ambiguous, a split is empty or has no data
            that can be read, a label is not one of the classes, or there are fewer than two classes. File,
            row or split are named.
        OSError: If there is no such folder or data set.
    """
    columns = image_column, label_column
    return ImageClassification().load_dataset(name, config_name, *columns, holdout, validation_size, seed, revision)


def load_images(
    name: str,
    config_name: str | None = None,
    *,
    split: str | None = None,
    image_column: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """
    Load one split of a data set for its images alone; labels are neither needed nor kept.

    Args:
        name (`str`):
            As for [`load_image_dataset`], as are `config_name` and `revision`.
        split (`str`, *optional*):
            By default the test split, where there is none the validation split, where there is only one split that.
        image_column (`str`, *optional*):
            Column of images, by default the only one.

    Returns:
        `datasets.Dataset`: With the column `image`; a ValueError names what is missing or ambiguous.
    """
    task = ImageClassification()
    embedded = task.embedded_dataset(name)
    splits = load_splits(name, config_name, revision) if embedded is None else {"train": embedded}
    choices = [*TEST_NAMES, *VALIDATION_NAMES, *(splits if len(splits) == 1 else ())] if split is None else [split]
    chosen = next((name for name in choices if name in splits), None)
    if chosen is None:
        wanted = "test or validation split" if split is None else f"split {split!r}"
        raise ValueError(f"The data set {name!r} has no {wanted}; it has {', '.join(splits)}. Name one of these.")
    stored = named_split(splits[chosen], chosen)
    column = find_column(stored, chosen, task.input, image_column)
    data = task.check_inputs(stored.select_columns([column]), chosen, column)
    return data if column == "image" else data.rename_column(column, "image")
