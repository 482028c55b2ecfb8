# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The paper's two text networks by `scripts/run_text.py`, from trees and posts to what a stranger gets."""

import json
import logging
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from launching import as_scripts, launch, run_main
from safetensors.numpy import load_file
from safetensors.torch import save_file
from scipy.special import softmax
from small_texts import rows, write
from torch import nn
from transformers import AutoTokenizer

import hf_focal
from hf_focal import (
    calibration_metrics_from_logits,
    create_loss,
    create_text_classifier,
    phrase_classes,
    tokenize_trees,
)
from hf_focal.cli import run_text
from hf_focal.cli.arguments import TrainArguments, parse_arguments
from hf_focal.metrics import METRICS
from hf_focal.networks.trees import parse_tree


pytestmark = pytest.mark.filterwarnings("ignore:The best temperature")  # of models that hardly learn anything

SCRIPT = str(ROOT / "scripts" / "run_text.py")
TREES = ["(3 (2 It) (4 (2 is) (4 good)))", "(1 (2 It) (0 fails))", "(4 (2 So) (4 good))", "(0 (1 Not) (4 good))"]
SMALL = ["--model_kwargs", '{"hidden_size": 12, "embedding_size": 8, "dropout": 0.0}', "--use_cpu", "true"]
CNN = ["--model_name_or_path", "global-pooling-cnn"]
SMALL += ["--save_strategy", "no", "--disable_tqdm", "true"]


def run(monkeypatch, *flags):
    """The script in this process; its output folder and what it found there."""
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, flags)])
    run_main(SCRIPT)


# ---- The class of a phrase ------------------------------------------------------------------------------------------


def test_classes_of_phrases_are_told_from_whole_trees():
    data = Dataset.from_dict({"tree": TREES, "label": [1, 0, 1, 0]})
    assert phrase_classes(data) == {"3": 1, "1": 0, "4": 1, "0": 0}
    assert phrase_classes(data, extra_class=2) == {"3": 1, "1": 0, "4": 1, "0": 0, "2": 2}
    with pytest.raises(ValueError, match="no further class is needed"):
        phrase_classes(Dataset.from_dict({"tree": ["(1 (1 a) (0 b))", "(0 c)"], "label": [1, 0]}), extra_class=2)
    with pytest.raises(ValueError, match="Row 2: the label '4' of its root is of class 0, in an earlier row .*1"):
        phrase_classes(Dataset.from_dict({"tree": TREES[1:] + [TREES[2]], "label": [0, 1, 0, 0]}).select([0, 1, 3]))


def test_classes_of_phrases_of_the_treebank_are_those_of_its_binary_form(test_data):
    data = load_dataset(str(test_data / "sst"), "binary")["validation"]
    assert phrase_classes(data, extra_class=2) == {"0": 0, "1": 0, "3": 1, "4": 1, "2": 2}


# ---- Tree-LSTM ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def treebank(test_data, tmp_path_factory):
    """Some hundred real trees."""
    folder = tmp_path_factory.mktemp("treebank")
    for split, data in load_dataset(str(test_data / "sst"), "binary").items():
        chosen = data.shuffle(seed=0).select(range(400 if split == "train" else 250))
        chosen.select_columns(["tree", "label", "sentence"]).to_parquet(folder / f"{split}.parquet")
    return folder


RECIPE = ["--config", str(ROOT / "configs" / "sst.yaml"), "--load_best_model_at_end", "false", *SMALL]


@pytest.fixture(scope="module")
def phrases(treebank, tmp_path_factory):
    """The published recipe on these, its network smaller."""
    folder = tmp_path_factory.mktemp("phrases") / "out"
    flags = ["--dataset_name", str(treebank), "--num_train_epochs", "3", "--output_dir", str(folder)]
    settings = '{"cell": "released", "hidden_size": 12, "embedding_size": 8, "dropout": 0.0}'
    result = launch(SCRIPT, *RECIPE, "--model_kwargs", settings, *flags)
    return folder, result


def test_the_recipe_trains_on_phrases_with_a_third_class(phrases):
    folder, result = phrases
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive", "2": "neutral"} and config["cell"] == "released"
    arrays = load_file(folder / "predictions.safetensors")
    assert arrays["test_logits"].shape == (250, 3) and set(arrays["test_labels"]) == {0, 1}
    # Of the phrases far more are neutral than not, and of whole trees none is: both are learned.
    assert (arrays["test_logits"].argmax(axis=1) != 2).mean() > 0.5
    results = json.loads((folder / "all_results.json").read_text())
    for moment, temperature in (("before", 1.0), ("after", results["temperature"])):
        measured = calibration_metrics_from_logits(arrays["test_logits"], arrays["test_labels"], 15, temperature)
        for key in METRICS:
            assert results[f"test_{moment}_{key}"] == pytest.approx(measured[key], abs=1e-12)
    assert re.search(r"mean confidence (of the model )?is [\d.]+%", " ".join(result.stdout.split()))


def test_whoever_has_the_package_gets_its_probabilities_from_trees(phrases, treebank):
    folder, _ = phrases
    test = load_dataset("parquet", data_files=str(treebank / "test.parquet"), split="train")
    expected = load_file(folder / "predictions.safetensors")["test_logits"].astype(np.float64)
    expected = softmax(expected / json.loads((folder / "all_results.json").read_text())["temperature"], axis=1)
    found = hf_focal.pipeline("text-classification", model=str(folder), top_k=None)(test["tree"][:])
    names = ("negative", "positive", "neutral")
    found = np.array([[{row["label"]: row["score"] for row in one}[name] for name in names] for one in found])
    assert np.abs(found - expected).max() < 1e-5
    (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    result = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True)
    assert result.returncode == 0 and "score" in result.stdout, result.stderr


def test_a_saved_tree_model_is_calibrated_on_other_trees(phrases, treebank, tmp_path, monkeypatch):
    """Two classes cannot be matched with three, so the data know of the third, which is masked and which none has."""
    for split in ("validation", "test"):
        data = load_dataset("parquet", data_files=str(treebank / f"{split}.parquet"), split="train")
        features = {"tree": Value("string"), "label": ClassLabel(names=["negative", "positive", "neutral"])}
        few = {"tree": data["tree"][:], "label": data["label"][:]}
        Dataset.from_dict(few, features=Features(features)).to_parquet(tmp_path / f"{split}.parquet")
    script = str(ROOT / "scripts" / "calibrate.py")
    flags = ["--model_name_or_path", str(phrases[0]), "--dataset_name", str(tmp_path), "--text_column_name", "tree"]
    flags += ["--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--disable_tqdm", "true"]
    monkeypatch.setattr(sys, "argv", [script, *flags])
    run_main(script)
    before, after = (load_file(folder / "predictions.safetensors") for folder in (phrases[0], tmp_path / "out"))
    np.testing.assert_allclose(after["test_logits"], before["test_logits"], rtol=1e-4, atol=1e-5)


THREE_OUTPUTS = ("every_phrase", "extra_class", "masked_classes")


def test_whole_trees_with_two_outputs_train_in_two_processes_as_in_one(treebank, tmp_path):
    recipe = yaml.safe_load((ROOT / "configs" / "sst.yaml").read_text())
    recipe = {key: value for key, value in recipe.items() if key not in THREE_OUTPUTS}
    recipe |= {"load_best_model_at_end": False, "loss_reduction": "mean", "embedding_learning_rate": 0.1}
    recipe |= {"weight_decay": 1e-4, "num_train_epochs": 2, "max_train_samples": 200, "loss": "flsd-53"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    stored = {}
    for name, processes, batch in (("one", 1, 20), ("two", 2, 10)):
        flags = ["--config", str(tmp_path / "recipe.yaml"), "--dataset_name", str(treebank), *SMALL]
        flags += ["--per_device_train_batch_size", str(batch), "--output_dir", str(tmp_path / name)]
        result = launch(SCRIPT, *flags, processes=processes)
        assert f"in {processes} process(es)" in result.stdout
        stored[name] = load_file(tmp_path / name / "model.safetensors")
        stored[name] |= load_file(tmp_path / name / "predictions.safetensors")
    assert stored["one"]["test_logits"].shape == (250, 2)
    for key, value in stored["one"].items():
        np.testing.assert_allclose(stored["two"][key], value, rtol=1e-4, atol=1e-4, err_msg=key)


def test_the_embeddings_get_their_own_optimizer(treebank, tmp_path, monkeypatch):
    """With a rate of 0 they stay, and with the other rate at 0 nothing else moves."""
    flags = [
        "--config",
        ROOT / "configs" / "sst.yaml",
        "--load_best_model_at_end",
        "false",
        "--dataset_name",
        treebank,
    ]
    flags += [*SMALL, "--max_train_samples", 100, "--num_train_epochs", 1]
    saved = {}
    for name, rates in (("none", (0, 0)), ("others", (0.05, 0)), ("embeddings", (0, 0.1))):
        more = ["--learning_rate", rates[0], "--embedding_learning_rate", rates[1], "--output_dir", tmp_path / name]
        run(monkeypatch, *flags, *more, "--no_fold_temperature")
        saved[name] = load_file(tmp_path / name / "model.safetensors")
    for name in ("others", "embeddings"):
        changed = {key for key, value in saved[name].items() if not np.array_equal(value, saved["none"][key])}
        assert changed and (changed == {"embeddings.weight"}) == (name == "embeddings"), (name, changed)
        assert ("embeddings.weight" in changed) == (name == "embeddings")


# ---- Global Pooling CNN ---------------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path):
    write(tmp_path / "texts", "csv", train=rows(120), validation=rows(240), test=rows(50))
    return tmp_path / "texts"


def test_a_cnn_on_word_vectors_is_saved_with_what_raw_text_needs(texts, tmp_path, monkeypatch, caplog):
    words = ["film", "[UNK]", "the", "good"] + [word for text in rows(120)["text"] for word in text.lower().split()]
    words = list(dict.fromkeys(words))
    (tmp_path / "vectors").mkdir()
    save_file({"weight": torch.randn(len(words), 6)}, tmp_path / "vectors" / "vectors.safetensors")
    (tmp_path / "vectors" / "vocab.txt").write_text("\n".join(words) + "\n")
    flags = [
        "--model_name_or_path",
        "global-pooling-cnn",
        "--embeddings",
        tmp_path / "vectors",
        "--max_seq_length",
        30,
    ]
    flags += ["--model_kwargs", '{"hidden_size": 8}', "--num_train_epochs", 1, "--vocab_size", 10, "--loss", "brier"]
    caplog.set_level(logging.INFO)
    run(monkeypatch, "--dataset_name", texts, *flags, "--use_cpu", "true", "--output_dir", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["sequence_length"], config["embedding_size"], config["vocab_size"]) == (30, 6, 10)
    assert config["freeze_embeddings"] is True and "words of the vocabulary have a pretrained vector" in caplog.text
    arrays = load_file(tmp_path / "out" / "predictions.safetensors")
    expected = softmax(arrays["test_logits"].astype(np.float64) / config["calibration"]["temperature"], axis=1)
    test = load_dataset("csv", data_files=str(texts / "test.csv"), split="train")
    classify = hf_focal.pipeline("text-classification", model=str(tmp_path / "out"), top_k=None, truncation=True)
    found = [{row["label"]: row["score"] for row in one} for one in classify(test["text"][:])]
    found = [[row[name] for _, name in sorted(config["id2label"].items())] for row in found]
    assert np.abs(np.array(found) - expected).max() < 1e-5


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_vocabulary_is_that_of_the_training_texts_unless_all_are_asked_for(tmp_path, monkeypatch, everywhere):
    data = rows(240)
    write(tmp_path / "data", "csv", train=data, validation=data, test={**rows(30), "text": ["unheard"] * 30})
    flags = ["--model_name_or_path", "global-pooling-cnn", "--model_kwargs", '{"hidden_size": 4, "embedding_size": 3}']
    flags += [
        "--num_train_epochs",
        1,
        "--max_train_samples",
        64,
        "--output_dir",
        tmp_path / "out",
        "--use_cpu",
        "true",
    ]
    run(monkeypatch, "--dataset_name", tmp_path / "data", *flags, "--vocabulary_of_all_splits", everywhere)
    assert ("unheard" in AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()) == everywhere


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--every_phrase"], "--every_phrase needs a network of trees, such as tree-lstm; small-bert reads texts"),
        (["--extra_class", "neutral"], "--extra_class is a class of phrases: it needs --every_phrase"),
        (["--model_name_or_path", "tree-lstm"], "outside of brackets: raw text has to be parsed into a tree first"),
        ([*CNN, "--embeddings", "nowhere"], "There is no such folder: nowhere"),
        ([*CNN, "--max_seq_length", "20"], "at least 21, got 20"),
        (["--embeddings", "glove"], "'small-bert' learns its embeddings"),
        (["--model_kwargs", '{"hidden": 3}'], "'small-bert' has no setting 'hidden'; it has .*hidden_size"),
        (["--model_kwargs", "hidden_size=3"], "--model_kwargs must be a JSON object, got 'hidden_size=3'"),
        (["--model_kwargs", '{"id2label": {}}'], "'small-bert' has no setting 'id2label'"),
        (["--every_phrase", "--extra_class", "good"], "--extra_class good is a class of the data already"),
        (["--model_kwargs", "[3]"], "--model_kwargs must be a JSON object"),
        (
            ["--model_name_or_path", "some/bert", "--vocab_size", "9"],
            "vocab_size can only be set for networks",
        ),
    ],
)
def test_a_wrong_flag_is_one_clear_error(texts, tmp_path, monkeypatch, flags, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(monkeypatch, "--dataset_name", texts, "--output_dir", tmp_path / "out", "--use_cpu", "true", *flags)
    assert not (tmp_path / "out" / "all_results.json").exists()


def test_a_malformed_tree_is_named_by_row_and_place_before_training(treebank, tmp_path, monkeypatch, capsys):
    data = load_dataset("parquet", data_files=str(treebank / "train.parquet"), split="train").to_dict()
    data["tree"][7] = "(3 (2 It) (4 good)"
    Dataset.from_dict(data).to_parquet(tmp_path / "train.parquet")
    message = r"The split 'train' cannot be used. Row 7, character 0 .*a bracket that is never closed \(1 in all\)"
    with pytest.raises(ValueError, match=message):
        flags = ["--validation_size", 60, "--text_column_name", "tree", "--output_dir", tmp_path / "out"]
        run(monkeypatch, "--dataset_name", tmp_path, "--model_name_or_path", "tree-lstm", *flags, "--use_cpu", "true")
    assert "it/s" not in capsys.readouterr().err


def test_settings_and_lengths_reach_the_networks():
    labels, texts = ["a", "b"], ["one word after the other", "and more"]
    model, tokenizer = create_text_classifier(
        "global-pooling-cnn", labels, texts=texts, max_seq_length=40, vocab_size=5, model_kwargs={"hidden_size": 7}
    )
    assert (model.config.sequence_length, model.config.hidden_size, tokenizer.model_max_length) == (40, 7, 40)
    assert len(tokenizer) == model.config.vocab_size == 5
    model, tokenizer = create_text_classifier("tree-lstm", labels, texts=TREES, model_kwargs={"hidden_size": 7})
    assert model.config.hidden_size == 7 and model.config.id2label == {0: "a", 1: "b"}
    model, tokenizer = create_text_classifier(
        "small-bert", labels, texts=texts, max_seq_length=9, vocab_size=40, model_kwargs={"num_hidden_layers": 1}
    )
    assert (model.config.num_hidden_layers, tokenizer.model_max_length, len(tokenizer) <= 40) == (1, 9, True)
    with pytest.raises(ValueError, match="A tree cannot be cut: leave max_seq_length"):
        create_text_classifier("tree-lstm", labels, texts=TREES, max_seq_length=20)
    for name in ("global-pooling-cnn", "tree-lstm"):
        with pytest.raises(ValueError, match=f"'{name}' classifies whole texts: it does not serve token-class"):
            create_text_classifier(name, labels, texts=TREES, task="token-classification")
    for name in ("global-pooling-cnn", "tree-lstm", "small-bert"):
        with pytest.raises(ValueError, match=f"'{name}' needs the training texts"):
            create_text_classifier(name, labels)


# ---- The recipes ----------------------------------------------------------------------------------------------------


def parsed(name, *flags):
    types = [run_text.ModelArguments, run_text.DataArguments, TrainArguments]
    return parse_arguments(types, ["--config", str(ROOT / "configs" / f"{name}.yaml"), "--use_cpu", "true", *flags])


def commands():
    """Of the page on the paper and of the recipes: the recipe, its data and further flags."""
    text = as_scripts("".join((ROOT / name).read_text() for name in ("docs/paper.md", "configs/README.md")))
    found = re.findall(r"^accelerate launch scripts/run_text.py --config configs/(.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line) for line in found]


@pytest.fixture
def newsgroups(test_data, tmp_path):
    """What the snippet makes, of fewer posts and without the download."""
    posts = load_dataset(str(test_data / "twenty_newsgroups"))["train"].shuffle(seed=0).select(range(600))
    made = SimpleNamespace(
        data=[text.partition("\n\n")[2] for text in posts["text"]], target=posts["label"][:],
        target_names=posts.features["label"].names,
    )  # fmt: skip
    text = (ROOT / "configs" / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    snippet = snippet.replace("path/to/newsgroups", str(tmp_path / "newsgroups"))
    (tmp_path / "newsgroups").mkdir()
    calls = []
    fetch = "from sklearn.datasets import fetch_20newsgroups\n"
    assert fetch in snippet
    exec(snippet.replace(fetch, ""), {"fetch_20newsgroups": lambda **kwargs: calls.append(kwargs) or made})
    assert calls == [{"subset": "all", "remove": ("headers",)}]
    return str(tmp_path / "newsgroups")


def test_the_commands_of_the_readmes_run(newsgroups, treebank, test_data, tmp_path, monkeypatch):
    paths = {"path/to/newsgroups": newsgroups, "path/to/sst": str(treebank)}
    paths["path/to/glove"] = str(test_data / "glove_6b" / "50d")
    assert len(commands()) == 4
    for index, (recipe, *flags) in enumerate(commands()):
        flags = ["--config", ROOT / "configs" / recipe, *[paths.get(flag, flag) for flag in flags]]
        shorter = ["--num_train_epochs", 1, "--max_train_samples", 150, "--use_cpu", "true", "--disable_tqdm", "true"]
        if recipe.startswith("20"):
            shorter += ["--validation_size", 200, "--max_seq_length", 60]
        run(monkeypatch, *flags, *shorter, "--output_dir", tmp_path / str(index))
        results = json.loads((tmp_path / str(index) / "all_results.json").read_text())
        assert results["loss"] == (flags[flags.index("--loss") + 1] if "--loss" in flags else "cross_entropy")
        names = json.loads((tmp_path / str(index) / "config.json").read_text())["id2label"].values()
        assert len(names) == (20 if recipe.startswith("20") else 3)


def test_flags_of_every_loss_in_the_readme_make_that_loss():
    text = (ROOT / "configs" / "README.md").read_text().split("## Texts")[1]
    found = {}
    for row in re.findall(r"^\| `.*$", text, flags=re.MULTILINE):
        losses, news, trees = (cell.strip() for cell in row.strip("|").split("|"))
        trees = news if trees == "the same" else trees
        for loss in re.findall("`(.*?)`", losses):
            for recipe, cell in (("20_newsgroups", news), ("sst", trees)):
                flags = shlex.split((re.findall("`(.*?)`", cell) or [""])[0])
                _, _, args = parsed(recipe, "--loss", loss, *flags)
                found[recipe, loss] = create_loss(args.loss, **args.loss_parameters())
    assert len(found) == 18
    for recipe, milestones, lam, reduction in (("20_newsgroups", (14, 35), 2, "mean"), ("sst", (3, 7), 1, "sum")):
        assert tuple(found[recipe, "flsc-531"].milestones) == milestones and found[recipe, "flsc-531"].in_epochs
        assert (found[recipe, "mmce"].lam, found[recipe, "mmce"].normalization) == (lam, "released")
        assert {made.reduction for (name, _), made in found.items() if name == recipe} == {reduction}


def test_the_recipe_for_newsgroups_is_that_of_the_paper():
    model, data, args = parsed("20_newsgroups")
    assert (model.model_name_or_path, model.vocab_size, model.max_seq_length) == ("global-pooling-cnn", 20_000, 1000)
    assert (data.holdout, data.validation_size, data.split_seed) == (0.2, 900, 1)
    # AdamW without weight decay is Adam.
    assert (args.optim, args.weight_decay, args.learning_rate) == ("adamw_torch_fused", 0, 1e-3)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (args.per_device_train_batch_size, args.num_train_epochs, args.dataloader_drop_last) == (128, 50, True)
    assert (args.max_grad_norm, args.lr_scheduler_type, args.warmup_steps, args.loss_reduction) == (
        0,
        "constant",
        0,
        "mean",
    )
    assert (args.load_best_model_at_end, args.metric_for_best_model, args.greater_is_better) == (
        True,
        "accuracy",
        True,
    )


def test_the_recipe_for_the_treebank_takes_the_published_steps(test_data):
    """Two steps by the flags are those of the published code: per-phrase losses summed, and divided by 25 trees."""
    model_args, data_args, args = parsed("sst")
    assert (args.per_device_train_batch_size, args.num_train_epochs, args.max_grad_norm) == (25, 25, 0)
    assert (args.lr_scheduler_type, args.warmup_steps, args.metric_for_best_model) == ("constant", 0, "accuracy")
    assert (data_args.every_phrase, data_args.extra_class) == (True, "neutral")
    data = load_dataset(str(test_data / "sst"), "binary")["train"].select(range(50))
    torch.manual_seed(0)  # Adagrad makes much of slopes near 0, which are rounding
    model, tokenizer = create_text_classifier(
        "tree-lstm", ["negative", "positive", "neutral"], texts=data["tree"],
        model_kwargs={**model_args.model_kwargs, "hidden_size": 12, "embedding_size": 8, "dropout": 0.0},
    )  # fmt: skip
    tokens = tokenize_trees(data, tokenizer, node_labels=phrase_classes(data, extra_class=2), every_node=True)
    assert [len(labels) for labels in tokens["labels"]] == [len(parse_tree(tree).labels) for tree in data["tree"]]
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    def steps(optimizer, scale):
        model.load_state_dict(weights)
        for start in (0, 25):
            batch = tokenizer.pad(tokens.select_columns(
                ["input_ids", "children", "heights", "output_nodes", "labels"]
            )[start : start + 25], return_tensors="pt")  # fmt: skip
            labels = batch.pop("labels")
            loss = nn.functional.cross_entropy(model(**batch).logits.flatten(0, 1), labels.flatten(), reduction="sum")
            model.zero_grad()
            (loss * scale).backward()
            optimizer.step()
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    released = hf_focal.AdagradWithEmbeddingSGD(model, lr=0.05, embedding_lr=0.1, weight_decay=1e-4)
    expected = steps(released, 1 / 25)
    ours = hf_focal.AdagradWithEmbeddingSGD(
        model, lr=args.learning_rate, embedding_lr=model_args.embedding_learning_rate, weight_decay=args.weight_decay
    )
    for name, value in steps(ours, 1.0).items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}"
        )
        assert not torch.equal(value, weights[name])
