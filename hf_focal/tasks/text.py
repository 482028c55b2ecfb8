# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Texts as model inputs: the padding token, how long a text a model takes, tokenised data sets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from ..checks import check_count
from ..networks.trees import TreeTokenizer, tokenize_trees


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

_NO_LIMIT = 1 << 30  # a tokenizer that knows no maximum says 10^30


def prepare_tokenizer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int | None = None,
    task: str = "text-classification",
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
        task (`str`, *optional*, defaults to `"text-classification"`):
            For `"token-classification"` the tokenizer is prepared for texts that come as lists of words.

    Raises:
        ValueError: If there is no token to pad with, `max_seq_length` is less than 1, or the tokenizer cannot tell
            which tokens are of which word.
    """
    if task == "token-classification":
        _prepare_for_words(tokenizer)
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


def _prepare_for_words(tokenizer: PreTrainedTokenizerBase) -> None:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"Token classification needs to know which tokens are of which word, and the tokenizer "
            f"({type(tokenizer).__name__}) cannot tell. Choose a model with a fast tokenizer (a tokenizer.json)."
        )
    before_words = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(before_words, pre_tokenizers.ByteLevel):
        # RoBERTa's and GPT-2's know a word after a space by other tokens than at the start of a text.
        before_words.add_prefix_space = True
        tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = True  # also when it is loaded again
    if tokenizer("a a")["input_ids"] != tokenizer(["a", "a"], is_split_into_words=True)["input_ids"]:
        logger.warning(
            "The tokenizer gives words that come one by one other tokens than in running text. Give the model its "
            "texts as lists of words, too: pipeline(...)(words, is_split_into_words=True)."
        )


def tokenize(data: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """
    The model's inputs and `labels` of a data set with the columns `text` and `label`. Batches are padded later, by
    `transformers.DataCollatorWithPadding`, which a `Trainer` with this tokenizer uses. Texts of more tokens than
    `tokenizer.model_max_length` are cut, and the log says how many. For a [`TreeTokenizer`] the texts are trees.
    """
    if isinstance(tokenizer, TreeTokenizer):
        trees = tokenize_trees(data, tokenizer, "text").remove_columns("text")
        return trees.rename_column("label", "labels")

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return {**tokenizer(batch["text"], truncation=truncates(tokenizer))}

    # In memory: a data set that was saved to disk would otherwise get files of ours beside its own.
    encoded = data.map(encode, batched=True, remove_columns="text", keep_in_memory=True, desc="Tokenizing")
    log_cuts(data["text"], encoded, tokenizer, "texts")
    return encoded.rename_column("label", "labels")


def truncates(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there is a length to cut to."""
    return tokenizer.model_max_length < _NO_LIMIT


def log_cuts(
    inputs: Sequence[Any], encoded: Dataset, tokenizer: PreTrainedTokenizerBase, kind: str, **options: Any
) -> None:
    """Say how many of the inputs were cut; `options` are those that the tokenizer was called with."""
    limit = tokenizer.model_max_length
    full = [row for row, tokens in enumerate(encoded["input_ids"]) if len(tokens) == limit]
    whole = tokenizer([inputs[row] for row in full], verbose=False, **options)["input_ids"] if full else []
    if longer := sum(len(tokens) > limit for tokens in whole):
        logger.warning("%d of %d %s are longer than %d tokens and are cut.", longer, len(encoded), kind, limit)


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
