# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The text networks of the paper: against a restatement, from word vectors to what a stranger loads."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import hf_focal
from hf_focal import (
    About,
    AdagradWithEmbeddingSGD,
    CalibrationTrainer,
    CalibrationTrainingArguments,
    create_global_pooling_cnn,
    create_model_card,
    create_tree_lstm,
    fold_temperature,
    load_word_vectors,
    tokenize_trees,
    train_word_tokenizer,
)


TEXTS = ["The film is good, isn't it?", "A bad film: dull and dull", "the play"]
TREES = ["(3 (2 It) (4 (2 is) (4 good)))", "(1 (2 It) (0 fails))", "(4 great)", "(0 (0 dull) (2 film))"]
NAMES = ["negative", "positive"]


@pytest.fixture
def glove(tmp_path):
    """Vectors of 5 words; rows are told apart by their values."""
    words = ["the", "film", "good", "it", "dull"]
    folder = tmp_path / "glove"
    folder.mkdir()
    save_file({"weight": torch.arange(1, 21).reshape(5, 4).half()}, folder / "vectors.safetensors")
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


# ---- Words and their vectors ----------------------------------------------------------------------------------------


def test_words_are_split_as_by_keras_and_the_most_frequent_are_kept():
    tokenizer = train_word_tokenizer(TEXTS, vocab_size=6)
    assert tokenizer.get_vocab() == {"[PAD]": 0, "[UNK]": 1, "dull": 2, "film": 3, "the": 4, "a": 5}
    everything = train_word_tokenizer(TEXTS)
    assert everything.tokenize("THE film,isn't\tdull... (it)") == ["the", "film", "isn't", "dull", "it"]
    with pytest.raises(ValueError, match="no word in the texts"):
        train_word_tokenizer(["...", ""])


@pytest.mark.filterwarnings("ignore:Only")
def test_words_get_their_vectors_and_the_others_what_the_publication_gives_them(glove):
    cnn, tokenizer = create_global_pooling_cnn(TEXTS, NAMES, glove)
    tree, trees = create_tree_lstm(TREES, NAMES, glove)
    for model, words in ((cnn, tokenizer), (tree, trees)):
        row = words.convert_tokens_to_ids("film")
        assert model.embeddings.weight[row].tolist() == [5, 6, 7, 8] and model.config.embedding_size == 4
    assert not cnn.embeddings.weight.requires_grad and tree.embeddings.weight.requires_grad
    unknown = [tokenizer.convert_tokens_to_ids(word) for word in ("[PAD]", "[UNK]", "bad", "isn't")]
    assert (cnn.embeddings.weight[unknown] == 0).all()
    assert (tree.embeddings.weight[trees.convert_tokens_to_ids("fails")].abs() < 0.5).all()


def test_a_vocabulary_that_the_vectors_hardly_cover_is_told_of(glove):
    with pytest.warns(UserWarning, match=r"Only 33.3% of the 6 words .* another language or case"):
        create_tree_lstm(["(1 (2 Le) (2 film))", "(1 (2 ne) (2 vaut))", "(1 (2 pas) (2 it))"], NAMES, glove)
    with pytest.warns(UserWarning, match="Only 0.0% of the 1 words"):
        create_tree_lstm(["(1 rien)"], NAMES, glove)


def test_word_vectors_that_do_not_fit_are_refused(glove):
    with pytest.raises(ValueError, match="holds no vectors.safetensors: word vectors are a folder"):
        load_word_vectors(glove.parent)
    (glove / "vocab.txt").write_text("the\nfilm\n")
    with pytest.raises(ValueError, match="vocab.txt has 2 words, vectors.safetensors has 5 vectors"):
        create_global_pooling_cnn(TEXTS, NAMES, glove)
    save_file({"vectors": torch.zeros(5, 4)}, glove / "vectors.safetensors")
    with pytest.raises(ValueError, match="must hold a matrix 'weight'"):
        load_word_vectors(glove)
    (glove / "vectors.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged"):
        load_word_vectors(glove)
    model, tokenizer = create_tree_lstm(TREES, NAMES, embedding_size=8)
    with pytest.raises(ValueError, match="have 4 dimensions, the embeddings 8"):
        hf_focal.set_word_vectors(model.embeddings, tokenizer, ["it"], torch.zeros(1, 4))


def test_odd_files_of_word_vectors_are_named(glove, caplog):
    for value in (float("nan"), float("inf")):
        weight = torch.zeros(5, 4)
        weight[3, 1] = value
        save_file({"weight": weight}, glove / "vectors.safetensors")
        with pytest.raises(ValueError, match="vectors.safetensors: 1 of 5 vectors hold NaN or infinity, .*in row 3"):
            load_word_vectors(glove)
    save_file({"weight": torch.arange(6.0).reshape(3, 2)}, glove / "vectors.safetensors")
    (glove / "vocab.txt").write_text("it\nis\nit\n")
    words, vectors = load_word_vectors(glove)
    assert "1 words come twice or more; the first vector of each counts" in caplog.text
    tokenizer = hf_focal.train_word_tokenizer(["it is"])
    embeddings = torch.nn.Embedding(len(tokenizer), 2)
    hf_focal.set_word_vectors(embeddings, tokenizer, words, vectors)
    assert embeddings.weight[tokenizer.convert_tokens_to_ids("it")].tolist() == [0, 1]
    for text in (b"", b"\n"):
        (glove / "vocab.txt").write_bytes(text)
        with pytest.raises(ValueError, match="vocab.txt holds no words"):
            load_word_vectors(glove)
    (glove / "vocab.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="vocab.txt is not in UTF-8"):
        load_word_vectors(glove)


def test_real_vectors_cover_the_treebank(test_data):
    from datasets import load_dataset

    trees = load_dataset(str(test_data / "sst"), "binary", split="validation")["tree"]
    model, tokenizer = create_tree_lstm(trees, NAMES, test_data / "glove_6b" / "50d")
    words, vectors = load_word_vectors(test_data / "glove_6b" / "50d")
    assert vectors.dtype == torch.float32 and vectors.shape == (54_215, 50)
    row = tokenizer.convert_tokens_to_ids("film")
    assert torch.equal(model.embeddings.weight[row], vectors[words.index("film")])


# ---- Global Pooling CNN ---------------------------------------------------------------------------------------------


def restated(weights, ids, length):
    """The published network in NumPy: a text padded with zeros in front to its full length, then window by window."""
    ids = ids[-length:]
    hidden = np.concatenate([np.zeros((length - len(ids), weights["embeddings.weight"].shape[1])),
                             weights["embeddings.weight"][ids]])  # fmt: skip

    def convolve(hidden, name):
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        windows = np.stack([hidden[i : i + 5].T for i in range(len(hidden) - 4)])
        return np.maximum(np.einsum("tci,oci->to", windows, kernel) + bias, 0)

    def pool(hidden):
        return np.stack([hidden[i : i + 5].max(axis=0) for i in range(len(hidden) - 4)])

    hidden = pool(convolve(hidden, "conv1"))
    hidden = pool(convolve(hidden, "conv2"))
    hidden = convolve(hidden, "conv3").max(axis=0)
    hidden = np.maximum(weights["dense.weight"] @ hidden + weights["dense.bias"], 0)
    return weights["classifier.weight"] @ hidden + weights["classifier.bias"]


@pytest.mark.parametrize("length", [21, 60])
def test_the_cnn_is_the_published_one_at_every_length_of_text(length):
    torch.manual_seed(0)
    model, _ = create_global_pooling_cnn(TEXTS, NAMES, sequence_length=length, hidden_size=6, embedding_size=5)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        model.embeddings.weight[0] = 0
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    generator = np.random.default_rng(0)
    texts = [generator.integers(1, 12, size) for size in (1, 4, 20, 21, 35, 41, 59, 60, 61, 90)]
    expected = np.stack([restated(weights, text, length) for text in texts])
    alone = np.concatenate([model(torch.tensor(text)[None]).logits.detach().numpy() for text in texts])
    assert np.abs(alone - expected).max() < 1e-10
    for width in (90, 95):  # padded to a batch, by zeros or by a mask
        batch = np.stack([np.pad(text, (width - len(text), 0)) for text in texts])
        together = model(torch.tensor(batch)).logits.detach().numpy()
        assert np.abs(together - expected).max() < 1e-10
        junk, mask = np.where(batch == 0, 3, batch), torch.tensor(batch > 0).long()
        assert np.abs(model(torch.tensor(junk), mask).logits.detach().numpy() - expected).max() < 1e-10


def test_the_cnn_has_the_published_layers():
    torch.manual_seed(0)
    model, tokenizer = create_global_pooling_cnn(TEXTS, [str(i) for i in range(20)])
    sizes = {name: tuple(value.shape) for name, value in model.named_parameters() if name.endswith("weight")}
    assert sizes == {
        "embeddings.weight": (len(tokenizer), 100), "conv1.weight": (128, 100, 5), "conv2.weight": (128, 128, 5),
        "conv3.weight": (128, 128, 5), "dense.weight": (128, 128), "classifier.weight": (20, 128),
    }  # fmt: skip
    assert model.dropout.p == 0.3 and model.config.sequence_length == 1000
    bound = (100 * 5) ** -0.5  # of PyTorch's own initialisation
    assert 0.9 * bound < model.conv1.weight.abs().max() <= bound
    assert model.embeddings.weight.requires_grad  # no vectors were given
    with pytest.raises(ValueError, match="sequence_length must be at least 21, got 20"):
        create_global_pooling_cnn(TEXTS, NAMES, sequence_length=20)


# ---- Saved, and loaded by a stranger --------------------------------------------------------------------------------


def made(kind):
    torch.manual_seed(0)
    if kind == "tree_lstm":
        return *create_tree_lstm(TREES, NAMES, embedding_size=6, hidden_size=5), TREES
    return *create_global_pooling_cnn(TEXTS, NAMES, embedding_size=6, hidden_size=8, freeze_embeddings=True), TEXTS


KINDS = ["global_pooling_cnn", "tree_lstm"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_model_is_loaded_by_the_auto_classes_and_runs_on_raw_text(kind, tmp_path, capfd):
    model, tokenizer, texts = made(kind)
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    before = model.eval()(**encoded).logits
    fold_temperature(model, 2.0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and loaded.config.id2label == dict(enumerate(NAMES))
    assert loaded.embeddings.weight.requires_grad == (kind == "tree_lstm")
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer) and again.padding_side == tokenizer.padding_side
    logits = loaded(**again(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(logits, before / 2, rtol=1e-6, atol=1e-7)
    expected = logits.softmax(dim=1).max(dim=1).values.tolist()
    for batch_size in (1, 3):
        for classify in (pipeline, hf_focal.pipeline):
            rows = classify("text-classification", model=str(tmp_path))(texts, batch_size=batch_size)
            assert [row["score"] for row in rows] == pytest.approx(expected, abs=1e-6)
    assert "not supported" not in capfd.readouterr().err


STRANGER = """
import sys
from transformers import AutoModelForSequenceClassification
for folder in sys.argv[1:]:
    try:
        AutoModelForSequenceClassification.from_pretrained(folder)
    except ValueError as error:
        print(error)
"""


def test_plain_transformers_names_the_architecture_and_the_card_says_what_to_import(tmp_path):
    snippets = []
    for kind in KINDS:
        model, tokenizer, _ = made(kind)
        fold_temperature(model, 2.0)
        model.save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        about = About("m", "text-classification", model.config.calibration, architecture=kind)
        card = create_model_card(about, model_id=str(tmp_path / kind))
        assert f"names the architecture `{kind}`" in card.text
        snippets += re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
        assert f"import hf_focal.networks  # registers {kind}" in snippets[-1]
    folders = [str(tmp_path / kind) for kind in KINDS]
    plain = subprocess.run([sys.executable, "-c", STRANGER, *folders], capture_output=True, text=True, check=True)
    assert re.findall(r"model type `(\w+)`", plain.stdout) == KINDS
    result = subprocess.run([sys.executable, "-c", "\n".join(snippets)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("'score'") == 2


# ---- Training -------------------------------------------------------------------------------------------------------


def test_the_optimizer_is_adagrad_and_sgd_side_by_side():
    def gradients(model, step):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)

    ours, theirs = made("tree_lstm")[0], made("tree_lstm")[0]
    both = AdagradWithEmbeddingSGD(ours)
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 1 / (1 + step))
    others = [parameter for name, parameter in theirs.named_parameters() if name != "embeddings.weight"]
    adagrad = torch.optim.Adagrad(others, lr=0.05, weight_decay=1e-4)
    for step in range(4):
        for model in (ours, theirs):
            gradients(model, step)
        both.step()
        schedule.step()
        both.zero_grad()
        for group in adagrad.param_groups:
            group["lr"] = 0.05 / (1 + step)
        adagrad.step()
        with torch.no_grad():
            theirs.embeddings.weight -= 0.1 / (1 + step) * theirs.embeddings.weight.grad
        if step == 1:  # as from a checkpoint
            state = both.state_dict()
            both = AdagradWithEmbeddingSGD(ours, lr=7.0)
            resumed = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 1 / (1 + step))
            both.load_state_dict(state)
            resumed.load_state_dict(schedule.state_dict())
            schedule = resumed
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-7)
        assert mine.grad is None
    frozen = created = made("global_pooling_cnn")[0]
    assert len(AdagradWithEmbeddingSGD(frozen).param_groups) == 1 and created.embeddings.weight.grad is None


def train(folder, data, resume=None, **kwargs):
    torch.manual_seed(0)
    model, tokenizer = create_tree_lstm(data["tree"], NAMES, embedding_size=6, hidden_size=5)
    arguments = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "lr_scheduler_type": "linear"}
    args = CalibrationTrainingArguments(
        str(folder), loss="focal", per_device_train_batch_size=8, num_train_epochs=2, save_strategy="epoch",
        eval_strategy="epoch", **arguments, **kwargs,
    )  # fmt: skip
    labels = {"0": 0, "1": 0, "3": 1, "4": 1}
    trainer = CalibrationTrainer(
        model=model,
        args=args,
        train_dataset=tokenize_trees(data, tokenizer, node_labels=labels, every_node=True),
        eval_dataset=tokenize_trees(data, tokenizer),
        processing_class=tokenizer,
        optimizer_cls_and_kwargs=(AdagradWithEmbeddingSGD, {"model": model}),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def treebank():
    generator = np.random.default_rng(0)
    rows = [TREES[index] for index in generator.integers(0, len(TREES), 240)]
    return Dataset.from_dict({"tree": rows, "label": [int(row[1] in "34") for row in rows]})


@pytest.mark.filterwarnings("ignore:The best temperature")
def test_the_trainer_trains_on_phrases_resumes_evaluates_and_calibrates(treebank, tmp_path):
    trainer = train(tmp_path / "whole", treebank)
    assert trainer.evaluate()["eval_accuracy"] == 1.0
    logits = trainer.predict(trainer.eval_dataset).predictions
    assert logits.shape == (240, 2)
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    resumed = train(tmp_path / "resumed", treebank, resume=str(tmp_path / "whole" / "checkpoint-30"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    fit = trainer.calibrate()
    np.testing.assert_allclose(
        trainer.predict(trainer.eval_dataset).predictions * fit.temperature, logits, rtol=1e-4, atol=1e-4
    )
    trainer.save_model()
    trainer.create_model_card()
    assert "import hf_focal.networks  # registers tree_lstm" in (tmp_path / "whole" / "README.md").read_text()
    loaded = hf_focal.from_pretrained(tmp_path / "whole")
    assert loaded.config.calibration["temperature"] == fit.temperature
