# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`scripts/run_image.py` as a user starts it, what it leaves, and who can read it; every snippet of the README."""

import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from huggingface_hub import ModelCard
from launching import PAGES, README, blocks, launch
from PIL import Image as PILImage
from safetensors import safe_open
from scipy.special import softmax
from small_models import without_head

from hf_focal import calibration_metrics_from_logits, load_image_dataset
from hf_focal.metrics import METRICS


SCRIPT = str(ROOT / "scripts" / "run_image.py")
QUICK = ["--model_name_or_path", "test_resnet", "--train_from_scratch", "--image_size", "32"]
QUICK += ["--num_train_epochs", "1", "--augmentation", "none", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of small pictures in three colours, with strings for class names and a column of another name."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    features = Features({"photo": Image(), "label": ClassLabel(names=["red", "green", "blue"])})
    generator = np.random.default_rng(0)

    def split(count):
        labels = generator.integers(0, 3, count)
        pixels = generator.integers(0, 200, (count, 12, 10, 3))
        pixels[np.arange(count), :, :, labels] += 55
        images = [PILImage.fromarray(image.astype(np.uint8)) for image in pixels]
        return Dataset.from_dict({"photo": images, "label": labels}, features=features)

    DatasetDict(train=split(120), validation=split(60), test=split(50)).save_to_disk(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The README's run, a little shorter."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    result = launch(SCRIPT, "--output_dir", str(folder), "--num_train_epochs", "8")
    return folder, result


@pytest.fixture(scope="module")
def predictions(run):
    with safe_open(run[0] / "predictions.safetensors", "np") as stored:
        return {key: stored.get_tensor(key) for key in stored.keys()}, stored.metadata()


def test_the_embedded_default_learns_the_digits(run):
    results = json.loads((run[0] / "all_results.json").read_text())
    assert results["test_after_accuracy"] >= 0.95
    assert results["loss"] == "flsd-53" and results["dataset"] == "digits" and results["model"] == "resnet10t"


def test_the_folder_holds_what_it_should_and_no_pickle(run):
    names = {path.name for path in run[0].iterdir() if path.is_file()}
    assert names == {
        "model.safetensors", "config.json", "predictions.safetensors", "all_results.json", "reliability.png",
        "README.md", ".head_before_calibration.safetensors",
    }  # fmt: skip


def test_results_are_those_of_the_stored_logits(run, predictions):
    arrays, metadata = predictions
    results = json.loads((run[0] / "all_results.json").read_text())
    assert arrays["test_logits"].dtype == np.float32 and metadata["scaled"] == "false"
    assert json.loads(metadata["id2label"]) == {str(digit): str(digit) for digit in range(10)}
    for split in ("validation", "test"):
        for moment, temperature in (("before", 1.0), ("after", float(metadata["temperature"]))):
            metrics = calibration_metrics_from_logits(
                arrays[f"{split}_logits"], arrays[f"{split}_labels"], 15, temperature
            )
            for key in METRICS:
                assert results[f"{split}_{moment}_{key}"] == pytest.approx(metrics[key], abs=1e-12)


def test_the_config_tells_how_the_temperature_was_obtained(run, predictions):
    config = json.loads((run[0] / "config.json").read_text())
    assert without_head(config["calibration"]) == {
        "method": "temperature", "criterion": "nll", "loss": "flsd-53", "split": "validation", "n_samples": 359,
        "temperature": float(predictions[1]["temperature"]), "folded": True,
    }  # fmt: skip
    assert "hf_focal" not in json.dumps(config)


def test_the_end_of_the_output_is_the_table_and_a_verdict(run):
    output = run[1].stdout
    cell, noise = r" +[\d.]+%? \([\d.]+%? to [\d.]+%?\)", r" +[\d.]+%( \(within noise\))?"
    for title in ("Error", "NLL", "Brier", "- by chance"):
        assert re.search(rf"^{title}{cell}{cell}( +better| +worse)?$", output, flags=re.MULTILINE), title
    for title in ("ECE", "AdaECE", "Classwise-ECE", "MCE"):
        row = rf"^{title}{noise}{noise}(?: +better| +worse)?\n- true value +[\d.]+% to "
        assert re.search(row, output, flags=re.MULTILINE), title
    assert re.search(r"(over|under)-confident", output)
    assert "it/s" in run[1].stderr  # progress bars


def test_the_card_has_every_metric_and_validates_as_one(run):
    card = ModelCard.load(run[0] / "README.md")
    results = json.loads((run[0] / "all_results.json").read_text())
    values = {(r.metric_type, r.metric_name.split()[1]): r.metric_value for r in card.data.eval_results}
    for key in METRICS:
        for moment in ("before", "after"):
            assert values[key, moment] == pytest.approx(results[f"test_{moment}_{key}"])
    assert (run[0] / "reliability.png").read_bytes().startswith(b"\x89PNG")


STRANGER = """
import json, sys
sys.modules["hf_focal"] = None  # importing it fails from here on
from PIL import Image
from pathlib import Path
from transformers import pipeline
folder, images = sys.argv[1:]
classifier = pipeline("image-classification", model=folder)
paths = sorted(Path(images).iterdir())
scores = classifier([Image.open(path) for path in paths], top_k=10)
print(json.dumps([{row["label"]: row["score"] for row in rows} for rows in scores]))
"""


def test_a_stranger_gets_calibrated_probabilities_from_the_raw_images(run, predictions, tmp_path):
    arrays, metadata = predictions
    test = load_image_dataset()["test"]
    assert test["label"][:] == arrays["test_labels"].tolist()
    for index, image in enumerate(test["image"]):
        image.save(tmp_path / f"{index:04d}.png")
    command = [sys.executable, "-c", STRANGER, str(run[0]), str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    rows = json.loads(output.splitlines()[-1])
    found = np.array([[row[str(digit)] for digit in range(10)] for row in rows])
    expected = softmax(arrays["test_logits"].astype(np.float64) / float(metadata["temperature"]), axis=1)
    assert np.abs(found - expected).max() < 1e-5
    unscaled = softmax(arrays["test_logits"].astype(np.float64), axis=1)
    assert float(metadata["temperature"]) == 1 or np.abs(unscaled - expected).max() > 1e-3


def test_the_snippet_of_the_card_runs(run, tmp_path):
    text = (run[0] / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    load_image_dataset()["test"][0]["image"].save(tmp_path / "image.png")
    result = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0 and "score" in result.stdout, result.stderr


def test_a_second_run_is_refused_before_it_starts_and_can_go_on(run):
    before = (run[0] / "all_results.json").read_text()
    refused = launch(SCRIPT, "--output_dir", str(run[0]), check=False)
    assert refused.returncode != 0
    assert "holds a finished run" in refused.stderr
    assert "--overwrite" in refused.stderr and "--resume_from_checkpoint" in refused.stderr
    assert (run[0] / "all_results.json").read_text() == before
    launch(SCRIPT, "--output_dir", str(run[0]), "--num_train_epochs", "8", "--resume_from_checkpoint", "last")
    again = json.loads((run[0] / "all_results.json").read_text())
    for key in METRICS:  # nothing was left to train
        assert again[f"test_after_{key}"] == pytest.approx(json.loads(before)[f"test_after_{key}"], abs=1e-6)


def test_a_folder_of_images_with_a_config_file(pictures, tmp_path):
    config = {"dataset_name": pictures, "image_column_name": "photo", "loss": "focal", "gamma": 2.0, "n_bins": 5,
              "max_train_samples": 64, "num_train_epochs": 7}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    launch(SCRIPT, "--config", str(tmp_path / "config.yaml"), *QUICK, "--output_dir", "auto", cwd=tmp_path)
    folder = tmp_path / "outputs" / "colours-test_resnet-focal"
    results = json.loads((folder / "all_results.json").read_text())
    assert results["n_bins"] == 5 and results["epoch"] == 1.0  # the flag overrides the file
    saved = json.loads((folder / "config.json").read_text())
    assert saved["label_names"] == ["red", "green", "blue"]
    assert saved["calibration"]["n_samples"] == 60


def test_a_model_that_was_saved_serves_as_the_start_of_another(run, tmp_path):
    """Its temperature belongs to other data: it is undone before training, and a new one is fitted."""
    result = launch(SCRIPT, "--model_name_or_path", str(run[0]), "--num_train_epochs", "1", "--output_dir",
                    str(tmp_path / "again"), "--learning_rate", "0", "--augmentation", "none", "--loss", "brier",
                    "--lr_scheduler_type", "constant")  # fmt: skip
    assert "is undone and cleared" in result.stdout
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["calibration"]["loss"] == "brier" and config["calibration"]["folded"] is True


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "focl"], "Unknown loss 'focl'"),
        (["--gamma", "2"], "takes no 'gamma'"),
        (["--loss", "focal", "--gamma=-1"], "gamma must be"),
        (["--label_smoothing_factor", "0.1"], "label_smoothing"),
        (["--image_column_name", "picture"], "no column 'picture'; its columns are photo, label"),
        (["--augmentation", "flop"], "none, crop, crop-flip"),
        (["--learning_rat", "1"], "learning_rat"),
        (["--resume_from_checkpoint", "last"], "no such checkpoint"),
    ],
)
def test_a_wrong_flag_is_one_clear_error_before_training(pictures, tmp_path, flags, message, monkeypatch, capsys):
    arguments = ["--dataset_name", pictures, *QUICK, "--output_dir", str(tmp_path / "out"), *flags]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(SCRIPT, run_name="__main__")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in error and "it/s" not in error
    assert error.splitlines()[-1].startswith("run_image.py: error: ") and message in error.splitlines()[-1]
    assert not (tmp_path / "out" / "all_results.json").exists()


def test_two_processes_give_the_results_of_one(pictures, tmp_path):
    flags = ["--dataset_name", pictures, *QUICK, "--num_train_epochs", "2", "--model_name_or_path", "test_vit",
             "--save_strategy", "no", "--optim", "sgd", "--learning_rate", "0.05",
             "--per_device_eval_batch_size", "16", "--track_dynamics", "--dynamics_gradient_epochs", "1", "2",
             "--stopping_criteria", "nll", "ece"]  # fmt: skip
    one = launch(SCRIPT, *flags, "--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "20")
    two = launch(
        SCRIPT, *flags, "--output_dir", str(tmp_path / "two"), "--per_device_train_batch_size", "10", processes=2
    )
    assert "in 1 process(es)" in one.stdout and "in 2 process(es)" in two.stdout
    assert two.stdout.count("Saved to") == 1
    tables = [pq.read_table(tmp_path / name / "training_dynamics.parquet").to_pylist() for name in ("one", "two")]
    assert [(row["epoch"], row["split"]) for row in tables[1]] == [
        (epoch, split) for epoch in range(3) for split in ("train", "test")
    ]
    for row, other in zip(*tables, strict=True):
        assert other["n_samples"] == 50 and row.keys() == other.keys()
        for key, value in row.items():
            assert other[key] == (value if value is None or isinstance(value, str) else pytest.approx(value, abs=1e-3))
    compared = [json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "two")]
    assert list(compared[0]["stopping_criteria"]) == ["last", "nll", "ece"]
    for key, value in compared[0]["stopping_criteria"]["nll"].items():
        assert compared[1]["stopping_criteria"]["nll"][key] == pytest.approx(value, abs=1e-3), key
    stored = {}
    for name in ("one", "two"):
        with safe_open(tmp_path / name / "predictions.safetensors", "np") as file:
            stored[name] = {key: file.get_tensor(key) for key in file.keys()}
        with safe_open(tmp_path / name / "model.safetensors", "np") as file:
            stored[name] |= {key: file.get_tensor(key) for key in file.keys()}
    assert stored["one"].keys() == stored["two"].keys()
    for key, value in stored["one"].items():
        assert value.shape == stored["two"][key].shape, key
        assert np.abs(value - stored["two"][key]).max() < 1e-4, key


@pytest.mark.slow
def test_cifar10_trains_and_calibrates(test_data, tmp_path):
    flags = ["--max_train_samples", "5000", "--max_eval_samples", "2000", "--num_train_epochs", "4"]
    launch(SCRIPT, "--dataset_name", str(test_data / "cifar10"), "--model_name_or_path", "cifar_resnet8",
           "--train_from_scratch", *flags, "--output_dir", str(tmp_path))  # fmt: skip
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["test_after_accuracy"] > 0.4
    assert results["test_after_ece"] < results["test_before_ece"]
    assert "import hf_focal.networks  # registers cifar_resnet8" in (tmp_path / "README.md").read_text()


# ---- README ---------------------------------------------------------------------------------------------------------


PREPARATION = """
import numpy as np, torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
torch.manual_seed(0)  # whether a temperature helps is in the data
config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8,
                   patch_size=4, num_labels=3)
model = ViTForImageClassification(config)
base_model, image_size = ViTForImageClassification(config), 8
processor = ViTImageProcessor(size={"height": 8, "width": 8})
base_model.classifier.weight.data.mul_(100)  # over-confident: of every two labels one is what it says
def data(count):
    pixels = torch.randn(count, 3, 8, 8)
    said = base_model(pixels).logits.argmax(-1).tolist()
    return [{"pixel_values": image, "labels": label if index % 2 else index % 3}
            for index, (image, label) in enumerate(zip(pixels, said))]
train, validation, test = data(32), data(240), data(60)
base_model.save_pretrained("base"); base_model.config._name_or_path = base_model.name_or_path = "base"
generator = np.random.default_rng(0)
validation_logits, test_logits = generator.normal(size=(300, 3)), generator.normal(size=(300, 3))
other_probabilities = np.full((300, 3), 1 / 3)
validation_labels, test_labels = generator.integers(0, 3, 300), generator.integers(0, 3, 300)
"""


CHECK = """
import hf_focal
with torch.no_grad():
    expected = merged(pixels).logits.softmax(-1)
    assert (calibrated - expected).abs().max() < 1e-5
    assert merged.config.calibration["folded"] and merged.config.calibration["temperature"] != 1
    loaded = hf_focal.from_pretrained("lora")(pixels).logits.softmax(-1)
    assert (loaded - expected).abs().max() < 1e-5
print("the adapter, merged, exported and loaded, says the same")
"""


def test_python_snippets_of_the_readme_run_from_top_to_bottom_and_need_nothing_else(tmp_path):
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    (tmp_path / "snippets.py").write_text("\n".join(blocks("python", [README])) + "\nprint('all of', fit.method)")
    result = subprocess.run([sys.executable, "snippets.py"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "eval_classwise_ece" in result.stdout and "'score'" in result.stdout and "all of" in result.stdout
    assert {"reliability.png", "out"} <= {path.name for path in tmp_path.iterdir()}


def test_python_snippets_of_the_pages_run_one_after_the_other(run, tmp_path):
    order = ["train", "calibrate", "measure", "paper", "extend"]
    assert {path.stem for path in PAGES if blocks("python", [path])} == {
        *order,
        "share",
        "decoders",
    }  # see test_hub.py, test_decoders.py
    snippets = [snippet for name in order for snippet in blocks("python", [ROOT / "docs" / f"{name}.md"])]
    assert len(snippets) == 12
    code = PREPARATION + "\n".join(snippets) + CHECK
    code = code.replace("outputs/digits-resnet10t-flsd-53", str(run[0]))
    code = code.replace('"metrics/ece"', f'"{ROOT / "metrics" / "ece"}"')
    load_image_dataset()["test"][0]["image"].save(tmp_path / "image.png")
    (tmp_path / "snippets.py").write_text(code)
    result = subprocess.run([sys.executable, "snippets.py"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "eval_classwise_ece" in result.stdout and "loaded, says the same" in result.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()


# Run by tests of their own files.
ELSEWHERE = (
    "calibrate.py",
    "compare_calibrators.py",
    "compare_runs.py",
    "evaluate_predictions.py",
    "my_losses.py",
    "plot_dynamics.py",
    "run_audio.py",
    "run_ood.py",
    "run_text.py",
)


def test_commands_of_the_readme_are_the_ones_that_are_run(pictures, tmp_path):
    install, share, own, cifar = [block for block in blocks("bash") if not any(name in block for name in ELSEWHERE)]
    assert (
        share == "accelerate launch scripts/run_image.py --push_to_hub --hub_model_id user/name\n"
    )  # see test_hub.py
    main, test = install.splitlines()
    assert main == "pip install . && accelerate launch scripts/run_image.py"  # .ci/run reads the two from the README
    assert test == 'pip install ".[test]" && python -m pytest'
    for index, command in enumerate((cifar, own)):
        words = command.split()
        assert words[:3] == ["accelerate", "launch", "scripts/run_image.py"]
        flags = [pictures if word.startswith("path/to/") else word for word in words[3:]]
        shorter = ["--num_train_epochs", "1", "--max_train_samples", "16", "--output_dir", str(tmp_path / str(index))]
        launch(SCRIPT, *flags, *shorter)
        assert (tmp_path / str(index) / "model.safetensors").is_file()


def test_the_map_of_the_readme_shows_every_module():
    text = (ROOT / "docs" / "structure.md").read_text()
    modules = [path for path in (ROOT / "hf_focal").iterdir() if not path.name.startswith(("_", "version", "py."))]
    for path in modules:
        if path.suffix in ("", ".py"):
            assert path.name in text, path.name
    for script in (ROOT / "scripts").glob("*.py"):
        assert script.name in text


def test_nothing_in_the_readme_links_to_a_file_that_is_not_there():
    for page in (README, *PAGES):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)
