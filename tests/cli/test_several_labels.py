# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What the commands make of data of several labels a sample, and of --one_logit, before anything is trained."""

import sys

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from small_texts import SIZES, sentences
from transformers import BertConfig, BertForSequenceClassification

from hf_focal.cli import calibrate, run_image, run_ood, run_text
from hf_focal.tasks.text import train_tokenizer


NAMES = ["anger", "joy"]
SEVERAL = List(ClassLabel(names=NAMES))
TWO = ClassLabel(names=["not relevant", "relevant"])


class Stop(Exception):
    pass


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """What a command hands to its trainer."""

    def run(module, *flags):
        caught = {}

        def catch(**given):
            caught.update(given)
            raise Stop

        monkeypatch.setattr(module, "CalibrationTrainer", type("Caught", (), {"__new__": lambda cls, **k: catch(**k)}))
        module.CalibrationTrainer.default_loss = "focal"
        monkeypatch.setattr(sys, "argv", ["x", "--output_dir", str(tmp_path / "out"), "--use_cpu", "true", *flags])
        with pytest.raises(Stop):
            module.main()
        return caught

    return run


def saved(folder, labels, feature, **columns):
    inputs = {"text": sentences(len(labels))} if "image" not in columns else {}
    data = {**inputs, "label": labels, **columns}
    features = Features({name: Value("int64") for name in data})
    features |= {"label": feature, **{name: Value("string") for name in inputs}}
    features |= {"image": Image()} if "image" in columns else {}
    one = Dataset.from_dict(data, features=Features(features))
    DatasetDict(train=one, validation=one, test=one).save_to_disk(str(folder))
    return str(folder)


def head(caught):
    config = caught["model"].config
    return config.problem_type, [config.id2label[index] for index in range(config.num_labels)]


ROWS = [[0], [1, 0], [], [1]] * 3
HOT = [[1, 0], [1, 1], [0, 0], [0, 1]] * 3


def test_texts_of_several_labels_train_a_sigmoid_head(trainer, tmp_path):
    caught = trainer(run_text, "--dataset_name", saved(tmp_path / "data", ROWS, SEVERAL))
    assert head(caught) == ("multi_label_classification", NAMES)
    assert all(caught[name]["labels"][:] == HOT for name in ("train_dataset", "eval_dataset"))
    flags = [[int(label in row) for row in ROWS] for label in (0, 1)]
    folder = saved(tmp_path / "columns", [5] * 12, Value("int64"), anger=flags[0], joy=flags[1])
    caught = trainer(run_text, "--dataset_name", folder, "--label_column_name", "anger", "joy")
    assert head(caught)[1] == NAMES and caught["train_dataset"]["labels"][:] == HOT


def test_two_classes_train_a_single_logit(trainer, tmp_path):
    folder = saved(tmp_path / "data", [0, 1, 1, 0] * 3, TWO)
    caught = trainer(run_text, "--dataset_name", folder, "--one_logit")
    assert head(caught) == ("multi_label_classification", ["relevant"])
    assert caught["train_dataset"]["labels"][:] == [[0], [1], [1], [0]] * 3
    caught = trainer(run_text, "--dataset_name", folder)
    assert head(caught) == (None, TWO.names) and caught["train_dataset"]["labels"][:4] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "feature", "words"),
    [
        (ROWS, SEVERAL, "--one_logit .* the data have lists of labels"),
        ([0, 1, 2] * 4, Value("int64"), "--one_logit .* the data have 3 classes"),
    ],
)
def test_a_single_logit_for_other_data_is_refused(monkeypatch, tmp_path, labels, feature, words):
    folder = saved(tmp_path / "data", labels, feature)
    flags = ["--output_dir", str(tmp_path / "out"), "--dataset_name", folder, "--one_logit"]
    monkeypatch.setattr(sys, "argv", ["x", *flags])
    with pytest.raises(ValueError, match=words):
        run_text.main()


def test_images_of_several_labels_train_a_sigmoid_head(trainer, tmp_path, monkeypatch):
    pictures = [PILImage.new("RGB", (8, 8), (row, 0, 0)) for row in range(12)]
    folder = saved(tmp_path / "data", ROWS, SEVERAL, image=pictures)
    network = ["--model_name_or_path", "test_vit", "--train_from_scratch", "--image_size", "32"]
    caught = trainer(run_image, "--dataset_name", folder, *network)
    assert head(caught) == ("multi_label_classification", NAMES) and caught["eval_dataset"].labels.tolist() == HOT
    folder = saved(tmp_path / "two", [0, 1, 1, 0] * 3, TWO, image=pictures)
    caught = trainer(run_image, "--dataset_name", folder, *network, "--one_logit")
    assert head(caught)[1] == ["relevant"] and caught["eval_dataset"][1]["labels"] == [1.0]
    flags = ["--selective", "--dataset_name", str(tmp_path / "data"), "--model_name_or_path", "nowhere"]
    monkeypatch.setattr(sys, "argv", ["x", *flags, "--output_dir", str(tmp_path / "ood")])
    with pytest.raises(ValueError, match="has lists of labels: these scores are of a softmax"):
        run_ood.main()


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_a_model_is_calibrated_on_labels_as_it_knows_them(monkeypatch, tmp_path, streaming):
    def checkpoint(folder, names, problem_type):
        config = BertConfig(
            vocab_size=100, **SIZES, id2label=dict(enumerate(names)), num_labels=len(names), problem_type=problem_type
        )
        BertForSequenceClassification(config).save_pretrained(folder)
        train_tokenizer(sentences(50)).save_pretrained(folder)
        return str(folder)

    def inputs(model, data):
        caught = []
        monkeypatch.setattr(calibrate, "end_run", lambda trainer, *parts, **facts: caught.extend(parts))
        flags = ["--model_name_or_path", model, "--dataset_name", data, "--output_dir", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["x", *flags, "--use_cpu", "true", *streaming])
        calibrate.main()
        return [[list(row["labels"]) for row in part] for part in caught]

    several = checkpoint(tmp_path / "several", NAMES[::-1], "multi_label_classification")
    single = checkpoint(tmp_path / "single", ["LABEL_0"], None)
    softmax = checkpoint(tmp_path / "softmax", NAMES, "single_label_classification")
    lists = saved(tmp_path / "lists", ROWS, SEVERAL)
    two = saved(tmp_path / "two", [0, 1, 1, 0] * 3, TWO)
    assert inputs(several, lists) == [[row[::-1] for row in HOT]] * 2
    assert inputs(single, two) == [[[0], [1], [1], [0]] * 3] * 2
    with pytest.raises(ValueError, match="lists of labels, and the model one softmax"):
        inputs(softmax, lists)
    with pytest.raises(ValueError, match="one label a row, and the model gives each of its 2 labels"):
        inputs(several, two)
