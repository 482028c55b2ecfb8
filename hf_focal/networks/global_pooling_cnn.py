# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The convolutional network for 20 Newsgroups: three convolutions over word vectors and a maximum over the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .word_vectors import WordVectorModel, label_maps, load_word_vectors, set_word_vectors, train_word_tokenizer


KERNEL = 5  # of the convolutions and of the pooling between them
RECEPTIVE_FIELD = 5 * (KERNEL - 1) + 1


class GlobalPoolingCNNConfig(PreTrainedConfig):
    """
    Configuration of [`GlobalPoolingCNNForSequenceClassification`].

    Args:
        vocab_size (`int`, *optional*, defaults to `20000`), embedding_size (`int`, *optional*, defaults to `100`):
            Number and dimensions of the word vectors.
        hidden_size (`int`, *optional*, defaults to `128`):
            Channels of each convolution and width of the fully connected layer.
        sequence_length (`int`, *optional*, defaults to `1000`):
            Words that are read: the last ones of a longer text.
        dropout (`float`, *optional*, defaults to `0.3`):
            Dropout before the last layer.
        freeze_embeddings (`bool`, *optional*, defaults to `True`):
            Whether the word vectors stay as they are.
    """

    model_type = "global_pooling_cnn"

    def __init__(
        self,
        vocab_size: int = 20_000,
        embedding_size: int = 100,
        hidden_size: int = 128,
        sequence_length: int = 1000,
        dropout: float = 0.3,
        freeze_embeddings: bool = True,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.embedding_size, self.hidden_size = vocab_size, embedding_size, hidden_size
        self.sequence_length, self.dropout, self.freeze_embeddings = sequence_length, dropout, freeze_embeddings
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id
        if sequence_length < RECEPTIVE_FIELD:
            raise ValueError(f"sequence_length must be at least {RECEPTIVE_FIELD}, got {sequence_length}.")


class GlobalPoolingCNNForSequenceClassification(WordVectorModel):
    """
    The Global Pooling CNN that the paper trains on 20 Newsgroups (Lin et al., 2014; Mukhoti et al., 2020, Section 5).
    A text counts as if zeros stood before it up to `sequence_length`, and these take part in the maximum, as in the
    published code. The length of a batch changes nothing, and a text of one word will do.
    """

    config_class = GlobalPoolingCNNConfig
    config: GlobalPoolingCNNConfig

    def __init__(self, config: GlobalPoolingCNNConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.conv1 = nn.Conv1d(config.embedding_size, size, KERNEL)
        self.conv2, self.conv3 = (nn.Conv1d(size, size, KERNEL) for _ in range(2))
        self.dense = nn.Linear(size, size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.zeros_(module.weight)  # of words that get no vector
        elif isinstance(module, (nn.Conv1d, nn.Linear)):
            module.reset_parameters()

    @can_return_tuple
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`):
                Indices of the words, padded on the left with `pad_token_id`.
            attention_mask (`torch.LongTensor` of that shape, *optional*):
                0 where a word is to be taken for padding. Words that are `pad_token_id` need no mask.
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Class indices: gives a cross-entropy `loss`. Of several labels a sample 0 and 1 for each.
        """
        pad = self.config.pad_token_id
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask == 0, pad)
        whole = self.config.sequence_length
        input_ids = input_ids[:, -whole:]
        # All windows over padding give the same value, so that one is enough.
        input_ids = F.pad(input_ids, (min(whole - input_ids.shape[1], RECEPTIVE_FIELD), 0), value=pad)
        hidden = self.embeddings(input_ids).transpose(1, 2)
        hidden = F.max_pool1d(F.relu(self.conv1(hidden)), KERNEL, stride=1)
        hidden = F.max_pool1d(F.relu(self.conv2(hidden)), KERNEL, stride=1)
        hidden = F.relu(self.conv3(hidden)).amax(dim=2)
        logits = self.classifier(self.dropout(F.relu(self.dense(hidden))))
        several = self.config.problem_type == "multi_label_classification"
        criterion = F.binary_cross_entropy_with_logits if several else F.cross_entropy
        loss = None if labels is None else criterion(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def create_global_pooling_cnn(
    texts: Iterable[str],
    label_names: Sequence[str],
    embeddings: str | Path | None = None,
    *,
    vocab_size: int = 20_000,
    **kwargs: Any,
) -> tuple[GlobalPoolingCNNForSequenceClassification, PreTrainedTokenizerFast]:
    """
    Build an untrained Global Pooling CNN and the tokenizer that goes with it.

    Args:
        texts (`Iterable[str]`):
            Training texts, whose most frequent words, in lower case, are the vocabulary. Others are `[UNK]`.
        label_names (`Sequence[str]`):
            Names of the classes, in the order of their indices.
        embeddings (`str`, *optional*):
            Folder for [`load_word_vectors`]: frozen, zeros for words without one. By default learnt, from N(0, 1).
        vocab_size (`int`, *optional*, defaults to `20000`):
            Size of the vocabulary.
        kwargs: As for [`GlobalPoolingCNNConfig`].

    Returns:
        `tuple`: The model and its tokenizer.

    Raises:
        ValueError: If the texts hold no word, or the word vectors cannot be loaded.
    """
    loaded = None if embeddings is None else load_word_vectors(embeddings)
    usual = {"freeze_embeddings": False} if loaded is None else {"embedding_size": loaded[1].shape[1]}
    config = GlobalPoolingCNNConfig(**label_maps(label_names), **{**usual, **kwargs})
    tokenizer = train_word_tokenizer(
        texts, vocab_size=vocab_size, model_max_length=config.sequence_length, padding_side="left",
        truncation_side="left", model_input_names=["input_ids"],
    )  # fmt: skip
    config.vocab_size = len(tokenizer)
    model = GlobalPoolingCNNForSequenceClassification(config)
    if loaded is None:
        model.embeddings.reset_parameters()
    else:
        set_word_vectors(model.embeddings, tokenizer, *loaded)
    return model, tokenizer
