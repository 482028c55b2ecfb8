# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train a classifier of texts, or of their words, with a calibration loss, fit a temperature on validation data, and save
a calibrated model.

    accelerate launch scripts/run_text.py                                    # SciPy's documentation, offline
    accelerate launch scripts/run_text.py --dataset_name imdb --model_name_or_path distilbert-base-uncased \
        --learning_rate 2e-5 --num_train_epochs 2 --loss focal --gamma 2
    accelerate launch scripts/run_text.py --dataset_name imdb --model_name_or_path Qwen/Qwen3-0.6B --lora
    accelerate launch scripts/run_text.py --task token-classification --dataset_name path/to/sentences \
        --model_name_or_path bert-base-cased --learning_rate 2e-5

Every field below and of `CalibrationTrainingArguments` is a flag; `--config file.yaml` sets many at once.
"""

from dataclasses import dataclass, field

from transformers import DataCollatorForTokenClassification

from hf_focal import (
    CalibrationTrainer,
    create_text_classifier,
    load_text_dataset,
    load_token_dataset,
    parse_arguments,
    tokenize_words,
)
from hf_focal.cli import TrainArguments, TrainDataArguments, start_run, train_run
from hf_focal.data import SCIPY_DOCS
from hf_focal.modeling import SMALL_BERT, TEXT_TASKS, freeze_all_but_last
from hf_focal.text import tokenize


@dataclass
class ModelArguments:
    """Which network, and how much of it to train."""

    task: str = field(default=TEXT_TASKS[0], metadata={"help": f"One of {', '.join(TEXT_TASKS)}."})
    model_name_or_path: str = field(
        default=SMALL_BERT,
        metadata={"help": "A transformers checkpoint, a local folder, or 'small-bert', trained from scratch."},
    )
    train_from_scratch: bool = field(default=False, metadata={"help": "Start from random weights."})
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Cut texts to so many tokens. Unset: as many as the model takes."}
    )
    freeze_all_but_last: int | None = field(
        default=None, metadata={"help": "Train the head and so many of the last layers only."}
    )
    lora: bool = field(
        default=False,
        metadata={"help": "Train a low-rank adapter (LoRA, by peft), and merge it at the end."},
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale of the adapter, over its rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapter."})


@dataclass
class DataArguments(TrainDataArguments):
    """Which texts."""

    dataset_name: str = field(
        default=SCIPY_DOCS, metadata={"help": "A data set on the Hub, a local folder, or the embedded 'scipy-docs'."}
    )
    text_column_name: str | None = field(default=None, metadata={"help": "Column of texts, or of lists of words."})


def main() -> None:
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, TrainArguments])
    name = model_args.model_name_or_path
    from_scratch = model_args.train_from_scratch or name == SMALL_BERT
    if model_args.lora and model_args.freeze_all_but_last is not None:
        raise ValueError("Give either --lora or --freeze_all_but_last, not both.")
    if model_args.task not in TEXT_TASKS:
        raise ValueError(f"--task must be one of {', '.join(TEXT_TASKS)}, got {model_args.task!r}.")
    of_words = model_args.task == "token-classification"
    if of_words and data_args.dataset_name == SCIPY_DOCS:
        raise ValueError("There are no embedded sentences with a label for each word: give --dataset_name.")
    checkpoint = start_run(args, data_args.dataset_name, name, args.loss or CalibrationTrainer.default_loss)

    if of_words:
        dataset = data_args.load(load_token_dataset, args, words_column=data_args.text_column_name)
        classes = dataset["train"].features["labels"].feature
        texts = (" ".join(words) for words in dataset["train"]["words"])
    else:
        dataset = data_args.load(load_text_dataset, args, text_column=data_args.text_column_name)
        classes, texts = dataset["train"].features["label"], dataset["train"]["text"]
    model, tokenizer = create_text_classifier(
        name,
        classes.names,
        from_scratch=from_scratch,
        max_seq_length=model_args.max_seq_length,
        texts=texts,
        task=model_args.task,
    )
    if model_args.freeze_all_but_last is not None:
        freeze_all_but_last(model, model_args.freeze_all_but_last)
    if model_args.lora:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            task_type="TOKEN_CLS" if of_words else "SEQ_CLS",
            target_modules="all-linear",
            exclude_modules=["classifier", "score"],  # the head, which is trained whole
            r=model_args.lora_rank,
            lora_alpha=model_args.lora_alpha,
            lora_dropout=model_args.lora_dropout,
        )
        model = get_peft_model(model, lora)
    encode = tokenize_words if of_words else tokenize
    train, validation, test = (encode(data, tokenizer) for data in dataset.values())

    trainer = CalibrationTrainer(
        model=model,
        args=args,
        data_collator=DataCollatorForTokenClassification(tokenizer) if of_words else None,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
    )
    train_run(
        trainer,
        test,
        name=name,
        task=model_args.task,
        data_args=data_args,
        checkpoint=checkpoint,
        from_scratch=from_scratch,
        plain_train=train.shuffle(seed=data_args.split_seed).select(range(min(len(train), len(test)))),
        merge=model_args.lora,
    )


if __name__ == "__main__":
    main()
