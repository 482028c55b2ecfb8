# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
r"""
Train an image classifier with a calibration loss, calibrate it on validation data, and save it.

  hf-focal run-image                        # scikit-learn's digits, offline
  hf-focal run-image --dataset_name cifar10 --model_name_or_path resnet18 \
      --loss focal --gamma 2
  hf-focal run-image --push_to_hub --hub_model_id user/name

With several GPUs: `accelerate launch -m hf_focal.cli.run_image` and the same flags.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("run-image")


from dataclasses import dataclass
from typing import Any

import torch

from ..models.create import create_image_classifier
from ..tasks import ImageClassification
from ..tasks.embedded import DIGITS
from ..tasks.encoded_stream import side_of_first
from ..tasks.image import load_image_dataset
from ..tasks.image_checks import CHECKS
from ..tasks.timm_augmentation import EXAMPLE
from ..tasks.transforms import AUGMENTATIONS, ImageTransform, create_image_inputs, largest_side
from ..training.trainer import CalibrationTrainer
from .arguments import TrainArguments, TrainDataArguments, flag, parse_arguments
from .run import outputs_of, start_run, train_run, use_workers
from .streaming import MANY, check_training, encoded_parts, load_training_streams, start_anew


_AUGMENTATIONS = f"{', '.join(AUGMENTATIONS)}, or a policy of timm: {EXAMPLE}"
_CHECKS = f"How many to look at first: {', '.join(CHECKS)}. Unset: all of small data, a sample of large."


@dataclass
class ModelArguments:
    """Which network."""

    model_name_or_path: str | None = flag(default=None, help="A timm name or a checkpoint. Unset: a small ResNet.")
    train_from_scratch: bool = flag(default=False, help="Start from random weights.")
    one_logit: bool = flag(default=False, help="A single logit, for the second of two classes.")
    image_size: int | None = flag(default=None, help="Input size in pixels of a timm network trained from scratch.")
    image_mean: list[float] | None = flag(default=None, help="Mean of each colour, for such a network.")
    image_std: list[float] | None = flag(default=None, help="Standard deviation of each colour, for such a network.")
    channels_last: bool | None = flag(default=None, help="Memory format that is faster on CPUs. Unset: on a CPU.")


@dataclass
class DataArguments(TrainDataArguments):
    """Which images."""

    dataset_name: str = flag(default=DIGITS, help="A data set on the Hub, a local folder, or the embedded 'digits'.")
    image_column_name: str | None = flag(default=None, help="Column of images.")
    augmentation: str | None = flag(default=None, help=f"{_AUGMENTATIONS}. Unset: crop-flip; digits: crop.")
    crop_padding: int | None = flag(default=None, help="Pixels of padding before a crop. Unset: size / 8.")
    skip_corrupted_images: bool = flag(default=False, help="Leave out images that cannot be read.")
    check_images: str | None = flag(default=None, help=_CHECKS)
    image_cache_gb: float = flag(default=4.0, help="GB of resized images that a process keeps in memory; 0: none.")
    fast_images: bool = flag(default=False, help="Decode and resize faster, not quite exactly.")


def _load(data_args: DataArguments, args: TrainArguments) -> tuple[Any, list[str], int | None]:
    """The splits, the names of the classes, and the longer side of the first image."""
    if data_args.streaming:
        streams = load_training_streams(ImageClassification(), data_args, data_args.image_column_name)
        return streams, list(streams["train"].names or ()), side_of_first(streams["train"])
    dataset = data_args.load(load_image_dataset, args, image_column=data_args.image_column_name)
    return dataset, ImageClassification().class_names(dataset["train"]), largest_side(dataset["train"])


def _inputs(
    dataset: Any, processor: Any, data_args: DataArguments, args: TrainArguments, checkpoint: str | None
) -> dict[str, Any]:
    """What the trainer is given of each split."""
    augmentation = data_args.augmentation or ("crop" if data_args.dataset_name == DIGITS else "crop-flip")
    padding, fast, skip = data_args.crop_padding, data_args.fast_images, data_args.skip_corrupted_images
    if not data_args.streaming:
        options: dict[str, Any] = {"padding": padding, "seed": args.seed, "skip_corrupted": skip, "fast": fast}
        options |= {"memory": data_args.image_cache_gb * 1e9, "check_images": data_args.check_images}
        inputs = create_image_inputs(dataset, processor, augmentation, **options)
        use_workers(args, len(inputs["train"]) if inputs["train"].decoding else 0)
        return {**inputs}
    use_workers(args, MANY)
    training = ImageTransform(processor, augmentation, padding, fast)
    about: dict[str, Any] = {"train": training.sample, "skip_unreadable": skip}
    streams = encoded_parts(dataset, ImageClassification(), processor, args, data_args, **about)
    start_anew(args, streams["train"], checkpoint)
    return {**streams}


def main() -> None:
    """What the command does."""
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, TrainArguments], description=__doc__)
    name = model_args.model_name_or_path or "resnet10t"
    from_scratch = model_args.train_from_scratch or model_args.model_name_or_path is None
    if data_args.streaming:
        check_training(args, data_args)
    checkpoint = start_run(args, data_args.dataset_name, name, args.loss or CalibrationTrainer.default_loss)

    dataset, names, data_size = _load(data_args, args)
    dataset, names, sigmoid = outputs_of(ImageClassification(), dataset, names, model_args.one_logit)
    options = {option: getattr(model_args, option) for option in ("image_size", "image_mean", "image_std")}
    options["sigmoid"] = sigmoid
    model: Any
    model, processor = create_image_classifier(name, names, from_scratch=from_scratch, data_size=data_size, **options)
    channels_last = model_args.channels_last
    if channels_last is None:  # DeepSpeed cannot send such weights to other processes
        channels_last = args.device.type == "cpu" and args.deepspeed_plugin is None
    if channels_last:
        model.to(memory_format=torch.channels_last)
    train, validation, test = _inputs(dataset, processor, data_args, args, checkpoint).values()

    data: dict[str, Any] = {"train_dataset": train, "eval_dataset": validation}
    trainer = CalibrationTrainer(model=model, args=args, processing_class=processor, **data)
    plain_train = None if data_args.streaming else train.sample(len(test), data_args.split_seed)
    about = {"name": name, "task": ImageClassification.name, "data_args": data_args, "from_scratch": from_scratch}
    train_run(trainer, test, **about, checkpoint=checkpoint, plain_train=plain_train)
