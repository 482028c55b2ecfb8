# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train an image classifier with a calibration loss, fit a temperature on validation data, and save a calibrated model.

    accelerate launch scripts/run_image.py                                   # scikit-learn's digits, offline
    accelerate launch scripts/run_image.py --dataset_name cifar10 --model_name_or_path resnet18 --loss focal --gamma 2
    accelerate launch scripts/run_image.py --push_to_hub --hub_model_id user/name

Every field below and of `CalibrationTrainingArguments` is a flag; `--config file.yaml` sets many at once.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from hf_focal import (
    CalibrationTrainer,
    ImageTransform,
    KeepBestCallback,
    TrainingDynamicsCallback,
    create_image_classifier,
    load_image_dataset,
    parse_arguments,
    stopping_table,
)
from hf_focal.cli import RunArguments, end_run, start_run
from hf_focal.data import AUGMENTATIONS, DIGITS, take


logger = logging.getLogger("run_image")


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
    split_seed: int = field(default=42, metadata={"help": "Seed of the splits, apart from --seed."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many random samples only."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Validate and test on so many random samples only."}
    )
    augmentation: str | None = field(
        default=None,
        metadata={"help": f"One of {', '.join(AUGMENTATIONS)}. Unset: crop-flip, and crop for the digits."},
    )


@dataclass
class ImageTrainingArguments(RunArguments):
    """`RunArguments` with defaults that suit small images."""

    track_dynamics: bool = field(
        default=False,
        metadata={"help": "Keep NLL, entropy and weight norm per epoch in training_dynamics.parquet."},
    )
    dynamics_gradient_epochs: list[int] = field(
        default_factory=list, metadata={"help": "Track the dynamics, and gradients after these epochs too."}
    )
    stopping_criteria: list[str] = field(
        default_factory=list,
        metadata={"help": "Keep and compare the best models by these validation metrics, such as: ece nll accuracy."},
    )
    num_train_epochs: float = field(default=20, metadata={"help": "Number of epochs."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Batch size per device."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up: steps, or a share of them below 1."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, epoch or steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, epoch or steps."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, epoch or steps."})


def main() -> None:
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, ImageTrainingArguments])
    name = model_args.model_name_or_path or "resnet10t"
    from_scratch = model_args.train_from_scratch or model_args.model_name_or_path is None
    checkpoint = start_run(args, data_args.dataset_name, name, args.loss or CalibrationTrainer.default_loss)

    with args.main_process_first():
        dataset = load_image_dataset(
            data_args.dataset_name,
            data_args.dataset_config_name,
            image_column=data_args.image_column_name,
            label_column=data_args.label_column_name,
            holdout=data_args.holdout,
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
        data_size=max(dataset["train"][0]["image"].size),
    )
    augmentation = data_args.augmentation or ("crop" if data_args.dataset_name == DIGITS else "crop-flip")
    train = dataset["train"].with_transform(ImageTransform(processor, augmentation))
    plain = ImageTransform(processor)
    validation, test = (dataset[split].with_transform(plain) for split in ("validation", "test"))

    trainer = CalibrationTrainer(
        model=model, args=args, train_dataset=train, eval_dataset=validation, processing_class=processor
    )
    if args.track_dynamics or args.dynamics_gradient_epochs:
        sample = take(dataset["train"], len(test), data_args.split_seed).with_transform(plain)
        options = {"gradient_epochs": args.dynamics_gradient_epochs, "n_bins": args.n_bins}
        trainer.add_callback(TrainingDynamicsCallback(trainer, {"train": sample, "test": test}, **options))
    best = KeepBestCallback(trainer, args.stopping_criteria) if args.stopping_criteria else None
    if best is not None:
        trainer.add_callback(best)
    logger.info("Training %s with %r in %d process(es)", name, trainer.loss, args.world_size)
    logger.info("Output in %s", args.output_dir)
    logger.info("Training on %d images, validating on %d, testing on %d", len(train), len(validation), len(test))
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    results = {"dataset": data_args.dataset_name, "model": name, "loss": trainer.loss_name, **metrics}
    if best is not None:
        results["stopping_criteria"] = best.compare(validation, test)
        if trainer.is_world_process_zero():
            print(f"\n{stopping_table(results['stopping_criteria'])}")
    end_run(
        trainer,
        validation,
        test,
        dataset_name=data_args.dataset_name,
        task="image-classification",
        results=results,
        base_model=None if from_scratch or Path(name).exists() else name,
        dataset_config=data_args.dataset_config_name,
        dataset_revision=data_args.dataset_revision,
    )


if __name__ == "__main__":
    main()
