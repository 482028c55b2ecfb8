# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Texts with a class each: how long a text a model takes, what pads it, tokenised data sets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..checks import check_count
from ..networks import TreeLSTMForSequenceClassification, TreeTokenizer
from ..networks.trees import parse_tree
from .base import Task, register_task
from .columns import Column, is_text
from .embedded import SCIPY_DOCS, scipy_docs
from .multi_label import multi_hot
from .pairs import PAIR, find_pair, text_columns
from .rows import stored_rows


logger = logging.getLogger(__name__)

NO_LIMIT = 1 << 30  # a tokenizer that knows no maximum says 10^30


@register_task
class TextClassification(Task):
    """Texts with a class each, or pairs of texts, or for a network of trees such texts in brackets."""

    name = "text-classification"
    suffix = "ForSequenceClassification"
    auto_class = AutoModelForSequenceClassification
    processor = "tokenizer"
    names = "text", "sentence", "review", "content", "document", "comment", "tweet"
    input = Column("text", "texts", is_text, names, "text_column (--text_column_name)")
    pair = PAIR
    column_flag = "text_column_name"
    embedded = {SCIPY_DOCS: scipy_docs}
    adapter_type = "SEQ_CLS"
    example = "A sentence to classify."
    batch = '["A text.", "And another one."], padding=True'
    varying = {0: "batch", 1: "length"}

    def columns(self, data: Dataset, split: str, wanted: Mapping[Column, str | None]) -> dict[Column, str]:
        return super().columns(data, split, find_pair(data, split, wanted, self.input))

    def check_inputs(self, data: Dataset, split: str, column: str) -> Dataset:
        if not is_text(feature := data.features[column]):
            raise ValueError(f"The column {column!r} of the split {split!r} must hold strings: {feature}.")
        for row, text in zip(stored_rows(data), data[column], strict=True):
            if not (text or "").strip():
                found = "a missing" if text is None else "an empty"
                raise ValueError(f"The split {split!r} has {found} text in row {row} (column {column!r}). Remove it.")
        return data

    def texts(self, data: Dataset) -> Iterable[str]:
        """The texts of loaded data, for a vocabulary."""
        return chain.from_iterable(data[column] for column in text_columns(data))

    def check_processor(self, model: PreTrainedModel, processor: Any, name: str | Path) -> None:
        check_tokenizer(model, processor, name)

    def prepare(self, model: PreTrainedModel, processor: Any, max_length: int | None = None) -> None:
        prepare_tokenizer(model, processor, max_length)

    def encode(self, data: Dataset, processor: Any) -> Dataset:
        return tokenize(data, processor)

    def sample_encoder(self, processor: Any) -> Callable[[Any, Any, Any], dict[str, Any]]:
        if isinstance(processor, TreeTokenizer):
            raise ValueError("Trees cannot be streamed: load them without streaming.")
        limit = {"truncation": processor.model_max_length < NO_LIMIT}

        def encode(text: str | tuple[str, str], label: int, _: Any) -> dict[str, Any]:
            texts = text if isinstance(text, tuple) else (text,)
            for one, called in zip(texts, ("text", "second text"), strict=False):
                if not (one or "").strip():
                    raise ValueError(f"the {called} is {'missing' if one is None else 'empty'}")
            return {**processor(*texts, **limit), "labels": label}

        return encode

    def size(self, processor: Any) -> str:
        return longest_text(processor)

    def probe(self, model: PreTrainedModel) -> dict[str, Tensor] | None:
        return model.probe_inputs() if isinstance(model, TreeLSTMForSequenceClassification) else None


def load_text_dataset(
    name: str = SCIPY_DOCS,
    config_name: str | None = None,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    trees: bool = False,
    holdout: float = 0.1,
    validation_size: int | None = None,
    seed: int = 42,
    revision: str | None = None,
) -> DatasetDict:
    """
    Load labelled texts with the splits `train`, `validation` and `test`, and the columns `text` and `label`; of pairs
    also `text_pair`.

    Missing splits are made as by [`load_image_dataset`].

    Args:
        name (`str`, *optional*, defaults to `"scipy-docs"`):
            A data set on the Hub, a local folder that `datasets.load_dataset` (CSV, JSON, Parquet) or
            `load_from_disk` reads, or `"scipy-docs"`: over a thousand descriptions of functions from the documentation
            of the SciPy that is installed, labelled by subpackage, split 60/20/20.
        text_column, label_column (`str`, *optional*):
            Columns to use. By default the column of strings, where there are several the one that is called `text`,
            `sentence`, `review` or the like, and the column of class labels or that is called `label`. Several
            labels a sample come in a column of lists of them, or in as many columns of 0 and 1 as there are labels,
            all of which are named.
        text_pair_column (`str`, *optional*):
            Column of the second text of each pair. By default texts are pairs where two columns are called as in GLUE,
            SNLI and reranking data (`premise` and `hypothesis`, `sentence1` and `sentence2`, `query` and `passage`,
            ...), no other is called `text` or the like, and `text_column` is not given; the log tells.
        trees (`bool`, *optional*, defaults to `False`):
            The texts are trees in brackets, see [`parse_tree`]: malformed ones are refused by split and row.
        config_name, holdout, validation_size, seed, revision:
            As for [`load_image_dataset`], as is what is returned.

    Raises:
        ValueError, OSError: As [`load_image_dataset`]; the former also if a text is missing or empty, or a file is not
            in UTF-8.
    """
    if trees and text_pair_column is not None:
        raise ValueError("Trees come one a sample: leave text_pair_column unset.")
    options = holdout, validation_size, seed, revision, parse_tree if trees else None
    return TextClassification().load_dataset(
        name, config_name, text_column, label_column, *options, pair_column=text_pair_column
    )


def longest_text(tokenizer: Any) -> str:
    """How long a text may be, in words; `""` where there is no limit."""
    longest = getattr(tokenizer, "model_max_length", NO_LIMIT)
    return f"texts of at most {longest:,} tokens" if longest < NO_LIMIT else ""


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | Path) -> None:
    """
    Refuse a tokenizer that cannot be the one that a model was trained with, by the size of its vocabulary. Where a
    checkpoint has none, transformers makes one up that knows special tokens alone, and every text is the same to it.
    """
    if not getattr(type(tokenizer), "vocab_files_names", None):  # of bytes or characters, which needs no vocabulary
        return
    vocabulary, special = tokenizer.get_vocab(), {*tokenizer.all_special_tokens}
    ordinary = {token: index for token, index in vocabulary.items() if token not in special}
    mend = "Save the one that it was trained with beside it, by tokenizer.save_pretrained(folder)"
    if not any(token.strip("\u2581") for token in ordinary):  # what some write for a space
        found = f"there is a made-up one of {len(vocabulary)} special tokens, to which all texts are the same"
        raise ValueError(
            f"{name} holds no tokenizer for its model: {found}. {mend}, or pass tokenizer=... to pipeline."
        )
    try:
        rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):  # of no single table
        rows = None
    if rows is None:
        return
    sizes = f"has {len(vocabulary)} tokens, and {type(model).__name__} has embeddings of {rows}"
    agree = "If it is the right one, model.resize_token_embeddings(len(tokenizer)) makes the two agree."
    used = [getattr(tokenizer, f"{kind}_token_id", None) for kind in ("pad", "unk", "cls", "sep", "bos", "eos")]
    if beyond := sum(index >= rows for index in {*ordinary.values(), *filter(None, used)}):
        raise ValueError(f"The tokenizer of {name} {sizes}, none for {beyond} of these tokens. {mend}. {agree}")
    if 10 * len(vocabulary) < rows:
        raise ValueError(f"The tokenizer of {name} {sizes}: it is that of another model. {mend}. {agree}")
    if 2 * len(vocabulary) < rows:
        logger.warning("The tokenizer of %s %s: make sure that it is that of the model.", name, sizes)


def prepare_tokenizer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None = None
) -> None:
    """Let tokenizer and model agree on the padding token and on how long a text may be, at most `max_seq_length`."""
    text_config = model.config.get_text_config()
    if tokenizer.pad_token_id is None:  # of decoders such as GPT-2: their end of text serves, for it is masked
        known = getattr(text_config, "pad_token_id", None)
        own = tokenizer.convert_ids_to_tokens(known) if known is not None and 0 <= known < len(tokenizer) else None
        if own is None and tokenizer.eos_token is None:
            lacks = f"({type(tokenizer).__name__}) has neither a padding token nor an end of text to pad with"
            raise ValueError(f"The tokenizer {lacks}. Set tokenizer.pad_token and save it with the model.")
        tokenizer.pad_token = own or tokenizer.eos_token
    for config in (model.config, text_config):  # decoders look in theirs for the last token that is no padding
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id
    agree_on_padding(model, tokenizer)
    limits = [tokenizer.model_max_length]
    if max_seq_length is not None:
        limits.append(check_count("max_seq_length", max_seq_length))
    if positions := getattr(text_config, "max_position_embeddings", None):
        # RoBERTa and its kin count positions from the padding index on.
        embeddings = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
        padding = [module.padding_idx for module in embeddings if isinstance(module, nn.Embedding)]
        limits.append(positions - next((index + 1 for index in padding if index is not None), 0))
    tokenizer.model_max_length = min(limits)


def agree_on_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Let a tokenizer pad on the right where padding on the left would shift the positions that a model counts, and a
    model look for the padding token of its tokenizer, where that is what it takes for a text to be answered alike.
    """
    pad, configs = tokenizer.pad_token_id, (model.config, model.config.get_text_config())
    known, name = [config.pad_token_id for config in configs], type(model).__name__
    suspect = tokenizer.padding_side == "left" or known != [pad, pad]
    whole = not any(one.is_meta or not one.numel() for one in model.parameters())
    if not suspect or not whole or _pads_alike(model, tokenizer):
        return
    for config in configs:
        config.pad_token_id = pad
    if known != [pad, pad] and _pads_alike(model, tokenizer):
        logger.warning(
            "%s looked for padding %s, but its tokenizer pads with %s: now it does, too.", name, known[0], pad
        )
        return
    side = tokenizer.padding_side
    tokenizer.padding_side = "right"
    if side == "left" and _pads_alike(model, tokenizer):
        tokenizer.init_kwargs["padding_side"] = "right"  # loaded again, too
        what = "padding on the left shifts the positions of a text, which changes what it answers beside a longer one"
        logger.warning("%s: %s. Its tokenizer pads on the right now.", name, what)
        return
    tokenizer.padding_side = side
    for config, own in zip(configs, known, strict=True):
        config.pad_token_id = own


@torch.no_grad()
def _pads_alike(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text is answered beside a longer one, up to which it is padded, as it is alone."""
    pad: Any = tokenizer.pad_token_id
    side = tokenizer.padding_side
    longer = [token for token in range(8) if token not in (pad, model.config.pad_token_id)][:6]
    text, padding = longer[:2], [pad] * 4
    padded = [*padding, *text] if side == "left" else [*text, *padding]
    rows = [text], [padded, longer]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        inputs = [torch.tensor(row, device=model.device) for row in rows]
        found = [model(input_ids=ids, attention_mask=(ids != pad).long()).logits[0].double() for ids in inputs]
    finally:
        for module, training in modes:
            module.training = training
    alone, beside = found
    if alone.dim() > 1:  # of each token
        beside = beside[-2:] if side == "left" else beside[:2]
    near = 0.05 if model.dtype in (torch.float16, torch.bfloat16) else 1e-3
    return bool((alone - beside).abs().max() <= near * alone.abs().max())


def tokenize(data: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Inputs and `labels` of a model, not yet padded; texts of more tokens than `model_max_length` are cut."""
    columns = text_columns(data)
    if isinstance(tokenizer, TreeTokenizer):
        if len(columns) > 1:
            raise ValueError("A network of trees reads one a sample, and these data hold pairs. Name one text_column.")
        if hasattr(data.features["label"], "feature"):
            raise ValueError("A network of trees has one softmax over the classes: it needs one label for each tree.")
        return tokenizer.encode_dataset(data, "text").rename_column("label", "labels")

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = (batch[column] for column in columns)
        return {**tokenizer(*texts, truncation=tokenizer.model_max_length < NO_LIMIT)}

    data = multi_hot(data)
    # In memory: a data set that was saved to disk would otherwise get files of ours beside its own.
    encoded = data.map(encode, batched=True, remove_columns=columns, keep_in_memory=True, desc="Tokenizing")
    log_cuts([data[column] for column in columns], encoded, tokenizer, "pairs" if len(columns) > 1 else "texts")
    return encoded.rename_column("label", "labels")


def log_cuts(
    inputs: Sequence[Sequence[Any]], encoded: Dataset, tokenizer: PreTrainedTokenizerBase, kind: str, **options: Any
) -> None:
    """Say how many were cut; `inputs` (and second ones) and `options` are what the tokenizer was called with."""
    limit = tokenizer.model_max_length
    full = [row for row, tokens in enumerate(encoded["input_ids"]) if len(tokens) == limit]
    texts = ([column[row] for row in full] for column in inputs)
    whole = tokenizer(*texts, verbose=False, **options)["input_ids"] if full else []
    if longer := sum(len(tokens) > limit for tokens in whole):
        logger.warning("%d of %d %s are longer than %d tokens and are cut.", longer, len(encoded), kind, limit)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4000) -> PreTrainedTokenizerBase:
    """BERT's tokenizer of lower-cased WordPieces (Schuster and Nakajima, 2012), its vocabulary learned from texts."""
    return BertTokenizer().train_new_from_iterator(texts, vocab_size, show_progress=False)
