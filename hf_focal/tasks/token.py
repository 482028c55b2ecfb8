# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Sentences with a class for each word, as for named-entity recognition."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import transformers
from datasets import ClassLabel, Dataset, DatasetDict, Value
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..predictions import IGNORED
from .base import Task, register_task
from .columns import LABEL, Column, is_text, plain_label
from .rows import stored_rows
from .text import NO_LIMIT, check_tokenizer, log_cuts, longest_text, prepare_tokenizer


logger = logging.getLogger(__name__)


def _is_words(feature: Any) -> bool:
    return is_text(getattr(feature, "feature", None))


def _is_tags(feature: Any) -> bool:
    label = getattr(feature, "feature", None)
    return _is_words(feature) or str(getattr(label, "dtype", "")).startswith(("int", "uint"))


@register_task
class TokenClassification(Task):
    """Sentences as lists of words, with a class for each word, which its first token bears."""

    name = "token-classification"
    suffix = "ForTokenClassification"
    auto_class = transformers.AutoModelForTokenClassification
    processor = "tokenizer"
    input = Column("words", "words", _is_words, ("tokens", "words"), "words_column (--text_column_name)")
    label = Column("labels", "tags", _is_tags, ("ner_tags", "pos_tags", "tags", "labels"), LABEL.argument)
    label_first = False  # labels may be strings as well
    column_flag = "text_column_name"
    unit = "tokens"
    group = "sentence"
    adapter_type = "TOKEN_CLS"
    example = "Ada Lovelace was born in London."
    batch = '["A text.", "And another one."], padding=True'
    varying = {0: "batch", 1: "length"}
    example_options = ', aggregation_strategy="first"'
    card_note = (
        "A word has the label and the probability of its first token, which alone was trained and measured; a group "
        "of several words has the mean of theirs."
    )

    def size(self, processor: Any) -> str:
        return longest_text(processor)

    def check_inputs(self, data: Dataset, split: str, column: str) -> Dataset:
        for name, feature in data.features.items():
            if not isinstance(getattr(feature, "feature", None), (Value, ClassLabel)):
                what = f"lists of {'strings' if name == column else 'labels'}, one for each word"
                raise ValueError(f"The column {name!r} of the split {split!r} must hold {what}: {feature}.")
        return data

    def checked_labels(self, data: Dataset, split: str) -> list[list[Any]]:
        rows, feature = [], data.features["labels"].feature
        for row, words, labels in zip(stored_rows(data), data["words"], data["labels"][:], strict=True):
            if not words:
                raise ValueError(f"The split {split!r} has an empty sentence in row {row}. Remove it.")
            if labels is None or len(labels) != len(words):
                counts = f"{len(words)} words but {len(labels or ())} labels in row {row}: {_shown(words)}"
                raise ValueError(f"The split {split!r} has {counts}. Every word needs one.")
            for place, word in enumerate(words):
                if not isinstance(word, str):
                    raise ValueError(f"The split {split!r} has {word!r} for a word in row {row}, word {place}.")
            places = (f"row {row}, word {place}" for place in range(len(words)))
            rows.append(
                [plain_label(label, feature, split, place) for label, place in zip(labels, places, strict=True)]
            )
        return rows

    def texts(self, data: Dataset) -> Iterable[str]:
        return map(" ".join, data["words"])

    def check_processor(self, model: PreTrainedModel, processor: Any, name: str | Path) -> None:
        check_tokenizer(model, processor, name)

    def prepare(self, model: PreTrainedModel, processor: Any, max_length: int | None = None) -> None:
        if not isinstance(processor, PreTrainedTokenizerFast):
            needs = "Token classification needs to know which tokens are of which word, and the tokenizer"
            mend = "Choose a model with a fast tokenizer (a tokenizer.json)."
            raise ValueError(f"{needs} ({type(processor).__name__}) cannot tell. {mend}")
        before_words = processor.backend_tokenizer.pre_tokenizer
        if isinstance(before_words, pre_tokenizers.ByteLevel):
            # RoBERTa's and GPT-2's know a word after a space by other tokens than at the start of a text.
            before_words.add_prefix_space = True
            processor.add_prefix_space = processor.init_kwargs["add_prefix_space"] = True  # loaded again, too
        if processor("a a")["input_ids"] != processor(["a", "a"], is_split_into_words=True)["input_ids"]:
            found = "The tokenizer gives words that come one by one other tokens than in running text."
            mend = "Give the model its texts as lists of words, too: pipeline(...)(words, is_split_into_words=True)."
            logger.warning("%s %s", found, mend)
        prepare_tokenizer(model, processor, max_length)

    def encode(self, data: Dataset, processor: Any) -> Dataset:
        return tokenize_words(data, processor)

    def sample_encoder(self, processor: Any) -> Callable[[Any, Any, Any], dict[str, Any]]:
        def encode(words: list[str], labels: list[int], _: Any) -> dict[str, Any]:
            if not words or len(labels) != len(words):
                raise ValueError(f"it has {len(words or ())} words but {len(labels)} labels, and every word needs one")
            cut = processor.model_max_length < NO_LIMIT
            encoded = processor(words, truncation=cut, is_split_into_words=True)
            found = _labels_of_tokens(encoded.word_ids(), labels)
            if all(label == IGNORED for label in found):
                raise ValueError(f"no word of the sentence has a token ({_shown(words)!r})")
            return {**encoded, "labels": found}

        return encode

    def collator(self, processor: Any) -> Callable[[list[Any]], Any]:
        return transformers.DataCollatorForTokenClassification(processor)


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
        words_column, label_column (`str`, *optional*):
            Columns to use. By default the column of lists of strings, where there are several the one that is called
            `tokens` or `words`, and the other column of lists of labels, where there are several the one that is
            called `ner_tags`, `pos_tags`, `tags` or `labels`.
        config_name, holdout, validation_size, seed, revision:
            As for [`load_image_dataset`].

    Returns:
        `datasets.DatasetDict`: As [`load_image_dataset`], but `labels` is a `List` of `ClassLabel`, one for each word.

    Raises:
        ValueError: As [`load_text_dataset`]; if a column holds no lists, a sentence is empty, or it has not as many
            labels as words.
    """
    columns = words_column, label_column
    return TokenClassification().load_dataset(name, config_name, *columns, holdout, validation_size, seed, revision)


def _shown(words: list[str]) -> str:
    return " ".join(map(str, words[:8])) + (" ..." if len(words) > 8 else "")


def _labels_of_tokens(words: list[int | None], of_words: list[int]) -> list[int]:
    """The labels of tokens of these words: that of its word for the first of each, for all others none."""
    firsts = [word if word != before else None for before, word in zip([None, *words], words, strict=False)]
    return [IGNORED if word is None else of_words[word] for word in firsts]


def tokenize_words(data: Dataset, tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """
    The model's inputs and `labels` of a data set with the columns `words` and `labels`. Batches are padded later, by
    `transformers.DataCollatorForTokenClassification`.

    The first token of each word has its label; all others, special ones included, have -100, as in the examples of
    transformers. Sentences of more tokens than `tokenizer.model_max_length` are cut. The log says how many, and how
    many words have no token.

    Args:
        data (`datasets.Dataset`):
            Such as [`load_token_dataset`] returns.
        tokenizer (`transformers.PreTrainedTokenizerFast`):
            Prepared for words, as by [`create_text_classifier`] with `task="token-classification"`.

    Raises:
        ValueError: If no word of a sentence has a token.
    """
    options = {"is_split_into_words": True}

    def encode(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, Any]:
        encoded = tokenizer(batch["words"], truncation=tokenizer.model_max_length < NO_LIMIT, **options)
        labels = []
        for place, of_words in enumerate(batch["labels"]):
            labels.append(_labels_of_tokens(encoded.word_ids(place), of_words))
            if all(label == IGNORED for label in labels[-1]):
                raise ValueError(
                    f"No word of the sentence in row {rows[place]} has a token ({_shown(batch['words'][place])!r}): "
                    "the tokenizer makes nothing of them, or max_seq_length leaves no room. Remove it, or raise that."
                )
        return {**encoded, "labels": labels}

    kept = {"remove_columns": data.column_names, "keep_in_memory": True}
    encoded = data.map(encode, batched=True, with_indices=True, desc="Tokenizing", **kept)
    log_cuts([data["words"][:]], encoded, tokenizer, "sentences", **options)
    total = sum(map(len, data["labels"]))
    if lost := total - sum(label != IGNORED for labels in encoded["labels"] for label in labels):
        logger.warning("%d of %d words have no token, so that their labels do not count.", lost, total)
    return encoded
