# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`scripts/run_ood.py` from end to end on tiny models, and the commands of the README that start it."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from launching import as_scripts, run_main
from PIL import Image as PILImage
from safetensors.numpy import load_file
from scipy.special import softmax
from transformers import AutoImageProcessor

from hf_focal import (
    ImageCorruption,
    auroc,
    calibration_metrics_from_logits,
    confidence_interval,
    create_image_classifier,
    fold_temperature,
    from_pretrained,
    load_image_dataset,
    load_images,
    ood_scores,
    risk_coverage_curve,
)


SCRIPT = str(ROOT / "scripts" / "run_ood.py")
DIGITS = [str(digit) for digit in range(10)]
SMALL = ["--max_samples", "50", "--n_resamples", "20", "--per_device_eval_batch_size", "25"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One network, not trained, saved with its temperature folded, beside its weights, as gamma, and without any."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name in ("folded", "unfolded", "focal", "plain"):
        torch.manual_seed(0)
        model, processor = create_image_classifier("cifar_resnet8", DIGITS, from_scratch=True)
        with torch.no_grad():
            model.timm_model.get_classifier().weight.mul_(20)
        record = {"method": "temperature", "loss": "flsd-53", "criterion": "ece"}
        if name == "folded":
            fold_temperature(model, 2.5, record=record)
        elif name == "unfolded":
            model.config.calibration = {**record, "temperature": 2.5, "folded": False}
        elif name == "focal":
            model.config.calibration = {"method": "focal", "gamma": 3.0, "temperature": 2.5, "folded": False}
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures without labels, of another size."""
    folder = tmp_path_factory.mktemp("data") / "noise"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 12, 10, 3)).astype(np.uint8)
    images = {"photo": [PILImage.fromarray(image) for image in pixels]}
    DatasetDict(test=Dataset.from_dict(images, features=Features({"photo": Image()}))).save_to_disk(str(folder))
    return str(folder)


@pytest.fixture
def start(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
        run_main(SCRIPT)
        return capsys.readouterr()

    return run


def test_folded_and_unfolded_checkpoints_give_the_same_tables(models, pictures, tmp_path, start):
    flags = ["--ood_dataset_name", pictures, "--corruption", "gaussian_noise", "--severities", 1, 5, "--selective",
             "--threshold", 0.93]  # fmt: skip
    output = start("--model_name_or_path", models / "folded", models / "unfolded", *flags, *SMALL,
                   "--output_dir", tmp_path)  # fmt: skip
    results = json.loads((tmp_path / "ood_results.json").read_text())
    assert results["num_samples"] == 50 and list(results["models"]) == ["folded", "unfolded"]
    one, other = results["models"].values()
    assert one["temperature"] == 2.5 and one["loss"] == "flsd-53"

    def flat(value, path=()):
        if isinstance(value, dict):
            return {key: found for name in value for key, found in flat(value[name], (*path, name)).items()}
        return {} if path == ("model",) or isinstance(value, str) else {path: value}

    assert flat(one).keys() == flat(other).keys() and len(flat(one)) > 60
    for path, value in flat(one).items():
        assert flat(other)[path] == pytest.approx(value, abs=1e-4), path

    text = (tmp_path / "ood_results.txt").read_text()
    first, second = (part.split("\n", 1)[1] for part in text.split("== ")[1:])
    assert first.strip() == second.strip()
    shown = {part: set(re.findall(r"[\d.]+%", part)) for part in (text, output.out)}  # narrower, with the same numbers
    assert len(shown[text]) > 30 and shown[text] <= shown[output.out]
    assert max(map(len, output.out.splitlines())) <= 80
    assert re.search(r"^noise +entropy +[\d.]+% \([\d.]+% to [\d.]+%\) +[\d.]+% \(", text, flags=re.MULTILINE)
    ends = r" +[\d.]+% to [\d.]+%"
    assert re.search(r"^severity 5 +[\d.]+% +[\d.]+%.* +[\d.]+%.* +[\d.]+ +[\d.]+$", text, flags=re.MULTILINE)
    assert re.search(rf"^- true value{ends}{ends}$", text, flags=re.MULTILINE)
    assert re.search(rf"^- by chance +[\d.]+% \({ends.strip(' +')}\) +[\d.]+% \(", text, flags=re.MULTILINE)
    assert re.search(r"^before +\d+ \([\d.]+%\) +[\d.]+% +[\d.]+%$", text, flags=re.MULTILINE)
    assert re.search(r"^after +0 \(0.00%\) +- +[\d.]+%$", text, flags=re.MULTILINE)
    assert "gaussian_noise 5" in text and "gaussian_noise 1" not in text  # in the JSON
    assert {path.name for path in tmp_path.iterdir()} == {
        "ood_results.json", "ood_results.txt", "roc.png", "risk_coverage.png", "severity_gaussian_noise.png",
        "ood_entropies.safetensors",
    }  # fmt: skip
    entropies = load_file(tmp_path / "ood_entropies.safetensors")
    for panel in ("noise", "gaussian_noise 1"):
        for moment in ("before", "after"):
            pair = [entropies[f"folded/{data}/{moment}"] for data in ("familiar", panel)]
            assert [*map(len, pair)] == [50, 50]
            assert auroc(*pair) == pytest.approx(one["ood"][panel]["entropy"][moment]["auroc"], abs=1e-3)
    assert "it/s" in output.err  # progress bars


def logits_of(folder, images):
    """By hand, from the network that was not folded."""
    model = from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(
        [image.convert("RGB") for image in images], return_tensors="pt"
    )
    with torch.no_grad():
        return model(pixels["pixel_values"]).logits.double().numpy()


def test_figures_are_those_of_the_logits(models, pictures, tmp_path, start):
    flags = ["--ood_dataset_name", pictures, "digits", "--ood_image_column_name", "photo", "none", "--corruption",
             "contrast", "--severities", 2, "--selective", "--threshold", 0.93, "--n_bins", 5]  # fmt: skip
    start("--model_name_or_path", models / "folded", "--n_resamples", 5, *flags, "--output_dir", tmp_path)
    (found,) = json.loads((tmp_path / "ood_results.json").read_text())["models"].values()
    test = load_image_dataset()["test"]
    labels = np.array(test["label"][:])
    logits, noise = (
        logits_of(models / "plain", test["image"]),
        logits_of(models / "plain", load_images(pictures)["image"]),
    )
    darker = [ImageCorruption("contrast", 2).corrupt(image) for image in test["image"]]
    corrupted = logits_of(models / "plain", darker)
    assert list(found["ood"]) == ["noise", "digits", "contrast 2"]
    for moment, temperature in (("before", 1.0), ("after", 2.5)):
        for score, values in ood_scores(logits, temperature).items():
            expected = auroc(values, ood_scores(noise, temperature)[score])
            assert found["ood"]["noise"][score][moment]["auroc"] == pytest.approx(expected, abs=1e-3)
        for severity, part in (("0", logits), ("2", corrupted)):
            expected = calibration_metrics_from_logits(part, labels, 5, temperature)
            row = found["shift"]["contrast"][severity][moment]
            intervals, chance = row.pop("intervals"), row.pop("by_chance")
            assert 0 < chance["low"] < chance["median"] < chance["high"] < 1
            assert row == pytest.approx(expected, abs=1e-3)
            for key in ("ece", "nll", "accuracy"):
                ends = confidence_interval(key, softmax(part / temperature, axis=1), labels, n_bins=5)
                assert intervals[key] == pytest.approx(ends, abs=2e-3)
        probabilities = softmax(logits / temperature, axis=1)
        selective = found["selective"][moment]
        assert selective["aurc"] == pytest.approx(risk_coverage_curve(probabilities, labels)[1].mean(), abs=1e-3)
        assert selective["count"] == (probabilities.max(axis=1) >= 0.93).sum()
    assert found["selective"]["before"]["count"] > found["selective"]["after"]["count"] == 0


def test_focal_recalibration_and_models_without_a_temperature(models, pictures, tmp_path, start):
    start("--model_name_or_path", models / "focal", models / "plain", "--ood_dataset_name", pictures, *SMALL,
          "--output_dir", tmp_path)  # fmt: skip
    focal, plain = json.loads((tmp_path / "ood_results.json").read_text())["models"].values()
    assert (focal["temperature"], focal["gamma"], plain["temperature"], plain["gamma"]) == (2.5, 3.0, 1.0, 0.0)
    assert "== focal: digits, 50 images, T = 2.5, gamma = 3\n" in (tmp_path / "ood_results.txt").read_text()
    for row in plain["ood"]["noise"].values():
        assert row["before"] == row["after"]
    test = load_image_dataset()["test"].shuffle(seed=42).select(range(50))
    noise = load_images(pictures).shuffle(seed=42).select(range(50))
    pair = [ood_scores(logits_of(models / "plain", data["image"]), 2.5, 3.0) for data in (test, noise)]
    for score, row in focal["ood"]["noise"].items():
        assert row["after"]["auroc"] == pytest.approx(auroc(pair[0][score], pair[1][score]), abs=1e-3)
        assert row["before"]["auroc"] == plain["ood"]["noise"][score]["before"]["auroc"]


def test_one_labelled_split_will_do_whatever_the_order_of_its_classes(models, tmp_path, start):
    test = load_image_dataset()["test"].select(range(40))
    turned = ClassLabel(names=DIGITS[::-1])
    images, labels = test["image"][:], test["label"][:]
    rows = {"image": images, "label": [9 - label for label in labels]}
    DatasetDict(test=Dataset.from_dict(rows, features=Features({"image": Image(), "label": turned}))).save_to_disk(
        str(tmp_path / "one")
    )
    start("--model_name_or_path", models / "folded", "--dataset_name", tmp_path / "one", "--split", "test",
          "--corruption", "contrast", "--severities", 1, "--output_dir", tmp_path / "out")  # fmt: skip
    results = json.loads((tmp_path / "out" / "ood_results.json").read_text())
    assert results["num_samples"] == 40 and list(results["models"]) == ["flsd-53"]
    expected = calibration_metrics_from_logits(logits_of(models / "plain", images), labels, 15, 2.5)
    clean = results["models"]["flsd-53"]["shift"]["contrast"]["0"]["after"]
    del clean["intervals"], clean["by_chance"]
    assert clean == pytest.approx(expected, abs=1e-3) and 0 < clean["accuracy"] < 1
    with pytest.raises(ValueError, match="no split 'tests'; it has \\['test'\\]"):
        start("--model_name_or_path", models / "folded", "--dataset_name", tmp_path / "one", "--split", "tests",
              "--selective", "--output_dir", tmp_path / "out")  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Nothing to measure"),
        (["--selective", "--threshold", "1.5"], "threshold must lie in"),
        (
            ["--corruption", "gaussian_noise", "--severities", "6"],
            "severity must be a whole number",
        ),
        (["--corruption", "fog"], "Unknown corruption 'fog'"),
        (
            ["--ood_dataset_name", "digits", "--ood_split", "test", "test"],
            "--ood_split must name one for each",
        ),
        (["--ood_dataset_name", "digits", "digits"], "Two of --ood_dataset_name are called 'digits'"),
        (["--ood_dataset_name", "digits", "--ood_split", "tests"], "no split 'tests'; it has train"),
        (["--selective", "--target_accuracy", "95"], "target_accuracy must be a number between 0 and 1"),
        (
            ["--corruption", "contrast", "--target_accuracy", "0.9"],
            "is for the table of --selective",
        ),
        (["--selective", "--n_bins", "0"], "n_bins must be at least 1"),
        (["--selective", "--n_resamples", "0"], "n_resamples must be at least 1"),
        (["--selective", "--seed", "-1"], "non-negative"),
    ],
)
def test_wrong_flags_are_one_clear_error_before_any_model_is_loaded(tmp_path, start, flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        start("--model_name_or_path", tmp_path / "nowhere", *flags, "--output_dir", tmp_path)


def test_a_model_that_is_named_twice_is_refused(models, tmp_path, start):
    with pytest.raises(ValueError, match="folded is given twice"):
        start("--model_name_or_path", models / "folded", models / "folded", "--selective", "--output_dir", tmp_path)


def test_severities_are_shown_in_order(models, tmp_path, start):
    start("--model_name_or_path", models / "folded", "--corruption", "contrast", "--severities", 3, 1, 3, *SMALL,
          "--output_dir", tmp_path)  # fmt: skip
    text = (tmp_path / "ood_results.txt").read_text()
    assert re.findall(r"^severity (\d)", text, flags=re.MULTILINE) == ["0", "1", "3"]


def test_the_gamma_of_a_loss_is_no_recalibration(models, tmp_path, start):
    config = json.loads((models / "folded" / "config.json").read_text())
    config["calibration"]["gamma"] = 3.0  # with method "temperature" it says nothing of the probabilities
    shutil.copytree(models / "folded", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    found = {}
    for name, folder in (("model", tmp_path / "model"), ("folded", models / "folded")):
        start("--model_name_or_path", folder, "--corruption", "contrast", "--severities", 1, *SMALL, "--output_dir",
              tmp_path / "out")  # fmt: skip
        (found[name],) = json.loads((tmp_path / "out" / "ood_results.json").read_text())["models"].values()
    assert found["model"]["shift"] == found["folded"]["shift"] and found["model"]["gamma"] == 0


def test_a_model_of_other_classes_is_refused(models, tmp_path, start):
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    image = PILImage.new("RGB", (8, 8))
    data = Dataset.from_dict({"image": [image] * 4, "label": [0, 1, 0, 1]}, features=features)
    DatasetDict(test=data).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(ValueError, match="The data set has 2 classes .* the model has 10"):
        start("--model_name_or_path", models / "folded", "--dataset_name", tmp_path / "two", "--split", "test",
              "--selective", "--output_dir", tmp_path / "out")  # fmt: skip


def test_commands_of_the_readme_run(models, pictures, tmp_path, start):
    text = as_scripts((ROOT / "docs" / "shift.md").read_text())
    commands = re.findall(r"^accelerate launch scripts/run_ood.py (.*)$", text, flags=re.MULTILINE)
    assert len(commands) == 2
    for index, command in enumerate(commands):
        words = iter(command.split())
        flags = []
        for word in words:
            word = {"path/to/cifar10": "digits", "path/to/cifar100": pictures, "path/to/svhn": "digits"}.get(
                word, word
            )
            if word.startswith("outputs/"):
                word = models / ("folded" if models / "folded" not in flags else "unfolded")
            flags.append(word)
        start(*flags, *SMALL, "--output_dir", tmp_path / str(index))
        assert (tmp_path / str(index) / "roc.png").is_file()
