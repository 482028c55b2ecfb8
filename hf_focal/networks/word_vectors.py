# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Word-level tokenizers, word vectors such as GloVe for their vocabulary, and models that begin with them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..names import refuse_missing_folder
from .masking import heed_masks


logger = logging.getLogger(__name__)

PAD, UNKNOWN = "[PAD]", "[UNK]"
VECTORS, VOCABULARY = "vectors.safetensors", "vocab.txt"
# What Keras' tokenizer takes for blanks; the apostrophe is not among them.
_PUNCTUATION = Regex(r"""[!"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~\t\n]""")


def train_word_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int = 20_000,
    split: bool = True,
    tokenizer_class: type[PreTrainedTokenizerFast] = PreTrainedTokenizerFast,
    **kwargs: Any,
) -> PreTrainedTokenizerFast:
    """
    A tokenizer of whole lower-case words, whose vocabulary are the most frequent words of the texts.

    Args:
        texts (`Iterable[str]`):
            Training texts.
        vocab_size (`int`, *optional*, defaults to `20000`):
            Most words to keep, `[PAD]` (index 0) and `[UNK]`, which stands for all other words, among them.
        split (`bool`, *optional*, defaults to `True`):
            Split texts at white space and punctuation, as Keras' tokenizer does. Otherwise each text is one word.
        tokenizer_class (`type`, *optional*):
            `PreTrainedTokenizerFast` or a subclass.
        kwargs: Passed on to it, such as `model_max_length` or `padding_side`.

    Returns:
        `transformers.PreTrainedTokenizerFast`: `save_pretrained` keeps its vocabulary.

    Raises:
        ValueError: If there is no word in the texts.

    Example:
    >>> tokenizer = train_word_tokenizer(["A film, a play.", "The film!"], vocab_size=4)
    >>> tokenizer.tokenize("Film: a sequel")
    ['film', 'a', '[UNK]']
    """
    backend = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    backend.normalizer = normalizers.Lowercase()
    if split:
        backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.Replace(_PUNCTUATION, " ")])
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=[PAD, UNKNOWN], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() <= 2:
        raise ValueError("There is no word in the texts that the vocabulary is to be made of.")
    return tokenizer_class(tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN, **kwargs)


def load_word_vectors(folder: str | Path) -> tuple[list[str], Tensor]:
    """
    Load pretrained word vectors, such as those of GloVe.

    Args:
        folder (`str`):
            With `vectors.safetensors` (one tensor, `weight`, a row per word) and `vocab.txt` (a word per line).

    Returns:
        `tuple[list[str], torch.Tensor]`: The words, and their vectors in float32.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a file is missing, empty or damaged, a vector is not finite, or the two do not go together.
    """
    refuse_missing_folder(folder, on_hub=False)
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no such folder: {folder}. Word vectors are one with {VECTORS} and {VOCABULARY}.")
    for name in (VECTORS, VOCABULARY):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}: word vectors are a folder with {VECTORS} and {VOCABULARY}.")
    try:
        tensors = load_file(folder / VECTORS)
    except SafetensorError as error:
        raise ValueError(f"{folder / VECTORS} is damaged: {error}") from error
    if "weight" not in tensors or tensors["weight"].ndim != 2:
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        raise ValueError(f"{folder / VECTORS} must hold a matrix 'weight', a row per word; it holds {found}.")
    words = _read_vocabulary(folder / VOCABULARY)
    vectors = tensors["weight"].float()
    if len(words) != len(vectors):
        raise ValueError(f"{folder}: {VOCABULARY} has {len(words)} words, {VECTORS} has {len(vectors)} vectors.")
    if len(bad := (~vectors.isfinite().all(1)).nonzero()):
        row = int(bad[0])
        what = f"{len(bad)} of {len(words)} vectors hold NaN or infinity, the first in row {row} ({words[row]!r})"
        raise ValueError(f"{folder / VECTORS}: {what}.")
    if repeated := len(words) - len(set(words)):
        logger.warning("%s: %d words come twice or more; the first vector of each counts.", folder, repeated)
    return words, vectors


def _read_vocabulary(file: Path) -> list[str]:
    """The words of a file, one a line."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not in UTF-8: {error}. Convert it.") from error
    if not text.strip():
        raise ValueError(f"{file} holds no words: it must have one a line.")
    return text.removesuffix("\n").split("\n")


@torch.no_grad()
def set_word_vectors(
    embeddings: nn.Embedding, tokenizer: PreTrainedTokenizerBase, words: list[str], vectors: Tensor
) -> float:
    """
    Overwrite the embeddings of all words that have a vector; the others stay as they are.

    Args:
        embeddings (`torch.nn.Embedding`):
            One row per entry of the tokenizer's vocabulary.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Whose words these are.
        words (`list[str]`), vectors (`torch.Tensor`):
            As [`load_word_vectors`] gives them.

    Returns:
        `float`: The share of the vocabulary, special tokens aside, that has a vector; below one half it warns.

    Raises:
        ValueError: If the vectors are of another size than the embeddings, or not as many as the words.
    """
    size = embeddings.embedding_dim
    if len(words) != len(vectors):
        raise ValueError(f"There must be a vector for each of {len(words)} words, got {len(vectors)}.")
    if vectors.shape[1] != size:
        raise ValueError(f"The word vectors have {vectors.shape[1]} dimensions, the embeddings {size}.")
    rows = {word: row for row, word in reversed(list(enumerate(words)))}  # the first of a word that comes twice
    vocabulary = {word: row for word, row in tokenizer.get_vocab().items() if word not in tokenizer.all_special_tokens}
    known = [word for word in vocabulary if word in rows]
    sources = vectors[[rows[word] for word in known]].to(embeddings.weight)
    embeddings.weight[[vocabulary[word] for word in known]] = sources
    coverage = len(known) / len(vocabulary)
    logger.info("%.1f%% of the %d words of the vocabulary have a pretrained vector.", 100 * coverage, len(vocabulary))
    if coverage < 0.5:
        warnings.warn(
            f"Only {coverage:.1%} of the {len(vocabulary)} words of the vocabulary have a pretrained vector: are the "
            "texts of another language or case than the vectors?",
            stacklevel=3,
        )
    return coverage


def label_maps(names: Sequence[str]) -> dict[str, Any]:
    """The names of the classes, as a config wants to be told."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


class WordVectorModel(PreTrainedModel):
    """Base of models that look up word vectors: `self.embeddings`, frozen where `config.freeze_embeddings` says so."""

    base_model_prefix = "model"
    main_input_name, _input_embed_layer = "input_ids", "embeddings"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.embeddings.weight.requires_grad_(not config.freeze_embeddings)
        heed_masks(self)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        # Loading makes new parameters, all of them trainable.
        model.embeddings.weight.requires_grad_(not model.config.freeze_embeddings)
        return loaded
