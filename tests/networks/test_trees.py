# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Trees: what the parser reads and refuses, and the batched Tree-LSTM against one node after the other."""

import random
import re

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import sigmoid, tanh
from transformers import AutoTokenizer, DataCollatorWithPadding

import hf_focal.networks
from hf_focal import TreeTokenizer, create_tree_lstm, parse_tree, tokenize_trees
from hf_focal.networks.tree_lstm import TreeLSTMCell, TreeLSTMConfig


WORDS = [f"w{index}" for index in range(12)]
NAMES = ["negative", "positive"]
LABELS = {"0": 0, "1": 0, "3": 1, "4": 1}
DEEP = {"left": "(2 " * 1000 + "(3 w0)" + " (1 w1))" * 1000, "right": "(2 (3 w0) " * 1000 + "(4 w2)" + ")" * 1000}


def random_tree(generator, leaves):
    if leaves == 1:
        return f"({generator.randint(0, 4)} {generator.choice(WORDS)})"
    left = generator.randint(1, leaves - 1)
    label = generator.randint(0, 4)
    return f"({label} {random_tree(generator, left)} {random_tree(generator, leaves - left)})"


def forest(count=8, seed=0):
    generator = random.Random(seed)
    return [random_tree(generator, leaves) for leaves in [1, 2, 3, *(generator.randint(4, 30) for _ in range(count))]]


@pytest.fixture(scope="module")
def tokenizer():
    return create_tree_lstm([f"(2 {word})" for word in WORDS], NAMES, embedding_size=4, hidden_size=3)[1]


def build(cell="tai2015", dtype=torch.float64, num_labels=2):
    torch.manual_seed(0)
    config = TreeLSTMConfig(20, embedding_size=6, hidden_size=5, cell=cell, num_labels=num_labels)
    model = hf_focal.networks.TreeLSTMForSequenceClassification(config)
    with torch.no_grad():  # so that all gates matter
        for parameter in model.parameters():
            parameter.normal_()
    return model.to(dtype).eval()


# ---- Parser ---------------------------------------------------------------------------------------------------------


def nested(text):
    """The same notation by another way: Python's own parser, on nested tuples."""
    text = re.sub(r"\((\d) ", r"('\1', ", re.sub(r"(\d) ([^()\s]+)\)", r"\1 '\2')", text))
    return eval(re.sub(r"\) \(", "), (", text))  # noqa: S307


@pytest.mark.parametrize("text", forest())
def test_the_parser_reads_what_is_written(text):
    tree = parse_tree(text)

    def rebuild(node):
        if tree.words[node] is not None:
            assert tree.children[node] == [0, 0]
            return (tree.labels[node], tree.words[node])
        return (tree.labels[node], *(rebuild(child) for child in tree.children[node]))

    def height(node):
        return 1 if isinstance(node[1], str) else 1 + max(height(child) for child in node[1:])

    assert rebuild(len(tree.labels) - 1) == nested(text)
    assert tree.heights[-1] == height(nested(text))
    for node, (left, right) in enumerate(tree.children):
        if tree.words[node] is None:
            assert left < right < node and tree.heights[node] == 1 + max(tree.heights[left], tree.heights[right])


def test_escapes_are_undone_and_only_plain_blanks_separate():
    tree = parse_tree("(2 (2 -LRB-) (2 (2 1\\/2) (2\n8\xa01\\/2)))")
    assert [word for word in tree.words if word is not None] == ["(", "1/2", "8\xa01/2"]


@pytest.mark.parametrize("side", DEEP)
def test_a_tree_of_depth_1000_is_read_without_recursion(side):
    tree = parse_tree(DEEP[side])
    assert len(tree.words) == 2001 and tree.heights[-1] == 1001


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("(3 (2 It) (4 good)", 0, "never closed"),
        ("(3 (2 It) (4 good", 10, "never closed (2 in all)"),
        ("(3 (2 It) (4 good)))", 19, "')' after the end"),
        ("(3 (2 It) (4 good)) (2 x)", 20, "'(' after the end"),
        ("It works", 0, "parsed into a tree first"),
        (")", 0, "outside of brackets"),
        ("", 0, "no tree"),
        ("()", 0, "holds nothing"),
        ("(3)", 0, "no word"),
        ("(3 (2 It))", 0, "one child"),
        ("((2 It) (2 works))", 1, "without a label"),
        ("(3 (2 a) (2 b) (2 c))", 15, "a third child"),
        ("(3 New York)", 7, "beside another word"),
        ("(3 (2 a) b)", 9, "beside another child"),
        ("(3 a (2 b))", 5, "a tree beside a word"),
    ],
)
def test_malformed_trees_are_refused_by_row_and_character(text, position, reason):
    with pytest.raises(ValueError, match=re.escape(reason)) as error:
        parse_tree(text, row=7)
    assert f"Row 7, character {position} " in str(error.value)


def test_errors_of_a_data_set_name_its_row(tokenizer):
    data = Dataset.from_dict({"tree": ["(3 a)"] * 1500 + ["(3 a"], "label": [0] * 1501})
    with pytest.raises(ValueError, match="Row 1500, character 0 .*never closed"):
        tokenize_trees(data, tokenizer)
    with pytest.raises(ValueError, match="no column 'trees' of trees; the columns are tree, label"):
        tokenize_trees(data, tokenizer, "trees")
    with pytest.raises(ValueError, match="Row 0: a tree must be a string, got int"):
        tokenizer([3])


# ---- Tokenizer ------------------------------------------------------------------------------------------------------


def test_the_tokenizer_gives_words_children_and_heights(tokenizer):
    encoded = tokenizer("(3 (2 W1) (4 (2 w2) (4 unheard)))")
    w1, w2, unknown = tokenizer.convert_tokens_to_ids(["w1", "w2", "[UNK]"])
    assert encoded["input_ids"] == [w1, w2, unknown, 0, 0] and unknown == 1
    assert encoded["children"] == [[0, 0], [0, 0], [0, 0], [1, 2], [0, 3]]
    assert encoded["heights"] == [1, 1, 1, 2, 3]


def test_labels_come_from_the_root_or_from_every_node_that_has_one(tokenizer):
    trees = ["(3 (2 w1) (0 (2 w2) (1 w3)))", "(4 w1)"]
    assert tokenizer(trees, node_labels=LABELS)["labels"] == [1, 1]
    every = tokenizer(trees, node_labels=LABELS, every_node=True)
    assert every["output_nodes"] == [[2, 3, 4], [0]] and every["labels"] == [[0, 0, 1], [1]]
    batch = DataCollatorWithPadding(tokenizer)([{key: every[key][i] for key in every} for i in range(2)])
    assert batch["labels"].tolist() == [[0, 0, 1, -100, -100], [1, -100, -100, -100, -100]]
    assert batch["heights"].tolist() == [[1, 1, 1, 2, 3], [1, 0, 0, 0, 0]] and batch["children"].shape == (2, 5, 2)
    with pytest.raises(ValueError, match="Row 1: the root is labelled '2', which is none of 0, 1, 3, 4"):
        tokenizer(["(3 w1)", "(2 w1)"], node_labels=LABELS)
    with pytest.raises(ValueError, match="every_node=True needs node_labels"):
        tokenizer(trees, every_node=True)
    with pytest.raises(ValueError, match="cannot be truncated"):
        tokenizer(trees, truncation=True)


def test_labels_of_trees_replace_those_of_the_data_set(tokenizer):
    data = Dataset.from_dict({"tree": ["(3 w1)", "(0 w2)"], "label": [0, 0]})
    assert tokenize_trees(data, tokenizer)["label"] == [0, 0]
    told = tokenize_trees(data, tokenizer, node_labels=LABELS)
    assert told["labels"] == [1, 0] and "label" not in told.column_names


def test_the_tokenizer_survives_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for loaded in (TreeTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert isinstance(loaded, TreeTokenizer)
        assert dict(loaded(forest())) == dict(tokenizer(forest()))


# ---- The network ----------------------------------------------------------------------------------------------------


def one_by_one(model, tree, ids):
    """
    Output of every node by the equations of Tai et al. (2015), one node and one gate after the other. `released`: as
    in the published code, where a leaf's memory is linear and inner nodes have no output gate.
    """
    cell, released = model.cell, model.config.cell == "released"
    size = model.config.hidden_size

    def gate(layer, index, x):
        rows = slice(index * size, (index + 1) * size)
        return layer.weight[rows] @ x + layer.bias[rows]

    outputs, memories = [], []
    for node, word in enumerate(ids):
        if tree["heights"][node] == 1:
            x = model.embeddings.weight[word]
            if released:
                memory = gate(cell.leaf, 1, x)
            else:
                memory = sigmoid(gate(cell.leaf, 1, x)) * tanh(gate(cell.leaf, 2, x))
            output = sigmoid(gate(cell.leaf, 0, x)) * tanh(memory)
        else:
            left, right = tree["children"][node]
            x = torch.cat([outputs[left], outputs[right]])
            first = 0 if released else 1
            memory = sigmoid(gate(cell.node, first, x)) * tanh(gate(cell.node, first + 3, x))
            memory = memory + sigmoid(gate(cell.node, first + 1, x)) * memories[left]
            memory = memory + sigmoid(gate(cell.node, first + 2, x)) * memories[right]
            output = tanh(memory) if released else sigmoid(gate(cell.node, 0, x)) * tanh(memory)
        outputs.append(output)
        memories.append(memory)
    return torch.stack(outputs)


def gradients(model, value):
    return torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cell", ["tai2015", "released"])
@pytest.mark.parametrize("trees", ["random", "single", "left", "right"])
def test_batched_equals_one_node_after_the_other_in_value_and_gradient(tokenizer, cell, dtype, trees):
    texts = {"random": forest(), "single": ["(3 w1)", "(0 w2)"]}.get(trees) or [DEEP[trees], "(3 w1)"]
    encoded = tokenizer(texts)
    examples = [{key: encoded[key][i] for key in encoded} for i in range(len(texts))]
    batch = DataCollatorWithPadding(tokenizer)(examples)
    model = build(cell, dtype)
    expected = [one_by_one(model, example, example["input_ids"]) for example in examples]
    roots = model.classifier(torch.stack([outputs[-1] for outputs in expected]))
    logits = model(**batch).logits
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(logits, roots, **tolerance)
    # A loss in which every node of every tree counts.
    nodes = torch.arange(batch["heights"].shape[1]).expand(len(texts), -1)
    every = model(**batch, output_nodes=nodes).logits[batch["heights"] > 0]
    weights = torch.randn(every.shape, dtype=dtype, generator=torch.Generator().manual_seed(1)) / len(every)
    ours = gradients(model, (every * weights).sum())
    theirs = gradients(model, (model.classifier(torch.cat(expected)) * weights).sum())
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, **tolerance)


@pytest.mark.parametrize("cell", ["tai2015", "released"])
def test_the_gradient_of_the_cell_is_that_of_finite_differences(cell):
    torch.manual_seed(0)
    module = TreeLSTMCell(TreeLSTMConfig(embedding_size=3, hidden_size=2, cell=cell)).double()
    vectors, words = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 3, 1, 2, 1])
    children, counts = torch.tensor([[3, 0], [4, 1], [5, 2], [7, 6]]), [2, 1, 1]

    def outputs(vectors, *parameters):
        named = dict(zip([name for name, _ in module.named_parameters()], parameters, strict=True))
        return torch.func.functional_call(module, named, (vectors, words, children, counts))

    assert torch.autograd.gradcheck(outputs, (vectors, *module.parameters()))


def test_padding_and_the_other_trees_of_a_batch_change_nothing(tokenizer):
    model, texts = build(), forest()
    together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_mixed_precision_trains(tokenizer):
    model = build(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        batch = tokenizer(forest(), padding=True, return_tensors="pt")
        logits = model(**batch).logits
    logits.float().sum().backward()
    torch.testing.assert_close(logits.float(), model(**batch).logits, rtol=0.05, atol=0.1)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_the_loss_of_the_model_itself_ignores_padded_nodes(tokenizer):
    model = build()
    batch = tokenizer(forest(), node_labels=LABELS, every_node=True, padding=True, return_tensors="pt")
    output = model(**batch)
    kept = batch["labels"] != -100
    expected = torch.nn.functional.cross_entropy(output.logits[kept], batch["labels"][kept])
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    tupled = model(**batch, return_dict=False)
    assert torch.equal(tupled[1], output.logits)


def test_a_network_starts_as_the_published_code_says(tokenizer):
    torch.manual_seed(0)
    model, made = create_tree_lstm(forest(), NAMES)
    assert model.config.hidden_size == 150 and model.config.embedding_size == 300 and model.config.dropout == 0.5
    assert [tuple(p.shape) for p in model.cell.parameters()] == [(450, 300), (450,), (750, 300), (750,)]
    weight = model.cell.node.weight
    assert weight.abs().max() <= 150**-0.5 and weight.std().item() == pytest.approx(150**-0.5 / 3**0.5, rel=0.02)
    words = model.embeddings.weight[1:]
    assert words.mean().item() == pytest.approx(-0.05, abs=0.005) and words.std().item() == pytest.approx(0.05, 0.1)
    with pytest.raises(ValueError, match="cell must be one of tai2015, released, got 'sum'"):
        TreeLSTMConfig(cell="sum")


def test_the_treebank_is_read_and_its_sentences_come_out(test_data):
    from datasets import load_dataset

    data = load_dataset(str(test_data / "sst"), "binary", split="validation")
    for row in data:
        tree = parse_tree(row["tree"])
        assert " ".join(word for word in tree.words if word is not None) == row["sentence"]
        assert tree.labels[-1] == str(row["fine_label"])
