# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train an image classifier with a calibration loss, fit a temperature on validation data, and save a calibrated model.

    accelerate launch scripts/run_image.py                                   # scikit-learn's digits, offline
    accelerate launch scripts/run_image.py --dataset_name cifar10 --model_name_or_path resnet18 --loss focal --gamma 2
    accelerate launch scripts/run_image.py --push_to_hub --hub_model_id user/name

Every field below and of `CalibrationTrainingArguments` is a flag; `--config file.yaml` sets many at once.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import set_seed

from hf_focal import (
    CalibrationTrainer,
    CalibrationTrainingArguments,
    create_image_classifier,
    create_image_inputs,
    finish_run,
    load_image_dataset,
    parse_arguments,
    prepare_output_dir,
)
from hf_focal.data import DIGITS, take
from hf_focal.transforms import AUGMENTATIONS, largest_side


logger = logging.getLogger("run_image")
AUTO = "auto"


@dataclass
class ModelArguments:
    """Which network."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A timm name, a transformers checkpoint or a local folder. Unset: a small timm ResNet."},
    )
    train_from_scratch: bool = field(default=False, metadata={"help": "Start from random weights."})
    image_size: int | None = field(
        default=None, metadata={"help": "Input size in pixels of a timm network trained from scratch."}
    )
    image_mean: list[float] | None = field(
        default=None, metadata={"help": "Mean of each colour, for a timm network trained from scratch."}
    )
    image_std: list[float] | None = field(
        default=None, metadata={"help": "Standard deviation of each colour, for a timm network trained from scratch."}
    )
    channels_last: bool | None = field(
        default=None, metadata={"help": "Keep weights in the memory format that is faster on CPUs. Unset: on a CPU."}
    )


@dataclass
class DataArguments:
    """Which images."""

    dataset_name: str = field(
        default=DIGITS, metadata={"help": "A data set on the Hub, a local folder, or the embedded 'digits'."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Revision of a data set on the Hub."})
    image_column_name: str | None = field(default=None, metadata={"help": "Column of images."})
    label_column_name: str | None = field(default=None, metadata={"help": "Column of labels."})
    holdout: float = field(default=0.1, metadata={"help": "Share of the training data for each missing split."})
    validation_size: int | None = field(
        default=None, metadata={"help": "Training samples to validate on, by permutation, in place of the share."}
    )
    split_seed: int = field(default=42, metadata={"help": "Seed of the splits, apart from --seed."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many random samples only."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Validate and test on so many random samples only."}
    )
    augmentation: str | None = field(
        default=None,
        metadata={"help": f"One of {', '.join(AUGMENTATIONS)}. Unset: crop-flip, and crop for the digits."},
    )
    crop_padding: int | None = field(
        default=None, metadata={"help": "Pixels of padding before a crop. Unset: an eighth of the input size."}
    )
    skip_corrupted_images: bool = field(default=False, metadata={"help": "Leave out images that cannot be read."})


@dataclass
class ImageTrainingArguments(CalibrationTrainingArguments):
    """`CalibrationTrainingArguments` with defaults that suit small images."""

    output_dir: str = field(
        default=AUTO, metadata={"help": "Where to save; 'auto' is outputs/<dataset>-<model>-<loss>."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a run that is in the output folder."})
    num_train_epochs: float = field(default=20, metadata={"help": "Number of epochs."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Batch size per device."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Batch size per device."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up: steps, or a share of them below 1."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, epoch or steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, epoch or steps."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, epoch or steps."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Off: images are made into inputs later."})
    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Pin memory in data loaders."}
    )
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Where to log, such as tensorboard."})


def main() -> None:
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, ImageTrainingArguments])
    level = logging.INFO if args.should_log else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    for library in ("httpx", "httpx2", "accelerate", "datasets"):
        logging.getLogger(library).setLevel(logging.WARNING)
    name = model_args.model_name_or_path or "resnet10t"
    from_scratch = model_args.train_from_scratch or model_args.model_name_or_path is None
    if args.output_dir == AUTO:
        parts = [data_args.dataset_name, name, args.loss or CalibrationTrainer.default_loss]
        args.output_dir = str(Path("outputs", "-".join(Path(part).name for part in parts)))
    checkpoint = prepare_output_dir(args, args.overwrite)
    set_seed(args.seed)

    with args.main_process_first():
        dataset = load_image_dataset(
            data_args.dataset_name,
            data_args.dataset_config_name,
            image_column=data_args.image_column_name,
            label_column=data_args.label_column_name,
            holdout=data_args.holdout,
            validation_size=data_args.validation_size,
            seed=data_args.split_seed,
            revision=data_args.dataset_revision,
        )
    limits = {"train": data_args.max_train_samples}
    for split, data in dataset.items():
        dataset[split] = take(data, limits.get(split, data_args.max_eval_samples), data_args.split_seed)
    model, processor = create_image_classifier(
        name,
        dataset["train"].features["label"].names,
        from_scratch=from_scratch,
        image_size=model_args.image_size,
        data_size=largest_side(dataset["train"]),
        image_mean=model_args.image_mean,
        image_std=model_args.image_std,
    )
    channels_last = model_args.channels_last
    if args.device.type == "cpu" if channels_last is None else channels_last:
        model.to(memory_format=torch.channels_last)
    inputs = create_image_inputs(
        dataset,
        processor,
        data_args.augmentation or ("crop" if data_args.dataset_name == DIGITS else "crop-flip"),
        padding=data_args.crop_padding,
        seed=args.seed,
        skip_corrupted=data_args.skip_corrupted_images,
    )
    train, validation, test = inputs["train"], inputs["validation"], inputs["test"]

    trainer = CalibrationTrainer(
        model=model, args=args, train_dataset=train, eval_dataset=validation, processing_class=processor
    )
    logger.info("Training %s with %r in %d process(es)", name, trainer.loss, args.world_size)
    logger.info("Output in %s", args.output_dir)
    logger.info("Training on %d images, validating on %d, testing on %d", len(train), len(validation), len(test))
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    report = finish_run(
        trainer,
        validation,
        test,
        dataset_name=data_args.dataset_name,
        task="image-classification",
        results={"dataset": data_args.dataset_name, "model": name, "loss": trainer.loss_name, **metrics},
        base_model=None if from_scratch or Path(name).exists() else name,
        dataset_config=data_args.dataset_config_name,
        dataset_revision=data_args.dataset_revision,
    )
    if trainer.is_world_process_zero():
        print(f"\n{report}\nSaved to {args.output_dir}")
    if args.push_to_hub:
        pushed = trainer.push_to_hub()
        if trainer.is_world_process_zero():
            print(f"Pushed to {pushed.commit_url}")


if __name__ == "__main__":
    main()
