# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Data sets: the embedded digits, folders, splits that are missing, columns that are wrong, images as inputs."""

import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from hf_focal import load_image_dataset
from hf_focal.tasks.splits import split_data, take


def pictures(count, classes=3, mode="RGB", seed=0):
    generator = np.random.default_rng(seed)
    shape = (count, 6, 6, 3) if mode == "RGB" else (count, 6, 6)
    return {
        "image": [PILImage.fromarray(pixels) for pixels in generator.integers(0, 255, shape).astype(np.uint8)],
        "label": [index % classes for index in range(count)],
    }


def saved(folder, splits, features=None):
    names = ["a", "b", "c"]
    features = features or Features({"image": Image(), "label": ClassLabel(names=names)})
    data = {split: Dataset.from_dict(pictures(count), features=features) for split, count in splits.items()}
    DatasetDict(data).save_to_disk(str(folder))
    return str(folder)


def test_digits_are_the_1797_scans_stratified_without_overlap():
    dataset = load_image_dataset()
    assert {split: len(data) for split, data in dataset.items()} == {"train": 1079, "validation": 359, "test": 359}
    pixels = [np.asarray(image) for data in dataset.values() for image in data["image"]]
    assert all(image.shape == (8, 8, 3) and image.dtype == np.uint8 for image in pixels)
    labels = [label for data in dataset.values() for label in data["label"]]
    digits = load_digits()
    scans = [np.round(image[..., 0] * (16 / 255)).astype(int).tobytes() for image in pixels]
    originals = [image.astype(int).tobytes() for image in digits.images]
    mine, theirs = sorted(zip(scans, labels, strict=True)), sorted(zip(originals, digits.target, strict=True))
    assert mine == theirs
    for data in dataset.values():
        shares = np.bincount(data["label"]) / len(data)
        assert np.abs(shares - np.bincount(digits.target) / 1797).max() < 0.01


def test_the_split_depends_on_the_seed_alone():
    first, second, other = (load_image_dataset(seed=seed)["test"]["label"][:] for seed in (1, 1, 2))
    assert first == second != other


def test_a_missing_validation_split_is_split_off_and_said(tmp_path, caplog):
    folder = saved(tmp_path, {"train": 60, "test": 12})
    with caplog.at_level(logging.WARNING):
        dataset = load_image_dataset(folder, holdout=0.2)
    assert {split: len(data) for split, data in dataset.items()} == {"train": 48, "validation": 12, "test": 12}
    assert np.bincount(dataset["validation"]["label"]).tolist() == [4, 4, 4]
    assert "No validation split: 12 of 60 training samples are split off" in caplog.text


@pytest.mark.parametrize(("total", "size"), [(60, 7), (50_000, 5_000)])
def test_a_validation_split_by_permutation_is_that_of_the_published_code(total, size):
    """The first of the indices that NumPy's global generator shuffles after `np.random.seed(1)`."""
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict({"image": [None] * total, "label": [index % 2 for index in range(total)]}, features)
    data = data.add_column("row", list(range(total)))
    splits = split_data({"train": data, "test": data.select(range(4))}, holdout=0.1, seed=1, validation_size=size)
    indices = list(range(total))
    state = np.random.get_state()
    np.random.seed(1)
    np.random.shuffle(indices)
    np.random.set_state(state)
    assert splits["validation"]["row"][:] == indices[:size]
    assert splits["train"]["row"][:] == indices[size:]


def test_a_validation_size_that_cannot_be_is_refused(tmp_path):
    folder = saved(tmp_path / "a", {"train": 12, "test": 6})
    for size in (0, 12):
        with pytest.raises(ValueError, match=f"between 1 and 11, got {size}"):
            load_image_dataset(folder, validation_size=size)
    folder = saved(tmp_path / "b", {"train": 12, "validation": 6, "test": 6})
    with pytest.raises(ValueError, match="has a validation split already"):
        load_image_dataset(folder, validation_size=3)


def test_a_missing_test_split_is_the_validationsplit_data(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = load_image_dataset(saved(tmp_path, {"train": 60, "valid": 15}))
    assert {split: len(data) for split, data in dataset.items()} == {"train": 54, "validation": 6, "test": 15}
    assert "'valid' is the test set" in caplog.text


def test_only_a_training_split_gives_all_three(tmp_path):
    dataset = load_image_dataset(saved(tmp_path, {"train": 60}))
    assert {split: len(data) for split, data in dataset.items()} == {"train": 48, "validation": 6, "test": 6}


def test_columns_are_named_or_found(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    data = Dataset.from_dict(pictures(30), features=features)
    data = data.rename_columns({"image": "img", "label": "fine"}).add_column("coarse", data["label"][:])
    data = data.cast_column("coarse", ClassLabel(names=["x", "y", "z"]))
    DatasetDict(train=data, validation=data, test=data).save_to_disk(str(tmp_path))
    with pytest.raises(ValueError, match="labels.*fine, coarse.*--label_column_name"):
        load_image_dataset(str(tmp_path))
    dataset = load_image_dataset(str(tmp_path), label_column="coarse")
    assert dataset["train"].column_names == ["image", "label"]
    assert dataset["train"].features["label"].names == ["x", "y", "z"]
    with pytest.raises(ValueError, match="no column 'picture'; its columns are img, fine, coarse"):
        load_image_dataset(str(tmp_path), image_column="picture", label_column="fine")


def test_labels_that_are_strings_become_classes(tmp_path):
    features = Features({"image": Image(), "label": Value("string")})
    images = pictures(30)
    images["label"] = [("cat", "dog", "eel")[label] for label in images["label"]]
    data = Dataset.from_dict(images, features=features)
    DatasetDict(train=data, validation=data, test=data).save_to_disk(str(tmp_path))
    dataset = load_image_dataset(str(tmp_path))
    assert dataset["test"].features["label"].names == ["cat", "dog", "eel"]


@pytest.mark.parametrize(
    ("splits", "message"),
    [({"test": 30}, "no split 'train'"), ({"train": 2}, "too few")],
)
def test_splits_that_cannot_serve_are_refused(tmp_path, splits, message):
    with pytest.raises(ValueError, match=message):
        load_image_dataset(saved(tmp_path, splits))


def test_an_empty_split_is_refused(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    for split, count in (("train", 30), ("test", 0)):
        Dataset.from_dict(pictures(count), features=features).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match="test.*no data.*Every split must hold samples"):
        load_image_dataset(str(tmp_path))


def test_take_is_a_random_part_that_the_seed_fixes():
    data = Dataset.from_dict({"value": list(range(100))})
    part = take(data, 10, seed=0)["value"][:]
    assert len(set(part)) == 10 and part != list(range(10))
    assert take(data, 10, seed=0)["value"][:] == part
    assert take(data, None, seed=0) is data and take(data, 200, seed=0) is data
    with pytest.raises(ValueError, match="At least 1"):
        take(data, 0, seed=0)


def test_cifar10_loads_with_its_own_columns(test_data):
    dataset = load_image_dataset(str(test_data / "cifar10"))
    assert {split: len(data) for split, data in dataset.items()} == {"train": 45000, "validation": 5000, "test": 10000}
    assert dataset["train"].features["label"].names[3] == "cat"
    assert np.bincount(dataset["validation"]["label"]).tolist() == [500] * 10
