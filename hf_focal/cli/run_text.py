# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
r"""
Train a classifier of texts, of pairs of texts or of words, with a calibration loss, calibrate it on validation data,
and save it.

  hf-focal run-text                         # SciPy's documentation, offline
  hf-focal run-text --dataset_name imdb --learning_rate 2e-5 \
      --model_name_or_path distilbert-base-uncased --num_train_epochs 2
  hf-focal run-text --dataset_name imdb --lora \
      --model_name_or_path Qwen/Qwen3-0.6B --loss focal --gamma 2
  hf-focal run-text --task token-classification --learning_rate 2e-5 \
      --dataset_name path/to/sentences --model_name_or_path bert-base-cased

With several GPUs: `accelerate launch -m hf_focal.cli.run_text` and the same flags.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("run-text")


from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..models.create import LEARNED, SMALL_BERT, TREE_LSTM, create_text_classifier, freeze_all_but_last, text_tasks
from ..networks.adagrad_sgd import AdagradWithEmbeddingSGD
from ..networks.trees import TreeTokenizer, parse_tree, phrase_classes, tokenize_trees
from ..tasks import Task, TextClassification
from ..tasks.base import canonical_task, get_task
from ..tasks.embedded import SCIPY_DOCS
from ..tasks.pairs import pair_for
from ..training.trainer import CalibrationTrainer
from .arguments import TrainArguments, TrainDataArguments, flag, json_object, parse_arguments
from .run import outputs_of, start_run, train_run
from .streaming import check_training, encoded_parts, load_training_streams, refuse, start_anew


@dataclass
class ModelArguments:
    """Which network, and how much of it to train."""

    task: str = flag(default=TextClassification.name, help="A name in `hf_focal.TASKS`, of a task of texts.")
    model_name_or_path: str = flag(default=SMALL_BERT, help=f"A checkpoint or folder, or one of {', '.join(LEARNED)}.")
    train_from_scratch: bool = flag(default=False, help="Start from random weights.")
    one_logit: bool = flag(default=False, help="A single logit, for the second of two classes.")
    max_seq_length: int | None = flag(default=None, help="Most tokens of a text. Unset: the model's own.")
    embeddings: str | None = flag(default=None, help="Word vectors (GloVe), for the paper's networks.")
    vocab_size: int | None = flag(default=None, help="Most entries of a vocabulary that is learned.")
    vocabulary_of_all_splits: bool = flag(default=False, help="Learn it from all texts, as the paper's code does.")
    model_kwargs: dict | str | None = flag(default=None, help='Its further settings, as JSON: {"dropout": 0.2}')
    embedding_learning_rate: float | None = flag(default=None, help="Tune these by SGD at it, all else by Adagrad.")
    freeze_all_but_last: int | None = flag(default=None, help="Train the head and so many last layers only.")
    lora: bool = flag(default=False, help="Train a low-rank adapter (LoRA, by peft), and merge it at the end.")
    lora_rank: int = flag(default=8, help="Rank of the adapter.")
    lora_alpha: int = flag(default=16, help="Scale of the adapter, over its rank.")
    lora_dropout: float = flag(default=0.0, help="Dropout before the adapter.")

    def __post_init__(self) -> None:
        self.model_kwargs = json_object("--model_kwargs", self.model_kwargs)


@dataclass
class DataArguments(TrainDataArguments):
    """Which texts."""

    dataset_name: str = flag(default=SCIPY_DOCS, help="On the Hub, a local folder, or the embedded 'scipy-docs'.")
    text_column_name: str | None = flag(default=None, help="Column of texts, words or trees.")
    text_pair_column_name: str | None = flag(default=None, help="Column of the second text of each pair.")
    every_phrase: bool = flag(default=False, help="Train on every phrase of a tree whose label a tree has as well.")
    extra_class: str | None = flag(default=None, help="With --every_phrase: one class more, for all other phrases.")


def _check(model_args: ModelArguments, data_args: DataArguments) -> Task:
    """What can be known to be wrong before anything is loaded, and the task."""
    if model_args.lora and model_args.freeze_all_but_last is not None:
        raise ValueError("Give either --lora or --freeze_all_but_last, not both.")
    if data_args.extra_class is not None and not data_args.every_phrase:
        raise ValueError("--extra_class is a class of phrases: it needs --every_phrase.")
    if data_args.streaming:
        learned = model_args.model_name_or_path
        if learned in LEARNED and not Path(learned).is_dir():
            needs = f"the vocabulary of {learned} is learned from all texts"
            raise ValueError(f"--streaming needs a checkpoint with a tokenizer: {needs}.")
        refuse({"every_phrase": "phrases are counted first", "vocabulary_of_all_splits": "texts are not read first"},
               model_args, data_args)  # fmt: skip
    if data_args.text_pair_column_name is not None and model_args.model_name_or_path == TREE_LSTM:
        raise ValueError("--text_pair_column_name is for pairs of texts, and tree-lstm reads one tree a sample.")
    if canonical_task(model_args.task) not in text_tasks():
        raise ValueError(f"--task must be one of {', '.join(text_tasks())}, got {model_args.task!r}.")
    task = get_task(model_args.task)
    if data_args.dataset_name == SCIPY_DOCS and SCIPY_DOCS not in task.embedded:
        raise ValueError(f"There are no embedded sentences for {task.name}: give --dataset_name.")
    return task


def _with_adapter(model: Any, model_args: ModelArguments, task: Task) -> Any:
    """The model with a low-rank adapter to train."""
    from peft import LoraConfig, get_peft_model

    head = ["classifier", "score"]  # which is trained whole
    sizes: dict[str, Any] = {
        "r": model_args.lora_rank,
        "lora_alpha": model_args.lora_alpha,
        "lora_dropout": model_args.lora_dropout,
    }
    lora = LoraConfig(task_type=task.adapter_type, target_modules="all-linear", exclude_modules=head, **sizes)
    return get_peft_model(model, lora)


def _load(data_args: DataArguments, args: TrainArguments, task: Any, name: str) -> tuple[Any, list[str]]:
    """The splits, and the names of the classes."""
    if data_args.streaming:
        streams = load_training_streams(task, data_args, data_args.text_column_name)
        return streams, list(streams["train"].names or ())
    options = {"input_column": data_args.text_column_name, "check": parse_tree if name == TREE_LSTM else None}
    dataset = data_args.load(task.load_dataset, args, **options, **data_args.pair_options())
    return dataset, task.class_names(dataset["train"])


def _with_extra_class(data_args: DataArguments, names: list[str], sigmoid: bool) -> list[str]:
    if sigmoid and data_args.every_phrase:
        raise ValueError("--every_phrase needs one label for each tree, and a softmax over them.")
    if data_args.extra_class is None:
        return names
    if data_args.extra_class in names:
        raise ValueError(f"--extra_class {data_args.extra_class} is a class of the data already: {names}.")
    return [*names, data_args.extra_class]


def main() -> None:
    """What the command does."""
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, TrainArguments], description=__doc__)
    name = model_args.model_name_or_path
    from_scratch = model_args.train_from_scratch or (name in LEARNED and not Path(name).is_dir())
    task: Any = _check(model_args, data_args)
    if data_args.streaming:
        check_training(args, data_args)
    checkpoint = start_run(args, data_args.dataset_name, name, args.loss or CalibrationTrainer.default_loss)

    dataset, names, sigmoid = outputs_of(task, *_load(data_args, args, task, name), model_args.one_logit)
    names = _with_extra_class(data_args, names, sigmoid)
    learned_from = dataset.values() if model_args.vocabulary_of_all_splits else [dataset["train"]]
    texts = () if data_args.streaming else chain.from_iterable(map(task.texts, learned_from))
    options: dict[str, Any] = {"from_scratch": from_scratch, "texts": texts, "sigmoid": sigmoid}
    same = "max_seq_length", "embeddings", "vocab_size", "model_kwargs"
    options |= {option: getattr(model_args, option) for option in same}
    tokenizer: Any
    model, tokenizer = create_text_classifier(name, names, task=task.name, **options)
    if data_args.every_phrase and not isinstance(tokenizer, TreeTokenizer):
        raise ValueError(f"--every_phrase needs a network of trees, such as tree-lstm; {name} reads texts.")
    pair = pair_for(model, tokenizer, dataset["train"])
    if model_args.freeze_all_but_last is not None:
        freeze_all_but_last(model, model_args.freeze_all_but_last)
    if model_args.lora:
        model = _with_adapter(model, model_args, task)
    train: Any
    plain_train: Any = None
    if data_args.streaming:
        streams = encoded_parts(dataset, task, tokenizer, args, data_args, train=task.sample_encoder(tokenizer))
        start_anew(args, streams["train"], checkpoint)
        train, validation, test = streams.values()
    else:
        train, validation, test = (task.encode(data, tokenizer) for data in dataset.values())
        plain_train = train.shuffle(seed=data_args.split_seed).select(range(min(len(train), len(test))))
    if data_args.every_phrase:
        extra = None if data_args.extra_class is None else len(names) - 1
        classes = phrase_classes(dataset["train"], "text", extra)
        train = tokenize_trees(dataset["train"], tokenizer, "text", node_labels=classes, every_node=True)
        train = train.remove_columns("text")

    optimizer: Any = None
    if model_args.embedding_learning_rate is not None:
        rates = {"lr": args.learning_rate, "embedding_lr": model_args.embedding_learning_rate}
        optimizer = AdagradWithEmbeddingSGD, {"model": model, **rates, "weight_decay": args.weight_decay}
    options = {"data_collator": task.collator(tokenizer), "optimizer_cls_and_kwargs": optimizer}
    data: dict[str, Any] = {"train_dataset": train, "eval_dataset": validation}
    trainer = CalibrationTrainer(model=model, args=args, processing_class=tokenizer, **data, **options)
    about = {"name": name, "task": task.name, "data_args": data_args, "from_scratch": from_scratch, "pair": pair}
    train_run(trainer, test, **about, checkpoint=checkpoint, plain_train=plain_train, merge=model_args.lora)
