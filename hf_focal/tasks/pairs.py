# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pairs of texts, as a sample of NLI, paraphrase and reranking data holds: their columns, and tokenizers of two."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..networks.trees import TreeTokenizer
from .columns import Column, is_text


logger = logging.getLogger(__name__)

PAIR = Column("text_pair", "second texts", is_text, (), "text_pair_column (--text_pair_column_name)")
# In lower case, as GLUE, SNLI, WikiQA, BoolQ, FEVER, MS MARCO and their like have them, and numbered or lettered ones:
# sentence1 and sentence2, question_1 and question_2, text_a and text_b, sentence_A and sentence_B.
_KNOWN = (
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "answer"),
    ("claim", "evidence"),
    ("text", "text_pair"),
)
_FIRST = re.compile(r"((?:sentence|sent|s|text|question|q|query|document|doc|passage|phrase|title|premise)_?)(1|a)")
_NEXT = {"1": "2", "a": "b"}


def find_pair(data: Any, split: str, wanted: Mapping[Column, str | None], text: Column) -> dict[Column, str | None]:
    """
    What is wanted of the columns of a split, with names for both texts of a pair where the names of its columns tell
    of one. Of columns that are named alone is taken what is named.
    """
    given, second = wanted[text], wanted.get(PAIR)
    taken = {name for column, name in wanted.items() if column not in (text, PAIR)}
    texts = [name for name in data.column_names if is_text(data.features[name]) and name not in taken]
    found = list(_pairs(texts))
    if second is not None:
        firsts = [first for first, other in found if other == second]
        return {**wanted, text: firsts[0] if given is None and len(firsts) == 1 else given}
    plain = [name for name in texts if name.lower() in text.names and not any(name in pair for pair in found)]
    if given is not None or not found:
        return dict(wanted)
    several = ", ".join(f"{first!r} with {other!r}" for first, other in found)
    if plain:
        logger.info("Texts are single ones, not pairs (%s): those need %s.", several, PAIR.argument)
        return dict(wanted)
    if len(found) > 1:
        what = f"Which columns of the split {split!r} hold the pairs of texts? Several could serve: {several}"
        raise ValueError(f"{what}. Set {text.argument}, and {PAIR.argument} for pairs.")
    logger.info("Texts are pairs: %s. %s alone takes single texts.", several, text.argument)
    return {**wanted, text: found[0][0], PAIR: found[0][1]}


def _pairs(names: list[str]) -> Iterator[tuple[str, str]]:
    """Names of two columns that a pair of texts is known to be in."""
    plain = {name.lower(): name for name in names}
    for first, second in _KNOWN:
        if first in plain and second in plain:
            yield plain[first], plain[second]
    for lower, name in plain.items():
        numbered = _FIRST.fullmatch(lower)
        if numbered and numbered[1] and (second := numbered[1] + _NEXT[numbered[2]]) in plain:
            yield name, plain[second]


def check_agreement(known: Mapping[Column, str], columns: Mapping[Column, str], split: str) -> None:
    """Refuse a split of single texts beside one of pairs; `known` are the columns of the first split."""
    if (PAIR in known) != (PAIR in columns):
        kind, others = ("pairs of texts", "single ones") if PAIR in columns else ("single texts", "pairs")
        found = f"The split {split!r} holds {kind} ({', '.join(columns.values())}), and others {others}"
        raise ValueError(
            f"{found} ({', '.join(known.values())}). Name columns that all splits have, or mend the data."
        )


def keep_names(data: Dataset, columns: Mapping[Column, str]) -> Dataset:
    """Data of pairs that remember what the columns of texts were called, for [`pair_of`]."""
    for column, name in columns.items():
        if column.name in text_columns(data):
            data.info.features[column.name].id = name
    return data


def pair_of(data: Any) -> tuple[str, str] | None:
    """What the columns of first and second texts are called in data, loaded or streamed; `None` if none are pairs."""
    if not isinstance(data, Dataset):
        return None if data.pair is None else (data.input, data.pair)
    names = [data.features[column].id or column for column in text_columns(data)]
    return (names[0], names[1]) if len(names) > 1 else None


def pair_for(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Any) -> tuple[str, str] | None:
    """[`pair_of`] these data, where model and tokenizer take pairs: see [`check_pairs`]."""
    if pair := pair_of(data):
        check_pairs(model, tokenizer)
    return pair


def text_columns(data: Dataset) -> list[str]:
    """The columns of loaded data that hold texts: one, or those of a pair."""
    return [name for name in ("text", PAIR.name) if name in data.column_names]


def check_pairs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot give this model two texts at once, and tell of one that does not part them."""
    if isinstance(tokenizer, TreeTokenizer):
        raise ValueError("A network of trees reads one a sample, and these data hold pairs. Name one text_column.")
    name, limit = type(tokenizer).__name__, tokenizer.model_max_length
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if limit < special + 2:
        needs = f"a pair of texts needs {special + 2} tokens at least, {special} of them for {name} alone"
        raise ValueError(f"Pairs are cut to {limit} tokens, but {needs}. Raise max_seq_length (--max_seq_length).")
    types = tokenizer("a", "b").get("token_type_ids") or [0]
    known = getattr(model.config, "type_vocab_size", None) or 0  # without any, a model does not heed them
    if 0 < known <= max(types):
        found = f"{name} marks the second text of a pair by the token type {max(types)}, and {type(model).__name__}"
        mend = "Use a model for pairs, or join the two texts in one column."
        raise ValueError(f"{found} knows {known} of them (config.type_vocab_size), from 0. {mend}")
    if special == tokenizer.num_special_tokens_to_add(pair=False) and not max(types):
        mend = "Let the second texts begin with a mark of their own, wherever the model is used, if it should."
        logger.warning("%s puts nothing between the texts of a pair: the model cannot tell them apart. %s", name, mend)
