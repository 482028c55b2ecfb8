# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Binary constituency trees: from bracket strings to arrays, by a tokenizer that is saved with its model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.utils import PaddingStrategy


_PIECES = re.compile(r"[()]|[^ \t\r\n()]+")  # the treebank has words with other blanks in them, as in 8\xa01/2
# How the Penn Treebank writes what would be taken for brackets or separators.
_ESCAPES = {"-LRB-": "(", "-RRB-": ")", r"\/": "/", r"\*": "*"}
_ESCAPED = re.compile("|".join(map(re.escape, _ESCAPES)))
_FORM = "A tree is '(label word)' or '(label tree tree)', such as '(3 (2 It) (4 (2 is) (4 good)))'"


@dataclass
class Tree:
    """
    A binary tree. Its nodes are numbered so that children come before their parent; the last one is the root.

    Attributes:
        labels (`list[str]`): The label of each node.
        words (`list[str | None]`): The word of each leaf, `None` for the other nodes.
        children (`list[list[int]]`): Numbers of the left and right child of each node, `[0, 0]` for a leaf.
        heights (`list[int]`): 1 for a leaf, else one more than the higher child.
    """

    labels: list[str] = field(default_factory=list)
    words: list[str | None] = field(default_factory=list)
    children: list[list[int]] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)


def parse_tree(text: str, row: int = 0) -> Tree:  # noqa: C901  (every malformed place has words of its own)
    """
    Read a tree in the bracket notation of the Stanford Sentiment Treebank. Any depth will do.

    Args:
        text (`str`):
            `(label word)`, or `(label tree tree)`.
        row (`int`, *optional*, defaults to `0`):
            Row in the data set, for error messages.

    Returns:
        [`Tree`]

    Raises:
        ValueError: If the tree is malformed. The message tells how, the row and the character, counted from 0.

    Example:
    >>> parse_tree("(3 (2 It) (4 (2 is) (4 good)))").children
    [[0, 0], [0, 0], [0, 0], [1, 2], [0, 3]]
    """

    def malformed(position: int, found: str) -> ValueError:
        near = text[max(0, position - 20) : position + 20]
        return ValueError(f"Row {row}, character {position} (near {near!r}): {found}. {_FORM}.")

    if not isinstance(text, str):
        raise ValueError(f"Row {row}: a tree must be a string, got {type(text).__name__}. {_FORM}.")
    tree = Tree()
    # Of each open node: where it opens, its label, its word and its children so far.
    stack: list[tuple[int, list[str], list[int]]] = []
    finished = False
    for match in _PIECES.finditer(text):
        piece, position = match[0], match.start()
        if finished:
            raise malformed(position, f"{piece!r} after the end of the tree")
        if piece == "(":
            if stack and len(stack[-1][1]) != 1:
                raise malformed(position, "a node without a label" if not stack[-1][1] else "a tree beside a word")
            if stack and len(stack[-1][2]) == 2:
                raise malformed(position, "a third child: the tree is not binary, binarise it first")
            stack.append((position, [], []))
        elif not stack:
            raise malformed(position, f"{piece!r} outside of brackets: raw text has to be parsed into a tree first")
        elif piece != ")":
            _, texts, children = stack[-1]
            if children or len(texts) == 2:
                raise malformed(position, f"{piece!r} beside another {'child' if children else 'word'} of its node")
            texts.append(piece)
        else:
            start, texts, children = stack.pop()
            if len(texts) + len(children) != (3 if children else 2):
                found = "one child" if children else "nothing" if not texts else "no word"
                raise malformed(start, f"a node that holds {found}")
            tree.labels.append(texts[0])
            tree.words.append(_ESCAPED.sub(lambda escape: _ESCAPES[escape[0]], texts[1]) if not children else None)
            tree.heights.append(1 + max((tree.heights[child] for child in children), default=0))
            tree.children.append(children or [0, 0])
            if stack:
                stack[-1][2].append(len(tree.heights) - 1)
            else:
                finished = True
    if stack:
        raise malformed(stack[-1][0], f"a bracket that is never closed ({len(stack)} in all)")
    if not finished:
        raise malformed(0, "no tree")
    return tree


class TreeTokenizer(PreTrainedTokenizerFast):
    """
    Turns bracket strings into the inputs of [`TreeLSTMForSequenceClassification`]; `DataCollatorWithPadding` batches
    them. Raw sentences are refused: the network needs their constituency trees.
    """

    model_input_names = ["input_ids", "children", "heights"]
    padding_side = "right"  # children are numbered from the left

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        node_labels: Mapping[str, int] | None = None,
        every_node: bool = False,
        rows: Sequence[int] | None = None,
        padding: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        truncation: bool | str | None = None,
    ) -> BatchEncoding:
        """
        Args:
            text (`str` or `Sequence[str]`):
                One tree or several, see [`parse_tree`].
            node_labels (`Mapping[str, int]`, *optional*):
                Class of each label of a node, such as `{"0": 0, "4": 1}`; that of the root becomes `labels`.
            every_node (`bool`, *optional*, defaults to `False`):
                To train on every phrase: `labels` of all nodes in `node_labels`, and `output_nodes`, their numbers.
            rows (`Sequence[int]`, *optional*):
                Rows of the data set, for error messages; by default 0, 1, ...
            padding, max_length, return_tensors, truncation:
                As for any tokenizer; but a tree cannot be cut.

        Returns:
            `transformers.BatchEncoding`: `input_ids` (words of the leaves), `children` and `heights`, as in [`Tree`].

        Raises:
            ValueError: If a tree is malformed, or the label of a root is not in `node_labels`.
        """
        if truncation:
            raise ValueError("A tree cannot be truncated: leave truncation unset.")
        if every_node and node_labels is None:
            raise ValueError("every_node=True needs node_labels, the classes of the labels in the trees.")
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        numbers = range(len(texts)) if rows is None else rows
        trees = [parse_tree(one, row) for one, row in zip(texts, numbers, strict=True)]
        words = list({word for tree in trees for word in tree.words if word is not None})
        pieces = super().__call__(words, add_special_tokens=False)["input_ids"] if words else []
        ids = dict(zip([*words, None], [*(piece[0] for piece in pieces), self.pad_token_id], strict=True))
        batch: dict[str, list[Any]] = {
            "input_ids": [[ids[word] for word in tree.words] for tree in trees],
            "children": [tree.children for tree in trees],
            "heights": [tree.heights for tree in trees],
        }
        if node_labels is not None and every_node:
            batch["output_nodes"] = [[i for i, one in enumerate(tree.labels) if one in node_labels] for tree in trees]
            batch["labels"] = [[node_labels[one] for one in tree.labels if one in node_labels] for tree in trees]
        elif node_labels is not None:
            for tree, row in zip(trees, numbers, strict=True):
                if tree.labels[-1] not in node_labels:
                    raise ValueError(
                        f"Row {row}: the root is labelled {tree.labels[-1]!r}, which is none of "
                        f"{', '.join(node_labels)}. Leave such trees out."
                    )
            batch["labels"] = [node_labels[tree.labels[-1]] for tree in trees]
        if single and return_tensors is None:
            batch = {key: value[0] for key, value in batch.items()}
        return self.pad(batch, padding=padding, max_length=max_length, return_tensors=return_tensors)

    def encode_dataset(self, data: Dataset, column: str) -> Dataset:
        """[`tokenize_trees`], with the inputs in place of the column of trees."""
        return tokenize_trees(data, self, column).remove_columns(column)

    def _pad(self, encoded_inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        padded = super()._pad(encoded_inputs, *args, **{**kwargs, "padding_side": "right"})
        if kwargs["padding_strategy"] != PaddingStrategy.DO_NOT_PAD:
            for key, fill in (("children", [0, 0]), ("heights", 0), ("output_nodes", 0), ("labels", -100)):
                if isinstance(padded.get(key), list):  # the label of a root is a number
                    padded[key] = padded[key] + [fill] * (len(padded["input_ids"]) - len(padded[key]))
        return padded


def tokenize_trees(
    dataset: Dataset,
    tokenizer: TreeTokenizer,
    column: str = "tree",
    *,
    node_labels: Mapping[str, int] | None = None,
    every_node: bool = False,
) -> Dataset:
    """
    Parse a column of trees once and for all; errors name the row of the data set.

    Args:
        dataset (`datasets.Dataset`), column (`str`, *optional*, defaults to `"tree"`):
            With a column of bracket strings. Without `node_labels`, its column `label` stays the label.
        tokenizer ([`TreeTokenizer`]): Of the model.
        node_labels (`Mapping[str, int]`, *optional*), every_node (`bool`, *optional*):
            As for [`TreeTokenizer`]: labels come from the trees, and replace the column `label`.

    Returns:
        `datasets.Dataset`: For a `Trainer`.
    """
    if column not in dataset.column_names:
        raise ValueError(f"There is no column {column!r} of trees; the columns are {', '.join(dataset.column_names)}.")
    replaced = [name for name in ("label", "labels") if node_labels is not None and name in dataset.column_names]

    def tokenize(texts: list[str], rows: list[int]) -> dict[str, Any]:
        return dict(tokenizer(texts, rows=rows, node_labels=node_labels, every_node=every_node))

    # In memory: a data set that was saved to disk would otherwise get files of ours beside its own.
    return dataset.map(
        tokenize, batched=True, with_indices=True, input_columns=[column], remove_columns=replaced,
        keep_in_memory=True, desc="Parsing",
    )  # fmt: skip


def phrase_classes(dataset: Dataset, column: str = "tree", extra_class: int | None = None) -> dict[str, int]:
    """
    The class of each label of a node, told from whole trees: of their roots both the label and the class are known.

    Args:
        dataset (`datasets.Dataset`), column (`str`, *optional*, defaults to `"tree"`):
            With a column of bracket strings, and the class of each tree in the column `label`.
        extra_class (`int`, *optional*):
            The class of all labels that only phrases have, no whole tree. By default these have none.

    Returns:
        `dict[str, int]`: For `node_labels` of [`tokenize_trees`].

    Raises:
        ValueError: If a tree is malformed, trees of one label are of two classes, or `extra_class` would be empty.

    Example:
    >>> trees = {"tree": ["(3 (2 It) (4 (2 is) (4 good)))", "(1 (2 It) (0 fails))"], "label": [1, 0]}
    >>> phrase_classes(Dataset.from_dict(trees))
    {'3': 1, '1': 0}
    """
    classes: dict[str, int] = {}
    labels: set[str] = set()
    for row, (text, target) in enumerate(zip(dataset[column][:], dataset["label"][:], strict=True)):
        tree = parse_tree(text, row)
        labels.update(tree.labels)
        label = tree.labels[-1]
        if classes.setdefault(label, target) != target:
            raise ValueError(
                f"Row {row}: the label {label!r} of its root is of class {target}, in an earlier row of class "
                f"{classes[label]}. Training on phrases needs one class for each label of a node."
            )
    others = sorted(labels - classes.keys())
    if extra_class is not None:
        if not others:
            raise ValueError("Every label of a phrase is that of a whole tree too: no further class is needed.")
        classes |= dict.fromkeys(others, extra_class)
    return classes
