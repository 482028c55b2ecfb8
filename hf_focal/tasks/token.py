# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Sentences with a label for each word, as for named-entity recognition: their data sets, and as model inputs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from datasets import ClassLabel, Dataset, DatasetDict, List, Value

from .load import (
    check_holdout,
    check_label,
    common_classes,
    find_column,
    load_splits,
    naming_encoding,
    split_data,
    with_labels,
)
from .text import log_cuts, truncates


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

IGNORED = -100  # the label of tokens that no loss and no metric counts


def load_token_dataset(
    name: str,
    config_name: str | None = None,
    *,
    words_column: str | None = None,
    label_column: str | None = None,
    holdout: float = 0.1,
    validation_size: int | None = None,
    seed: int = 42,
    revision: str | None = None,
) -> DatasetDict:
    """
    Load sentences with a label for each word, with the splits `train`, `validation` and `test`, and the columns
    `words` and `labels`.

    Missing splits are made as by [`load_image_dataset`], of whole sentences and without regard to classes.

    Args:
        name (`str`):
            A data set on the Hub, or a local folder that `datasets.load_dataset` (JSON, Parquet) or `load_from_disk`
            reads.
        config_name (`str`, *optional*):
            Configuration of the data set.
        words_column, label_column (`str`, *optional*):
            Columns to use. By default the column of lists of strings, where there are several the one that is called
            `tokens` or `words`, and the other column of lists of labels, where there are several the one that is
            called `ner_tags`, `pos_tags`, `tags` or `labels`.
        holdout (`float`, *optional*, defaults to `0.1`):
            Share of the training data split off for each missing split, in (0, 1).
        validation_size (`int`, *optional*):
            As for [`load_image_dataset`].
        seed (`int`, *optional*, defaults to `42`):
            Seed of the splitting.
        revision (`str`, *optional*):
            Revision of a data set on the Hub.

    Returns:
        `datasets.DatasetDict`: `labels` is a `List` of `ClassLabel`, one for each word. Labels that are whole numbers
        or strings become classes in their sorted order, the same for all splits.

    Raises:
        ValueError: As [`load_text_dataset`]; if a column holds no lists, a sentence is empty, or it has not as many
            labels as words.
    """
    check_holdout(holdout)
    splits = load_labelled_words(name, config_name, words_column, label_column, revision)
    return split_data(splits, holdout=holdout, seed=seed, validation_size=validation_size)


def load_labelled_words(
    name: str,
    config_name: str | None = None,
    words_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
) -> dict[str, Dataset]:
    """The splits that a data set has, with the columns `words` and `labels` as [`load_token_dataset`] makes them."""
    with naming_encoding(name):
        loaded = load_splits(name, config_name, revision)
        splits = {split: _columns(data, split, words_column, label_column) for split, data in loaded.items()}
        labels = {split: _checked_labels(data, split) for split, data in splits.items()}
    features = {split: data.features["labels"].feature for split, data in splits.items()}
    flat = {split: {label for row in rows for label in row} for split, rows in labels.items()}
    classes = common_classes(flat, features)
    if classes is None:
        return splits
    feature, index = classes
    return {
        split: with_labels(data, [[index[label] for label in row] for row in labels[split]], List(feature), "labels")
        for split, data in splits.items()
    }


def _columns(data: Dataset, split: str, words_column: str | None, label_column: str | None) -> Dataset:
    if len(data) == 0:
        raise ValueError(f"The split {split!r} is empty.")
    words_column = find_column(data, split, words_column, "word", other=label_column)
    label_column = find_column(data, split, label_column, "tag", other=words_column)
    if words_column == label_column:
        raise ValueError(f"The column {words_column!r} cannot hold both the words and their labels.")
    data = data.select_columns([words_column, label_column])
    for column, content in ((words_column, "strings"), (label_column, "labels")):
        if not isinstance(getattr(data.features[column], "feature", None), (Value, ClassLabel)):
            raise ValueError(
                f"The column {column!r} of the split {split!r} must hold lists of {content}, one for each word: "
                f"{data.features[column]}."
            )
    renamed = {words_column: "words", label_column: "labels"}
    return data.rename_columns({old: new for old, new in renamed.items() if old != new})


def _checked_labels(data: Dataset, split: str) -> list[list[Any]]:
    """The labels of each sentence, of which there must be one for each of its words."""
    rows = data["labels"][:]
    for row, (words, labels) in enumerate(zip(data["words"], rows, strict=True)):
        if not words:
            raise ValueError(f"The split {split!r} has an empty sentence in row {row}. Remove it.")
        if labels is None or len(labels) != len(words):
            raise ValueError(
                f"The split {split!r} has {len(words)} words but {len(labels or ())} labels in row {row}: "
                f"{_shown(words)}. Every word needs one."
            )
        for place, (word, label) in enumerate(zip(words, labels, strict=True)):
            if not isinstance(word, str):
                raise ValueError(f"The split {split!r} has {word!r} for a word in row {row}, word {place}.")
            check_label(label, split, f"row {row}, word {place}")
    return rows


def _shown(words: list[str]) -> str:
    return " ".join(map(str, words[:8])) + (" ..." if len(words) > 8 else "")


def tokenize_words(data: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """
    The model's inputs and `labels` of a data set with the columns `words` and `labels`. Batches are padded later, by
    `transformers.DataCollatorForTokenClassification`.

    The first token of each word has its label; all others, special ones included, have -100, as in the examples of
    transformers. Sentences of more tokens than `tokenizer.model_max_length` are cut, and the log says how many. It
    also says how many words have no token: because of a cut, or because the tokenizer makes nothing of them.

    Args:
        data (`datasets.Dataset`):
            Such as [`load_token_dataset`] returns.
        tokenizer (`transformers.PreTrainedTokenizerFast`):
            Prepared for words, as by [`create_text_classifier`] with `task="token-classification"`.

    Returns:
        `datasets.Dataset`

    Raises:
        ValueError: If no word of a sentence has a token.
    """
    options = {"is_split_into_words": True}

    def encode(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, Any]:
        encoded = tokenizer(batch["words"], truncation=truncates(tokenizer), **options)
        labels = []
        for place, of_words in enumerate(batch["labels"]):
            words = encoded.word_ids(place)
            firsts = [word if word != before else None for before, word in zip([None, *words], words, strict=False)]
            labels.append([IGNORED if word is None else of_words[word] for word in firsts])
            if all(word is None for word in firsts):
                raise ValueError(
                    f"No word of the sentence in row {rows[place]} has a token ({_shown(batch['words'][place])!r}): "
                    "the tokenizer makes nothing of them, or max_seq_length leaves no room. Remove it, or raise that."
                )
        return {**encoded, "labels": labels}

    encoded = data.map(
        encode,
        batched=True,
        with_indices=True,
        remove_columns=data.column_names,
        keep_in_memory=True,
        desc="Tokenizing",
    )
    log_cuts(data["words"][:], encoded, tokenizer, "sentences", **options)
    total = sum(map(len, data["labels"]))
    labelled = sum(label != IGNORED for labels in encoded["labels"] for label in labels)
    if labelled < total:
        logger.warning("%d of %d words have no token, so that their labels do not count.", total - labelled, total)
    return encoded
