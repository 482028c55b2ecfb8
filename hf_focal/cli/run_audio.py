# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
r"""
Train a classifier of sounds with a calibration loss, calibrate it on validation data, and save it.

  hf-focal run-audio --model_name_or_path facebook/wav2vec2-base \
      --dataset_name path/to/sounds --learning_rate 3e-5

With several GPUs: `accelerate launch -m hf_focal.cli.run_audio` and the same flags.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("run-audio")


from dataclasses import dataclass
from typing import Any

from ..models.create import create_audio_classifier
from ..tasks import AudioClassification
from ..tasks.splits import take
from ..training.trainer import CalibrationTrainer
from .arguments import TrainArguments, TrainDataArguments, flag, parse_arguments
from .run import measure_alone, outputs_of, start_run, train_run
from .streaming import check_training, encoded_parts, load_training_streams, start_anew


@dataclass
class ModelArguments:
    """Which network, and how much of it to train."""

    model_name_or_path: str = flag(help="A checkpoint on the Hub, or a local folder.")
    train_from_scratch: bool = flag(default=False, help="Start from random weights.")
    freeze_feature_encoder: bool = flag(
        default=True, help="Leave pretrained convolutions as they are, as of wav2vec2."
    )


@dataclass
class DataArguments(TrainDataArguments):
    """Which sounds."""

    audio_column_name: str | None = flag(default=None, help="Column of sounds.")
    max_length_seconds: float = flag(default=20.0, help="Train on so much of a sound, anywhere in it; measure on all.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_length_seconds < float("inf"):
            raise ValueError(f"--max_length_seconds must be a number above 0, got {self.max_length_seconds}.")


def main() -> None:
    """What the command does."""
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, TrainArguments], description=__doc__)
    name, from_scratch, task = model_args.model_name_or_path, model_args.train_from_scratch, AudioClassification()
    if data_args.streaming:
        check_training(args, data_args)
    checkpoint = start_run(args, data_args.dataset_name, name, args.loss or CalibrationTrainer.default_loss)

    column, dataset = data_args.audio_column_name, dict[str, Any]()
    if data_args.streaming:
        dataset |= load_training_streams(task, data_args, column)
        names = list(dataset["train"].names or ())
    else:
        dataset |= data_args.load(task.load_dataset, args, input_column=column)
        names = task.class_names(dataset["train"])
    parts, names, sigmoid = outputs_of(task, dataset, names, one_logit=False)
    model: Any
    model, extractor = create_audio_classifier(name, names, from_scratch=from_scratch, sigmoid=sigmoid)
    if model_args.freeze_feature_encoder and not from_scratch and hasattr(model, "freeze_feature_encoder"):
        model.freeze_feature_encoder()
    measure_alone(args, task, model, extractor)
    train: Any
    validation: Any
    test: Any
    longest, plain_train = round(data_args.max_length_seconds * extractor.sampling_rate), None
    if data_args.streaming:
        encode = task.sample_encoder(extractor, longest)
        train, validation, test = encoded_parts(parts, task, extractor, args, data_args, train=encode).values()
        start_anew(args, train, checkpoint)
    else:
        train, validation, test = (task.encode(data, extractor) for data in parts.values())
        train = task.encode(parts["train"], extractor, longest)
        plain_train = task.encode(take(parts["train"], len(test), data_args.split_seed), extractor)

    data: dict[str, Any] = {"train_dataset": train, "eval_dataset": validation}
    options = {"data_collator": task.collator(extractor), "processing_class": extractor}
    trainer = CalibrationTrainer(model=model, args=args, **data, **options)
    about = {"name": name, "task": task.name, "data_args": data_args, "from_scratch": from_scratch}
    train_run(trainer, test, **about, checkpoint=checkpoint, plain_train=plain_train)
