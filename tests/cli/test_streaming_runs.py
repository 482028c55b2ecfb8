# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`--streaming`: commands do with data that are read one by one what they do with those that are loaded."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT
from datasets import ClassLabel, Dataset, Features, Image
from launching import launch, run_main
from PIL import Image as PILImage
from safetensors.numpy import load_file
from small_texts import SIZES, checkpoint, rows, write
from transformers import AutoConfig, BertConfig, BertForSequenceClassification

from hf_focal import create_image_classifier


pytestmark = pytest.mark.filterwarnings("ignore:The temperature is fitted on")  # of so few samples
SCRIPTS = {name: str(ROOT / "scripts" / f"{name}.py") for name in ("run_image", "run_text", "calibrate")}
QUICK = ["--use_cpu", "true", "--save_strategy", "no", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of Parquet files, each image of one brightness, and a network that was not trained on them."""
    folder = tmp_path_factory.mktemp("pictures")
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    generator = np.random.default_rng(0)
    for split, count in (("train", 60), ("validation", 41), ("test", 37)):
        noise = generator.integers(0, 9, (count, 16, 16, 3), np.uint8)
        pixels = np.arange(0, 3 * count, 3, dtype=np.uint8)[:, None, None, None] + noise
        columns = {"image": [PILImage.fromarray(one) for one in pixels], "label": [row % 2 for row in range(count)]}
        Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / f"{split}-0.parquet")
    model, processor = create_image_classifier("test_vit", ["cat", "dog"], from_scratch=True, image_size=32)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder


def run(monkeypatch, script, *flags):
    monkeypatch.setattr(sys, "argv", [SCRIPTS[script], *map(str, flags), *QUICK])
    run_main(SCRIPTS[script])


def predictions(folder):
    return load_file(folder / "predictions.safetensors")


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5, err_msg=name)


def test_calibrating_a_stream_gives_what_calibrating_loaded_data_gives(pictures, tmp_path, monkeypatch):
    flags = ["--model_name_or_path", pictures / "model", "--dataset_name", pictures / "data"]
    run(monkeypatch, "calibrate", *flags, "--output_dir", tmp_path / "loaded")
    run(monkeypatch, "calibrate", *flags, "--output_dir", tmp_path / "streamed", "--streaming")
    same(predictions(tmp_path / "loaded"), predictions(tmp_path / "streamed"))
    run(monkeypatch, "calibrate", *flags, "--output_dir", tmp_path / "part", "--streaming", "--max_eval_samples", 10)
    assert [len(predictions(tmp_path / "part")[f"{split}_labels"]) for split in ("validation", "test")] == [10, 10]


def test_an_image_classifier_is_trained_on_a_stream(pictures, tmp_path, monkeypatch, caplog):
    flags = ["--dataset_name", pictures / "data", "--model_name_or_path", "test_vit", "--train_from_scratch"]
    flags += ["--image_size", 32, "--per_device_train_batch_size", 8, "--augmentation", "timm:rand-m9-mstd0.5-inc1"]
    with caplog.at_level("INFO"):
        run(monkeypatch, "run_image", *flags, "--streaming", "--max_steps", 10, "--output_dir", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert 1 < results["epoch"] < 2 and "Training on a stream, validating on a stream" in caplog.text
    found = predictions(tmp_path / "out")
    assert found["validation_labels"].tolist() == [row % 2 for row in range(41)] and len(found["test_labels"]) == 37
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "cat", 1: "dog"}


def test_a_text_classifier_is_trained_and_calibrated_on_a_stream(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    data = write(tmp_path / "data", "csv", train=rows(60), validation=rows(50), test=rows(31))
    name, _ = checkpoint(tmp_path / "bert", BertConfig(vocab_size=100, **SIZES, max_position_embeddings=16))
    BertForSequenceClassification(BertConfig.from_pretrained(name)).save_pretrained(name)
    flags = ["--dataset_name", data, "--streaming"]
    train = [*flags, "--model_name_or_path", name, "--max_steps", 6, "--class_names", "bad", "good"]
    run(monkeypatch, "run_text", *train, "--output_dir", tmp_path / "out")
    assert len(predictions(tmp_path / "out")["test_labels"]) == 31
    again = ["--model_name_or_path", tmp_path / "out", "--output_dir", tmp_path / "again"]
    run(monkeypatch, "calibrate", *flags, *again)
    run(monkeypatch, "calibrate", *flags[:-1], *again[:-1], tmp_path / "loaded")
    same(predictions(tmp_path / "loaded"), predictions(tmp_path / "again"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--streaming needs --max_steps: a stream has no length"),
        (["--max_steps", "5", "--max_train_samples", "9"], "cannot go with --max_train_samples: samples of a stream"),
        (["--max_steps", "5", "--validation_size", "9"], "cannot go with --validation_size.*none can be split off"),
        (["--max_steps", "5", "--track_dynamics"], "cannot go with --track_dynamics"),
        (["--max_steps", "5", "--check_images", "all"], "cannot go with --check_images.*named when it is met"),
    ],
)
def test_what_a_stream_cannot_do_is_refused_before_anything_is_loaded(pictures, tmp_path, monkeypatch, flags, message):
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, "run_image", "--streaming", *flags, "--output_dir", tmp_path / "out")


def test_vocabularies_and_classes_that_only_loaded_data_tell_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="needs a checkpoint with a tokenizer: the vocabulary of small-bert"):
        run(monkeypatch, "run_text", "--streaming", "--max_steps", 5, "--output_dir", tmp_path / "out")
    with pytest.raises(ValueError, match="--class_names is for --streaming"):
        run(monkeypatch, "run_text", "--class_names", "a", "b", "--output_dir", tmp_path / "out")


@pytest.mark.slow
def test_two_processes_see_each_sample_of_a_stream_once(pictures, tmp_path):
    flags = ["--dataset_name", str(pictures / "data"), "--streaming", *QUICK]
    model = ["--model_name_or_path", str(pictures / "model")]
    for processes in (1, 2):
        out = ["--output_dir", str(tmp_path / str(processes))]
        size = ["--per_device_eval_batch_size", str(8 // processes), "--dataloader_num_workers", "1"]
        launch(SCRIPTS["calibrate"], *flags, *model, *out, *size, processes=processes)
    same(predictions(tmp_path / "1"), predictions(tmp_path / "2"))
    train = ["--model_name_or_path", "test_vit", "--train_from_scratch", "--image_size", "32", "--max_steps", "6"]
    out = ["--output_dir", str(tmp_path / "trained"), "--per_device_train_batch_size", "8"]
    printed = launch(SCRIPTS["run_image"], *flags, *train, *out, processes=2).stdout
    assert "in 2 process(es)" in printed
    assert predictions(tmp_path / "trained")["validation_labels"].tolist() == [row % 2 for row in range(41)]


@pytest.mark.slow
def test_two_processes_see_each_text_of_a_stream_once(tmp_path):
    data = write(tmp_path, "csv", train=rows(20), validation=rows(33), test=rows(31))
    name, _ = checkpoint(tmp_path / "bert", BertConfig(vocab_size=100, **SIZES, max_position_embeddings=16))
    BertForSequenceClassification(BertConfig.from_pretrained(name, id2label={0: "bad", 1: "good"})).save_pretrained(
        name
    )
    flags = ["--dataset_name", data, "--streaming", "--model_name_or_path", name, *QUICK]
    for processes in (1, 2):
        launch(SCRIPTS["calibrate"], *flags, "--output_dir", str(tmp_path / str(processes)), processes=processes)
    same(predictions(tmp_path / "1"), predictions(tmp_path / "2"))
