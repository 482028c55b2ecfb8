# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train an image classifier with a calibration loss, fit a temperature on validation data, and save a calibrated model.

    accelerate launch scripts/run_image.py                                   # scikit-learn's digits, offline
    accelerate launch scripts/run_image.py --dataset_name cifar10 --model_name_or_path resnet18 --loss focal --gamma 2
    accelerate launch scripts/run_image.py --push_to_hub --hub_model_id user/name

Every field below and of `CalibrationTrainingArguments` is a flag; `--config file.yaml` sets many at once.
"""

from dataclasses import dataclass, field

from hf_focal import (
    CalibrationTrainer,
    ImageTransform,
    create_image_classifier,
    load_image_dataset,
    parse_arguments,
)
from hf_focal.cli import TrainArguments, TrainDataArguments, start_run, train_run
from hf_focal.data import AUGMENTATIONS, DIGITS


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
class DataArguments(TrainDataArguments):
    """Which images."""

    dataset_name: str = field(
        default=DIGITS, metadata={"help": "A data set on the Hub, a local folder, or the embedded 'digits'."}
    )
    image_column_name: str | None = field(default=None, metadata={"help": "Column of images."})
    augmentation: str | None = field(
        default=None,
        metadata={"help": f"One of {', '.join(AUGMENTATIONS)}. Unset: crop-flip, and crop for the digits."},
    )


def main() -> None:
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, TrainArguments])
    name = model_args.model_name_or_path or "resnet10t"
    from_scratch = model_args.train_from_scratch or model_args.model_name_or_path is None
    checkpoint = start_run(args, data_args.dataset_name, name, args.loss or CalibrationTrainer.default_loss)

    dataset = data_args.load(load_image_dataset, args, image_column=data_args.image_column_name)
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
    train_run(
        trainer,
        test,
        name=name,
        task="image-classification",
        data_args=data_args,
        checkpoint=checkpoint,
        from_scratch=from_scratch,
    )


if __name__ == "__main__":
    main()
