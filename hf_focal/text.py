# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Texts as model inputs: the padding token, how long a text a model takes, tokenised data sets."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from .inputs import check_count
from .trees import TreeTokenizer, tokenize_trees


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

_NO_LIMIT = 1 << 30  # a tokenizer that knows no maximum says 10^30


def prepare_tokenizer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None = None
) -> None:
    """
    Let tokenizer and model agree on the padding token and on how long a text may be.

    Decoders such as GPT-2 come without a padding token: their end of text serves, for it is masked.

    Args:
        model (`transformers.PreTrainedModel`):
            Its config gets the padding token where it has none.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Its `model_max_length` becomes what the model takes, if that is less.
        max_seq_length (`int`, *optional*):
            Cut texts to so many tokens, if that is less than the model takes.

    Raises:
        ValueError: If there is no token to pad with, or `max_seq_length` is less than 1.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"The tokenizer ({type(tokenizer).__name__}) has neither a padding token nor an end of text to pad "
                "with. Set tokenizer.pad_token and save it with the model."
            )
        tokenizer.pad_token = tokenizer.eos_token
    text_config = model.config.get_text_config()
    for config in (model.config, text_config):  # decoders look in theirs for the last token that is no padding
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id
    limits = [tokenizer.model_max_length]
    if max_seq_length is not None:
        limits.append(check_count("max_seq_length", max_seq_length))
    if positions := getattr(text_config, "max_position_embeddings", None):
        # RoBERTa and its kin count positions from the padding index on.
        embeddings = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
        padding = [module.padding_idx for module in embeddings if isinstance(module, nn.Embedding)]
        limits.append(positions - next((index + 1 for index in padding if index is not None), 0))
    tokenizer.model_max_length = min(limits)


def tokenize(data: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """
    The model's inputs and `labels` of a data set with the columns `text` and `label`. Batches are padded later, by
    `transformers.DataCollatorWithPadding`, which a `Trainer` with this tokenizer uses. Texts of more tokens than
    `tokenizer.model_max_length` are cut, and the log says how many. For a [`TreeTokenizer`] the texts are trees.
    """
    if isinstance(tokenizer, TreeTokenizer):
        trees = tokenize_trees(data, tokenizer, "text").remove_columns("text")
        return trees.rename_column("label", "labels")
    limit = tokenizer.model_max_length
    truncation = limit < _NO_LIMIT

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return {**tokenizer(batch["text"], truncation=truncation)}

    # In memory: a data set that was saved to disk would otherwise get files of ours beside its own.
    encoded = data.map(encode, batched=True, remove_columns="text", keep_in_memory=True, desc="Tokenizing")
    full = [row for row, tokens in enumerate(encoded["input_ids"]) if len(tokens) == limit]
    if full:
        whole = tokenizer(data.select(full)["text"][:], verbose=False)["input_ids"]
        if longer := sum(len(tokens) > limit for tokens in whole):
            logger.warning("%d of %d texts are longer than %d tokens and are cut.", longer, len(data), limit)
    return encoded.rename_column("label", "labels")


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4000) -> PreTrainedTokenizerBase:
    """
    A tokenizer of lower-cased WordPieces (Schuster and Nakajima, 2012), as BERT's, whose vocabulary is learned from
    these texts.

    Args:
        texts (`Iterable[str]`):
            The training texts.
        vocab_size (`int`, *optional*, defaults to `4000`):
            Number of tokens at most.

    Returns:
        `transformers.PreTrainedTokenizerFast`: It frames a text with `[CLS]` and `[SEP]`.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    frame = [(token, special.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, special, strict=True)))
