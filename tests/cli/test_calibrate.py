# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`scripts/calibrate.py` on models that it did not train: what it fits, what it leaves, and what it refuses."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
import yaml
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from hub_server import HubServer
from launching import blocks, launch, run_main
from PIL import Image as PILImage
from safetensors.numpy import load_file
from scipy.special import log_softmax, softmax
from small_texts import SIZES, sentences
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import hf_focal
from hf_focal import (
    CalibrationTrainer,
    CalibrationTrainingArguments,
    ImageTransform,
    create_image_classifier,
    finish_run,
    load_image_dataset,
    load_text_dataset,
)
from hf_focal.metrics import METRICS
from hf_focal.tasks.text import tokenize, train_tokenizer


SCRIPT = str(ROOT / "scripts" / "calibrate.py")
NAMES = ["bad", "good", "so so"]
TRUTH = 3.0  # the temperature at which the labels were drawn


@pytest.fixture
def calibrate(monkeypatch, capsys, tmp_path):
    """Runs the script in this process, without pictures of progress; returns the results and what was printed."""

    def run(model, data, *flags, folder="out"):
        arguments = ["--model_name_or_path", str(model), "--dataset_name", str(data), "--use_cpu", "true"]
        arguments += ["--output_dir", str(tmp_path / folder), "--criterion", "nll", "--disable_tqdm", "true", *flags]
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        run_main(SCRIPT)
        return json.loads((tmp_path / folder / "all_results.json").read_text()), capsys.readouterr().out

    return run


def draw(logits, seed):
    generator = np.random.default_rng(seed)
    return (logits / TRUTH + generator.gumbel(size=logits.shape)).argmax(axis=1).tolist()


def raw_logits(model, tokenizer, texts):
    with torch.no_grad():
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        return model.eval()(**batch).logits.double().numpy()


def text_data(folder, model, tokenizer, names, order=(0, 1, 2), splits=("validation", "test")):
    """Sentences with labels drawn from what the model says at temperature 3; `order` is that of the classes' names."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=[names[index] for index in order])})
    data = {}
    for seed, split in enumerate(splits):
        texts = sentences(1000, seed)
        labels = [order.index(label) for label in draw(raw_logits(model, tokenizer, texts), 100 + seed)]
        data[split] = Dataset.from_dict({"text": texts, "label": labels}, features=features)
    DatasetDict(data).save_to_disk(str(folder))
    return folder


def save_text_model(folder, names=NAMES, seed=0):
    tokenizer = train_tokenizer(sentences(50))
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), **SIZES, **labels, initializer_range=1.0)
    )
    torch.nn.init.normal_(model.classifier.weight, std=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A foreign model of texts in a folder, its tokenizer, and data whose best temperature is 3."""
    folder = tmp_path_factory.mktemp("text")
    model, tokenizer = save_text_model(folder / "model")
    data = text_data(folder / "data", model, tokenizer, NAMES)
    return folder / "model", model, tokenizer, data


def best_nll_temperature(folder):
    """The minimum over a fine grid of the mean NLL of the stored validation logits, in plain NumPy."""
    arrays = load_file(folder / "predictions.safetensors")
    logits, labels = arrays["validation_logits"].astype(np.float64), arrays["validation_labels"]
    grid = np.exp(np.linspace(np.log(0.5), np.log(20), 4001))
    nll = [-log_softmax(logits / t, axis=1)[np.arange(len(labels)), labels].mean() for t in grid]
    return grid[np.argmin(nll)]


def check_pipeline(folder, model, tokenizer, temperature):
    """A stock pipeline on what was saved gives softmax(z / T), z from the foreign model."""
    texts = sentences(20, seed=9)
    classifier = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    scores = [{row["label"]: row["score"] for row in rows} for rows in classifier(texts)]
    found = np.array([[row[model.config.id2label[index]] for index in range(3)] for row in scores])
    expected = softmax(raw_logits(model, tokenizer, texts) / temperature, axis=1)
    assert np.abs(found - expected).max() < 1e-6


# ---- Texts ----------------------------------------------------------------------------------------------------------


def test_a_foreign_text_model_gets_the_temperature_of_its_data(calibrate, text, tmp_path):
    folder, model, tokenizer, data = text
    results, output = calibrate(folder, data)
    assert results["temperature"] == pytest.approx(best_nll_temperature(tmp_path / "out"), rel=2e-3)
    assert 2.5 < results["temperature"] < 3.5
    check_pipeline(tmp_path / "out", model, tokenizer, results["temperature"])
    assert results["validation_after_nll"] < results["validation_before_nll"]
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert before.keys() == after.keys() and changed == {"classifier.weight"}  # its bias is zero


def test_the_script_says_which_answers_are_right_often_enough(calibrate, text, tmp_path):
    results, output = calibrate(text[0], text[3], "--target_accuracy", "0.7")
    arrays = load_file(tmp_path / "out" / "predictions.safetensors")
    probabilities = {
        part: softmax(arrays[f"{part}_logits"].astype(np.float64) / results["temperature"], axis=1)
        for part in ("validation", "test")
    }
    found = results["threshold"]
    expected = hf_focal.choose_threshold(probabilities["validation"], arrays["validation_labels"], accuracy=0.7)
    assert found["confidence"] == pytest.approx(expected, rel=1e-6)
    kept = probabilities["test"].max(axis=1) >= expected
    right = probabilities["test"].argmax(axis=1) == arrays["test_labels"]
    assert found["test"]["count"] == pytest.approx(kept.sum(), abs=1)
    assert found["test"]["accuracy"] == pytest.approx(right[kept].mean(), abs=2e-3)
    (sentence,) = re.findall(r"Answers with a confidence of at least .* are right\.", " ".join(output.split()))
    assert "are right at least 70% of the time, with 90% certainty; on test it keeps" in sentence
    assert sentence in (tmp_path / "out" / "README.md").read_text()
    record = json.loads((tmp_path / "out" / "config.json").read_text())["calibration"]["threshold"]
    assert record == {key: value for key, value in found.items() if key != "test"}


def test_table_and_card_tell_the_same_intervals_and_no_loss(calibrate, text, tmp_path):
    results, output = calibrate(text[0], text[3])
    table = re.findall(
        r"^([\w-]+|- true value|- by chance)  +(\d.*[%)])(?:  +(?:better|worse))?$", output, flags=re.MULTILINE
    )
    assert max(map(len, output.partition("\n\n")[2].splitlines()[:-1])) <= 80
    card = (tmp_path / "out" / "README.md").read_text()
    metrics = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["metrics"]
    assert len(metrics) == 2 * len(METRICS)
    errors = ("ECE", "AdaECE", "Classwise-ECE", "MCE")
    lines = [line for title in errors for line in (title, "- true value", "- by chance")]
    assert [title for title, _ in table] == ["Error", "NLL", "Brier", *lines]
    for title, cells in table:
        assert f"| {title} | " + " | ".join(re.split(r" {2,}", cells)) + " |" in card
        assert cells.count(" to ") == (0 if title in errors else 2)
    for metric in metrics:
        moment = metric["name"].split()[1]
        assert metric["value"] == pytest.approx(results[f"test_{moment}_{metric['type']}"])
    assert "in brackets: 90% intervals" in output and "Before scaling the model is over-confident" in output
    record = json.loads((tmp_path / "out" / "config.json").read_text())["calibration"]
    assert record.pop("head")["modules"]
    assert record.pop("temperature") == results["temperature"]
    expected = {"method": "temperature", "criterion": "nll", "split": "validation", "n_samples": 1000, "folded": True}
    assert record == expected  # what it was trained with is not known
    assert "Trained with" not in card and "focal-loss" not in card.split("---")[1]


@pytest.mark.parametrize("names", [NAMES, [name.upper().replace(" ", "_") for name in NAMES]])
def test_classes_in_another_order_change_nothing(calibrate, text, tmp_path, names):
    folder, model, tokenizer, data = text
    other = text_data(tmp_path / "data", model, tokenizer, names, order=(2, 0, 1))
    expected, _ = calibrate(folder, data)
    results, _ = calibrate(folder, other, folder="other")
    for key in ("temperature", "test_after_accuracy", "test_after_ece", "test_after_classwise_ece"):
        assert results[key] == pytest.approx(expected[key], abs=1e-12)


def test_a_folder_of_csv_files_and_a_model_without_names(calibrate, text, tmp_path, caplog):
    model, tokenizer = save_text_model(tmp_path / "model", [f"LABEL_{index}" for index in range(3)])
    data = text_data(tmp_path / "saved", model, tokenizer, NAMES)
    (tmp_path / "csv").mkdir()
    for split, part in DatasetDict.load_from_disk(str(data)).items():
        words = [NAMES[label] for label in part["label"]]
        part.remove_columns("label").add_column("label", words).to_csv(str(tmp_path / "csv" / f"{split}.csv"))
    results, output = calibrate(tmp_path / "model", tmp_path / "csv")
    assert 2.5 < results["temperature"] < 3.5 and "matched in order" in caplog.text


@pytest.mark.parametrize("first", ["folded", "unfolded"])
@pytest.mark.parametrize("second", ["folded", "unfolded"])
def test_a_model_that_is_calibrated_is_never_divided_twice(calibrate, text, tmp_path, first, second, caplog):
    folder, model, tokenizer, data = text
    flags = {"folded": [], "unfolded": ["--no_fold_temperature"]}
    expected, _ = calibrate(folder, data, *flags[first])
    results, _ = calibrate(tmp_path / "out", data, *flags[second], folder="again")
    assert results["temperature"] == pytest.approx(expected["temperature"], rel=1e-5)
    for key in METRICS:
        assert results[f"test_before_{key}"] == pytest.approx(expected[f"test_before_{key}"], abs=1e-6)
    assert "is undone and cleared" in caplog.text
    record = json.loads((tmp_path / "again" / "config.json").read_text())["calibration"]
    assert record["folded"] is (second == "folded")
    check_pipeline(tmp_path / "again", model, tokenizer, 1 if second == "unfolded" else results["temperature"])


def test_the_loss_of_an_earlier_run_is_remembered(calibrate, text, tmp_path):
    folder, model, tokenizer, data = text
    calibrate(folder, data)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["calibration"]["loss"] = "brier"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    calibrate(tmp_path / "out", data, folder="again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["calibration"]["loss"] == "brier"


def test_one_split_alone_is_halved_and_neither_half_is_called_the_other(calibrate, text, tmp_path, caplog):
    folder, model, tokenizer, _ = text
    data = text_data(tmp_path / "data", model, tokenizer, NAMES, splits=("train", "test"))
    results, _ = calibrate(folder, data)
    assert results["split"] == "half of test" and results["test_split"] == "other half of test"
    arrays = load_file(tmp_path / "out" / "predictions.safetensors")
    assert len(arrays["validation_labels"]) == len(arrays["test_labels"]) == 500
    card = (tmp_path / "out" / "README.md").read_text()
    assert "on `other half of test` of data (500 samples)" in card and "very samples" not in card
    assert "'test' is halved" in caplog.text


@pytest.mark.filterwarnings("ignore:The best temperature")  # of a head that was never trained
def test_a_head_that_cannot_be_folded_keeps_its_temperature_in_the_config(text, tmp_path, caplog):
    class Cosine(torch.nn.Linear):
        def forward(self, hidden):
            return 9 * torch.nn.functional.linear(*map(torch.nn.functional.normalize, (hidden, self.weight)))

    folder, _, tokenizer, data = text
    model = BertForSequenceClassification.from_pretrained(folder)
    model.classifier = Cosine(8, 3)
    inputs = [tokenize(part, tokenizer) for part in DatasetDict.load_from_disk(str(data)).values()]
    args = CalibrationTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none")
    trainer = CalibrationTrainer(model=model, args=args, processing_class=tokenizer)
    report = finish_run(trainer, *inputs, dataset_name="data", task="text-classification")
    assert model.config.calibration["folded"] is False
    assert model.config.calibration["temperature"] == report.fit.temperature
    assert "Cannot fold a temperature" in caplog.text and "kept in the config alone" in caplog.text
    assert trainer.predict(inputs[1]).metrics["test_ece"] == pytest.approx(report.after["ece"], abs=1e-6)


# ---- Words ----------------------------------------------------------------------------------------------------------


def save_token_model(folder):
    tokenizer = train_tokenizer(sentences(50))
    torch.manual_seed(1)
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
    config = BertConfig(vocab_size=len(tokenizer), **SIZES, **labels, initializer_range=1.0)
    model = BertForTokenClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def word_logits(model, tokenizer, words):
    """Logits of the first token of each word of a sentence, by itself and without padding."""
    places, start = [], 1  # after [CLS]
    for word in words:
        places.append(start)
        start += len(tokenizer.tokenize(word))
    with torch.no_grad():
        return model.eval()(**tokenizer(" ".join(words), return_tensors="pt")).logits[0, places].double().numpy()


def token_data(folder, model, tokenizer, names):
    """Words with labels drawn from what the model says at temperature 3, as strings, `names` those of its classes."""
    data = {}
    for seed, split in enumerate(("validation", "test")):
        rows = [[*text.split(), "a-cast"] for text in sentences(250, seed)]
        logits = [word_logits(model, tokenizer, words) for words in rows]
        labels = draw(np.concatenate(logits), 100 + seed)
        ends = np.cumsum([0, *map(len, rows)])
        tags = [[names[label] for label in labels[a:b]] for a, b in zip(ends, ends[1:], strict=False)]
        data[split] = Dataset.from_dict({"tokens": rows, "ner_tags": tags})
    DatasetDict(data).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("flags", [[], ["--no_fold_temperature"]])
def test_a_foreign_token_classifier_gets_the_temperature_of_its_words(calibrate, tmp_path, flags):
    model, tokenizer = save_token_model(tmp_path / "model")
    data = token_data(tmp_path / "data", model, tokenizer, NAMES)
    results, output = calibrate(tmp_path / "model", data, *flags)
    assert results["temperature"] == pytest.approx(best_nll_temperature(tmp_path / "out"), rel=2e-3)
    assert 2.5 < results["temperature"] < 3.5 and "test tokens" in output
    arrays, words = load_file(tmp_path / "out" / "predictions.safetensors"), [*sentences(1, 1)[0].split(), "a-cast"]
    logits = word_logits(model, tokenizer, words)
    assert np.abs(arrays["test_logits"][arrays["test_sentences"] == 0] - logits).max() < 1e-4
    make = hf_focal.pipeline if flags else transformers.pipeline
    found = make("token-classification", model=str(tmp_path / "out"))(" ".join(words), ignore_labels=[])
    assert len(found) == len(words) + 2  # of a-cast the hyphen and the cast
    expected = softmax(logits / results["temperature"], axis=1)
    assert [token["score"] for token in found[:-2]] == pytest.approx(expected.max(axis=1), abs=1e-5)
    assert [token["entity"] for token in found[:-2]] == [NAMES[index] for index in expected.argmax(axis=1)]


# ---- Images ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A ViT that a plain `Trainer` trained, its processor, and pictures in three colours, some of them mislabelled."""
    folder = tmp_path_factory.mktemp("image")
    generator = np.random.default_rng(0)
    features = Features({"photo": Image(), "label": ClassLabel(names=["blue", "red", "green"])})
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    processor.save_pretrained(folder / "model")
    data = {}
    for split, count in {"train": 240, "validation": 300, "test": 300}.items():
        colours = generator.integers(0, 3, count)  # red, green, blue
        pixels = generator.integers(0, 150, (count, 9, 10, 3))
        pixels[np.arange(count), :, :, colours] += 100
        labels = np.where(generator.random(count) < 0.3, generator.integers(0, 3, count), (colours + 1) % 3)
        photos = [PILImage.fromarray(photo.astype(np.uint8)) for photo in pixels]
        data[split] = Dataset.from_dict({"photo": photos, "label": labels}, features=features)
    DatasetDict(data).save_to_disk(str(folder / "data"))
    torch.manual_seed(0)
    names = ["red", "green", "blue"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    model = ViTForImageClassification(ViTConfig(**SIZES, image_size=8, patch_size=4, **labels))
    args = TrainingArguments(str(folder / "run"), num_train_epochs=4, learning_rate=1e-2, use_cpu=True,
                             report_to="none", disable_tqdm=True, save_strategy="no")  # fmt: skip
    pixels = processor(data["train"]["photo"][:], return_tensors="pt")["pixel_values"]
    rows = [{"pixel_values": p, "labels": (n - 1) % 3} for p, n in zip(pixels, data["train"]["label"], strict=True)]
    Trainer(model=model, args=args, train_dataset=rows).train()
    model.save_pretrained(folder / "model")
    return folder / "model", model.eval(), processor, folder / "data"


def test_a_foreign_image_model_trained_by_a_plain_trainer(calibrate, image, tmp_path):
    folder, model, processor, data = image
    results, output = calibrate(folder, data, "--temperature_guard", "false")  # it is calibrated already, nearly
    assert results["test_after_accuracy"] > 0.6  # with classes in the wrong order it would be 0.1
    assert results["temperature"] == pytest.approx(best_nll_temperature(tmp_path / "out"), rel=2e-3)
    assert re.search(r"(over|under|nor)[ -](under-)?confident", output)
    photos = DatasetDict.load_from_disk(str(data))["test"]["photo"][:20]
    with torch.no_grad():
        logits = model(**processor(photos, return_tensors="pt")).logits.double().numpy()
    classifier = transformers.pipeline("image-classification", model=str(tmp_path / "out"))
    scores = [{row["label"]: row["score"] for row in rows} for rows in classifier(photos)]
    found = np.array([[row[name] for name in ("red", "green", "blue")] for row in scores])
    assert np.abs(found - softmax(logits / results["temperature"], axis=1)).max() < 1e-6


def test_two_processes_give_the_results_of_one(calibrate, text, tmp_path):
    folder, _, _, data = text
    flags = ["--per_device_eval_batch_size", "7"]
    calibrate(folder, data, *flags)
    flags += ["--model_name_or_path", str(folder), "--dataset_name", str(data), "--criterion", "nll", "--use_cpu"]
    result = launch(SCRIPT, *flags, "--output_dir", str(tmp_path / "two"), processes=2)
    assert "in 2 process(es)" in result.stdout and result.stdout.count("Saved to") == 1
    for name in ("predictions.safetensors", "model.safetensors"):
        one, two = load_file(tmp_path / "out" / name), load_file(tmp_path / "two" / name)
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert value.shape == two[key].shape and np.abs(value - two[key]).max() < 1e-5, key


# ---- Real data ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config", "classes"), [("sst", "binary", 2), ("twenty_newsgroups", None, 20)])
def test_real_texts_and_a_bert_that_a_plain_trainer_trained(calibrate, test_data, tmp_path, name, config, classes):
    splits = load_text_dataset(str(test_data / name), config)
    train = splits["train"].shuffle(seed=0).select(range(3000))
    tokenizer = train_tokenizer(train["text"][:])
    names = train.features["label"].names[::-1]  # the model's order is not the data's
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes, **labels))
    tokenizer.model_max_length = 64
    args = TrainingArguments(str(tmp_path / "run"), num_train_epochs=8, learning_rate=3e-3, use_cpu=True,
                             per_device_train_batch_size=32, report_to="none", save_strategy="no")  # fmt: skip
    data = tokenize(train, tokenizer).map(lambda row: {"labels": classes - 1 - row["labels"]})
    Trainer(model=model, args=args, train_dataset=data, processing_class=tokenizer).train()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    flags = ["--dataset_config_name", config] if config else []
    results, output = calibrate(tmp_path / "model", test_data / name, *flags, "--max_seq_length", "64")
    assert results["test_after_accuracy"] > (0.6 if classes == 2 else 0.12)
    assert results["temperature"] > 1.2 and "is over-confident" in output
    assert results["temperature"] == pytest.approx(best_nll_temperature(tmp_path / "out"), rel=2e-3)
    assert results["test_after_ece"] < results["test_before_ece"]
    assert results["test_after_nll"] < results["test_before_nll"]


@pytest.mark.slow
def test_cifar10_and_a_timm_network(calibrate, test_data, tmp_path):
    train = load_image_dataset(str(test_data / "cifar10"))["train"].shuffle(seed=0).select(range(3000))
    names = train.features["label"].names
    model, processor = create_image_classifier("test_resnet", names, from_scratch=True, image_size=32)
    args = TrainingArguments(str(tmp_path / "run"), num_train_epochs=8, learning_rate=5e-3, use_cpu=True,
                             per_device_train_batch_size=50, report_to="none", save_strategy="no",
                             remove_unused_columns=False)  # fmt: skip
    Trainer(model=model, args=args, train_dataset=train.with_transform(ImageTransform(processor))).train()
    model.save_pretrained(tmp_path / "model")
    results, _ = calibrate(tmp_path / "model", test_data / "cifar10", "--max_eval_samples", "1000")
    assert results["test_split"] == "other half of test" and results["test_after_accuracy"] > 0.25
    assert results["temperature"] == pytest.approx(best_nll_temperature(tmp_path / "out"), rel=2e-3)
    assert results["test_after_nll"] < results["test_before_nll"]


# ---- Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "question-answering"], "(*ForZeroShotImageClassification). Got task='question-answering'"),
        (["--task", "ner"], "is a model for text-classification, not for token-classification"),
        (["--split", "dev"], "no split 'dev'; it has validation, test"),
        (["--test_split", "validation"], "fitted and measured on the same split"),
        (["--criterion", "brier"], "temperature_criterion must be one of ece, nll"),
        (["--text_column_name", "body"], "no column 'body'"),
        (["--max_seq_length", "0"], "max_seq_length must be at least 1"),
    ],
)
def test_a_wrong_flag_is_one_clear_error(calibrate, text, tmp_path, flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrate(text[0], text[3], *flags)
    assert not (tmp_path / "out" / "all_results.json").exists()


def test_the_model_itself_and_finished_runs_are_not_overwritten(calibrate, text, tmp_path):
    folder, _, _, data = text
    with pytest.raises(ValueError, match="is the model itself, which would be overwritten"):
        calibrate(folder, data, "--output_dir", str(folder), "--overwrite")
    calibrate(folder, data)
    with pytest.raises(ValueError, match="holds a finished run.*--overwrite"):
        calibrate(folder, data)


def test_other_classes_and_other_models_are_refused(calibrate, text, image, tmp_path):
    with pytest.raises(ValueError, match="does not know the classes 'bad'"):
        save_text_model(tmp_path / "other", ["a", "b", "c"])
        calibrate(tmp_path / "other", text[3])
    with pytest.raises(ValueError, match=r"has 3 classes \(bad, good, so so\); the model has 2 classes"):
        save_text_model(tmp_path / "two", ["bad", "good"])
        calibrate(tmp_path / "two", text[3])
    with pytest.raises(ValueError, match="holds the images.*--image_column_name"):
        calibrate(image[0], text[3])
    model, tokenizer = save_token_model(tmp_path / "tokens")
    with pytest.raises(ValueError, match="Which column of the split 'validation' holds the words.*--text_column_name"):
        calibrate(tmp_path / "tokens", text[3])
    with pytest.raises(ValueError, match="does not know the classes 'worse'"):
        calibrate(tmp_path / "tokens", token_data(tmp_path / "data", model, tokenizer, ["good", "so so", "worse"]))


# ---- The Hub and the README -----------------------------------------------------------------------------------------


def test_from_the_hub_to_the_hub(text, tmp_path):
    _, model, tokenizer, data = text
    token = "hf_ann_very_secret"
    with HubServer({token: "ann"}) as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home", token), "PYTHONPATH": str(ROOT)}
        environment["HF_HUB_OFFLINE"] = "0"
        upload = f"from huggingface_hub import HfApi; api = HfApi(); api.create_repo('ann/foreign'); \
api.upload_folder(repo_id='ann/foreign', folder_path={str(text[0])!r})"
        subprocess.run([sys.executable, "-c", upload], check=True, capture_output=True, env=environment)
        flags = ["--model_name_or_path", "ann/foreign", "--dataset_name", str(data), "--output_dir", "out"]
        flags += ["--push_to_hub", "--hub_model_id", "ann/calibrated", "--use_cpu", "true"]
        result = subprocess.run(
            [sys.executable, SCRIPT, *flags], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert result.returncode == 0 and "Pushed to" in result.stdout, result.stderr
        assert [commit.message for commit in hub.commits("ann/calibrated")] == ["initial commit", "End of training"]
        files = hub.commits("ann/calibrated")[-1].files
        assert set(files) == {
            ".gitattributes", "README.md", "config.json", "model.safetensors", "reliability.png", "tokenizer.json",
            "tokenizer_config.json", ".head_before_calibration.safetensors",
        }  # fmt: skip
        card = yaml.safe_load(files["README.md"].data.decode().split("---")[1])
        assert card["base_model"] == "ann/foreign" and card["pipeline_tag"] == "text-classification"
        temperature = json.loads(files["config.json"].data)["calibration"]["temperature"]
        (tmp_path / "pushed").mkdir()
        for path, file in files.items():
            (tmp_path / "pushed" / path).write_bytes(file.data)
    check_pipeline(tmp_path / "pushed", model, tokenizer, temperature)


def test_the_command_of_the_readme_runs(text, tmp_path):
    (command,) = (block for block in blocks("bash") if "calibrate.py" in block)
    words = command.split()
    assert words[:3] == ["accelerate", "launch", "scripts/calibrate.py"]
    paths = {"path/to/model": str(text[0]), "path/to/data": str(text[3])}
    launch(SCRIPT, *[paths.get(word, word) for word in words[3:]], "--use_cpu", cwd=tmp_path)
    assert (tmp_path / "outputs" / "data-model-calibrated" / "model.safetensors").is_file()
