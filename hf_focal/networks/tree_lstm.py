# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The binary Tree-LSTM for the Stanford Sentiment Treebank, computed for all nodes of one height at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .trees import TreeTokenizer, parse_tree
from .word_vectors import WordVectorModel, label_maps, load_word_vectors, set_word_vectors, train_word_tokenizer


class TreeLSTMConfig(PreTrainedConfig):
    """
    Configuration of [`TreeLSTMForSequenceClassification`].

    Args:
        vocab_size (`int`, *optional*, defaults to `20000`), embedding_size (`int`, *optional*, defaults to `300`):
            Number and dimensions of the word vectors.
        hidden_size (`int`, *optional*, defaults to `150`):
            Size of a node's state.
        cell (`str`, *optional*, defaults to `"tai2015"`):
            `"tai2015"`, or `"released"`: the paper's code; linear memory of leaves, inner nodes without output gate.
        dropout (`float`, *optional*, defaults to `0.5`):
            Dropout before the classifier.
        freeze_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the word vectors stay as they are.
    """

    model_type = "tree_lstm"

    def __init__(
        self,
        vocab_size: int = 20_000,
        embedding_size: int = 300,
        hidden_size: int = 150,
        cell: str = "tai2015",
        dropout: float = 0.5,
        freeze_embeddings: bool = False,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.embedding_size, self.hidden_size = vocab_size, embedding_size, hidden_size
        self.cell, self.dropout, self.freeze_embeddings = cell, dropout, freeze_embeddings
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id
        if cell not in ("tai2015", "released"):
            raise ValueError(f"cell must be one of tai2015, released, got {cell!r}.")


class TreeLSTMCell(nn.Module):
    """Tai et al. (2015, Equations 9 to 14 with N = 2): words enter at leaves, an inner node has two forget gates."""

    def __init__(self, config: TreeLSTMConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.hidden_size = size
        self.released = config.cell == "released"
        self.leaf = nn.Linear(config.embedding_size, (2 if self.released else 3) * size)  # output (, input), candidate
        # (output,) input, forget left, forget right, candidate
        self.node = nn.Linear(2 * size, (4 if self.released else 5) * size)

    def forward(self, vectors: Tensor, words: Tensor, children: Tensor, counts: list[int]) -> Tensor:
        """The output of every node: leaves, whose vectors are `vectors[words]`, then `counts` inner ones a height."""
        values, size = self.leaf(vectors).to(self.node.weight.dtype), self.hidden_size
        gates, candidate = values[:, :-size].sigmoid(), values[:, -size:]
        memories = candidate if self.released else gates[:, size:] * candidate.tanh()
        outputs = gates[:, :size] * memories.tanh()
        outputs, memories = outputs[words], memories[words]
        return _InnerNodes.apply(outputs, memories, self.node.weight, self.node.bias, children, counts)


class _InnerNodes(torch.autograd.Function):
    """From outputs and memories of the leaves to the outputs of all nodes, one matrix product for each height."""

    # Written out because autograd would add up as many gradients of the weights as there are heights; here one product
    # makes it, and what a height has to wait for is little.
    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, memories: Tensor, weight: Tensor, bias: Tensor, children: Tensor, counts: list[int]
    ) -> Tensor:
        leaves, size, inner = len(outputs), outputs.shape[1], len(children)
        read = children.flatten()
        outputs, memories = (torch.cat([part, part.new_empty(inner, size)]) for part in (outputs, memories))
        inputs = outputs.new_empty(inner, 2 * size)  # outputs of the children, left and right
        kept = outputs.new_empty(2 * inner, size)  # and their memories
        gates = outputs.new_empty(inner, len(weight))
        tanh = outputs.new_empty(inner, size)
        for start, stop in _bounds(counts):
            pairs, nodes = slice(2 * start, 2 * stop), slice(leaves + start, leaves + stop)
            torch.index_select(outputs, 0, read[pairs], out=inputs.view(-1, size)[pairs])
            torch.index_select(memories, 0, read[pairs], out=kept[pairs])
            values = torch.addmm(bias, inputs[start:stop], weight.t(), out=gates[start:stop])
            values[:, :-size].sigmoid_()
            values[:, -size:].tanh_()
            *output, enter, left, right, candidate = values.split(size, dim=1)
            memory = torch.mul(enter, candidate, out=memories[nodes])
            memory.addcmul_(left, kept[pairs][::2]).addcmul_(right, kept[pairs][1::2])
            torch.tanh(memory, out=tanh[start:stop])
            outputs[nodes] = output[0] * tanh[start:stop] if output else tanh[start:stop]
        ctx.save_for_backward(inputs, kept, gates, tanh, weight, read)
        ctx.leaves, ctx.counts = leaves, counts
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, kept, gates, tanh, weight, read = ctx.saved_tensors
        (inner, size), leaves = tanh.shape, ctx.leaves
        gates = gates.view(inner, len(weight) // size, size)
        *output, enter, left, right, candidate = gates.unbind(dim=1)
        # Of each gate before its sigmoid: the derivative of the memory, or of the output; the gradient in the end.
        slopes = gates * (1 - gates)
        slopes[:, -4] *= candidate
        slopes[:, -3:-1] *= kept.view(inner, 2, size)
        torch.mul(enter, 1 - candidate * candidate, out=slopes[:, -1])
        through = 1 - tanh * tanh  # from the output to the memory
        if output:
            slopes[:, 0] *= tanh
            through *= output[0]
        # Every node but the roots is read once, by its parent: the gradients that come from there, in that order.
        to_outputs, to_memories = (grad.new_zeros(2 * inner + 1, size) for _ in range(2))
        place = read.new_full((len(grad),), 2 * inner)
        place[read] = torch.arange(len(read), device=read.device)
        for start, stop in reversed(_bounds(ctx.counts)):
            nodes = slice(leaves + start, leaves + stop)
            to_output = to_outputs[place[nodes]] + grad[nodes]
            to_memory = to_memories[place[nodes]].addcmul_(to_output, through[start:stop])
            slopes[start:stop, -4:] *= to_memory[:, None]
            if output:
                slopes[start:stop, 0] *= to_output
            pairs = slice(2 * start, 2 * stop)
            torch.mm(slopes[start:stop].flatten(1), weight, out=to_outputs[pairs].view(-1, 2 * size))
            torch.mul(gates[start:stop, -3:-1], to_memory[:, None], out=to_memories[pairs].view(-1, 2, size))
        to_leaves = to_outputs[place[:leaves]] + grad[:leaves], to_memories[place[:leaves]]
        slopes = slopes.flatten(1)
        return *to_leaves, slopes.t() @ inputs, slopes.sum(dim=0), None, None


def _bounds(counts: list[int]) -> list[tuple[int, int]]:
    stops = list(accumulate(counts))
    return list(zip([0, *stops], stops, strict=False))


class TreeLSTMForSequenceClassification(WordVectorModel):
    """
    The constituency Tree-LSTM that the paper trains on the Stanford Sentiment Treebank (Tai et al., 2015; Mukhoti et
    al., 2020, Section 5), with a linear classifier on the state of a node. A [`TreeTokenizer`] makes its inputs.
    """

    config_class = TreeLSTMConfig
    config: TreeLSTMConfig

    def __init__(self, config: TreeLSTMConfig) -> None:
        super().__init__(config)
        self.cell = TreeLSTMCell(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=-0.05, std=0.05)  # as published, for words that get no vector
        elif module is self.cell.node:  # as two linear layers, one for each child
            bound = self.config.hidden_size**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Linear):
            module.reset_parameters()

    def probe_inputs(self) -> dict[str, Tensor]:
        """One tree of two words, to try the head on."""
        return {
            "input_ids": torch.tensor([[1, 2, self.config.pad_token_id]]) % self.config.vocab_size,
            "children": torch.tensor([[[0, 0], [0, 0], [0, 1]]]),
            "heights": torch.tensor([[1, 1, 2]]),
        }

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        children: Tensor,
        heights: Tensor,
        output_nodes: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, nodes)`):
                Index of the word of each leaf; other nodes may hold anything.
            children (`torch.LongTensor` of shape `(batch_size, nodes, 2)`):
                Numbers of the left and right child of each inner node in its tree.
            heights (`torch.LongTensor` of shape `(batch_size, nodes)`):
                1 for a leaf, else one more than the higher child; 0 for padding.
            output_nodes (`torch.LongTensor` of shape `(batch_size, outputs)`, *optional*):
                Nodes to classify, in `logits` of shape `(batch_size, outputs, num_labels)`; by default the root only.
            labels (`torch.LongTensor` of the shape of `logits` without its last dimension, *optional*):
                Class indices, or -100: gives a cross-entropy `loss`.
        """
        device, width = heights.device, heights.shape[1]
        # The nodes of the batch, numbered through, by height, and the place of each in that order.
        sorted_heights, order = heights.flatten().sort(stable=True)
        padding, num_leaves, *counts = torch.bincount(sorted_heights, minlength=2).tolist()
        order = order[padding:]
        place = torch.zeros_like(heights.flatten())
        place[order] = torch.arange(len(order), device=device)
        leaves, inner = order[:num_leaves], order[num_leaves:]
        offsets = torch.arange(len(heights), device=device)[:, None] * width
        children = place[(children + offsets[..., None]).view(-1, 2)[inner]]
        words, of_leaves = input_ids.flatten()[leaves].unique(return_inverse=True)
        outputs = self.cell(self.embeddings(words), of_leaves, children, counts)
        nodes = heights.argmax(dim=1) if output_nodes is None else output_nodes
        nodes = nodes + (offsets[:, 0] if output_nodes is None else offsets)
        logits = self.classifier(self.dropout(outputs[place[nodes]]))
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return SequenceClassifierOutput(loss=loss, logits=logits)


def create_tree_lstm(
    trees: Iterable[str],
    label_names: Sequence[str],
    embeddings: str | Path | None = None,
    *,
    vocab_size: int = 100_000,
    **kwargs: Any,
) -> tuple[TreeLSTMForSequenceClassification, TreeTokenizer]:
    """
    Build an untrained Tree-LSTM and the tokenizer that goes with it.

    Args:
        trees (`Iterable[str]`):
            For [`parse_tree`]; their words are the vocabulary (with test data, in the published code), others `[UNK]`.
        label_names (`Sequence[str]`):
            Names of the classes: two, or the published negative, neutral, positive, with `every_node=True`, of which
            [`mask_classes`] takes the second out of evaluation, as the published code does.
        embeddings (`str`, *optional*):
            Folder for [`load_word_vectors`]. Words without a vector start from N(-0.05, 0.05^2), as published.
        vocab_size (`int`, *optional*, defaults to `100000`):
            Most words to keep.
        kwargs: As for [`TreeLSTMConfig`].

    Returns:
        `tuple`: The model and its tokenizer.

    Raises:
        ValueError: If a tree is malformed, or the word vectors cannot be loaded.
    """
    loaded = None if embeddings is None else load_word_vectors(embeddings)
    usual = {} if loaded is None else {"embedding_size": loaded[1].shape[1]}
    words = (word for row, tree in enumerate(trees) for word in parse_tree(tree, row).words if word is not None)
    tokenizer: Any = train_word_tokenizer(words, vocab_size=vocab_size, split=False, tokenizer_class=TreeTokenizer)
    config = TreeLSTMConfig(vocab_size=len(tokenizer), **label_maps(label_names), **{**usual, **kwargs})
    model = TreeLSTMForSequenceClassification(config)
    if loaded is not None:
        set_word_vectors(model.embeddings, tokenizer, *loaded)
    return model, tokenizer
