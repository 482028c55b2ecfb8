# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Data that are read one sample after the other: each once, shuffled, encoded as data that are loaded are."""

import io

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from small_texts import sentences
from torch.utils.data import DataLoader

from hf_focal import create_image_classifier
from hf_focal.tasks import ImageClassification, TextClassification, TokenClassification, encoded_stream
from hf_focal.tasks.encoded_stream import EncodedStream, side_of_first
from hf_focal.tasks.pictures import decode
from hf_focal.tasks.streaming import held_out_streams, load_streams, training_streams
from hf_focal.tasks.text import train_tokenizer


NAMES = ["cat", "dog", "eel"]


def stored(rows, split=0, bad=()):
    cells = []
    for row in range(rows):
        file = io.BytesIO()
        PILImage.fromarray(np.full((6, 9, 3), split * 100 + row, np.uint8)).save(file, "PNG")
        cells.append(b"no image" if row in bad else file.getvalue())
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"image": cells, "label": [row % 3 for row in range(rows)]}, features=features)


@pytest.fixture(scope="module")
def processor():
    return create_image_classifier("test_resnet", NAMES, from_scratch=True, image_size=32)[1]


@pytest.fixture
def folder(tmp_path):
    def save(**splits):
        for name, data in splits.items():
            data.to_parquet(tmp_path / f"{name}-0.parquet")
        return str(tmp_path)

    return save


def rows_of(stream, batch_size=7, **options):
    """The samples as whole numbers of what they show, and their labels."""
    seen = []
    for batch in DataLoader(stream, batch_size, collate_fn=list, **options):
        seen += [(one["pixel_values"], one["labels"]) for one in batch]
    return seen


def number(image, label, _):
    return {"pixel_values": int(np.asarray(decode(image))[0, 0, 0]), "labels": label}


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("seed", [None, 0])
def test_each_sample_comes_once_whatever_the_workers(folder, workers, seed):
    name = folder(train=stored(50), validation=stored(20, 1), test=stored(10, 2))
    parts = training_streams(ImageClassification(), name)
    for split, first, count in (("train", 0, 50), ("validation", 100, 20), ("test", 200, 10)):
        stream = EncodedStream(parts[split], number, seed=seed, threads=4)
        seen = rows_of(stream, num_workers=workers)
        expected = [(first + row, row % 3) for row in range(count)]
        assert sorted(seen) == expected
        assert (seen == expected) == (seed is None)
        if seed is not None:
            assert rows_of(stream) == seen  # the same whatever reads it
            stream.set_epoch(1)
            assert rows_of(stream) != seen and sorted(rows_of(stream)) == expected


def test_batches_are_whole_but_for_the_last_with_several_workers(folder):
    parts = training_streams(ImageClassification(), folder(train=stored(50), validation=stored(4), test=stored(4)))
    loader = DataLoader(EncodedStream(parts["train"], number), 16, collate_fn=list, num_workers=2)
    assert [len(batch) for batch in loader] == [16, 16, 16, 2]


def test_a_full_buffer_gives_each_sample_once_and_warns_of_sorted_data(folder, caplog, monkeypatch):
    monkeypatch.setattr(encoded_stream, "BUFFER", 40 * 400)
    data = stored(200).sort("label")
    stream = EncodedStream(load_streams(ImageClassification(), folder(train=data))["train"], number, seed=3)
    labels = [label for _, label in rows_of(stream)]
    assert sorted(labels) == data["label"][:] and labels[:100] != data["label"][:100]
    assert "are of 1 of 3 classes alone: the data are sorted by class" in caplog.text


def test_inputs_are_those_of_data_that_are_loaded(folder, processor):
    task, name = ImageClassification(), folder(train=stored(9), validation=stored(6), test=stored(5))
    parts = training_streams(task, name)
    for split, data in task.load_dataset(name).items():
        wanted = task.encode(data, processor)
        found = list(EncodedStream(parts[split], task.sample_encoder(processor)))
        assert [one["labels"] for one in found] == [one["labels"] for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one["pixel_values"], other["pixel_values"], rtol=0, atol=1e-6)
    assert side_of_first(parts["train"]) == 9


def test_embedded_and_saved_data_stream_too(tmp_path):
    parts = training_streams(ImageClassification(), "digits")
    loaded = ImageClassification().load_dataset("digits")
    assert {split: labels_of(part) for split, part in parts.items()} == {
        split: data["label"][:] for split, data in loaded.items()
    }
    DatasetDict(train=stored(6), test=stored(4, 1), dev=stored(2)).save_to_disk(tmp_path / "saved")
    parts = training_streams(ImageClassification(), str(tmp_path / "saved"))
    assert [one["pixel_values"] for one in EncodedStream(parts["test"], number)] == [100, 101, 102, 103]


# ---- Splits ---------------------------------------------------------------------------------------------------------


def test_a_single_split_to_hold_out_is_dealt_out_by_turns(folder, caplog):
    parts = training_streams(ImageClassification(), folder(train=stored(5), validation=stored(7, 1)))
    rows = {split: [one["pixel_values"] for one in EncodedStream(parts[split], number)] for split in parts}
    assert rows == {"train": [*range(5)], "validation": [100, 102, 104, 106], "test": [101, 103, 105]}
    assert "every other of its samples is for testing alone" in caplog.text


def test_a_split_without_labels_is_not_used(folder, caplog):
    hidden = stored(70).remove_columns("label").add_column("label", [-1] * 70)
    name = folder(train=stored(5), validation=stored(8, 1), test=hidden.cast_column("label", Value("int64")))
    parts = training_streams(ImageClassification(), name)
    assert [one["pixel_values"] for one in EncodedStream(parts["test"], number)] == [101, 103, 105, 107]
    assert "'test' has no label in its first 64 rows. It is not used." in caplog.text


def test_training_data_alone_cannot_be_split_at_random(folder):
    with pytest.raises(ValueError, match="no split but 'train' to use, and a stream cannot be split at random"):
        training_streams(ImageClassification(), folder(train=stored(5)))


def test_the_splits_of_a_calibration_are_those_of_loaded_data(folder):
    name = folder(train=stored(5), validation=stored(6), test=stored(4))
    task = ImageClassification()
    assert list(held_out_streams(task, name)) == ["validation", "test"]
    assert list(held_out_streams(task, name, split="test", test_split="train")) == ["test", "train"]
    with pytest.raises(ValueError, match="no split 'dev'"):
        held_out_streams(task, name, split="dev")


def test_a_part_that_is_taken_is_the_same_in_each_epoch(folder):
    parts = training_streams(ImageClassification(), folder(train=stored(9), validation=stored(40), test=stored(9)))
    stream = EncodedStream(parts["validation"], number, seed=1, take=12)
    first = rows_of(stream)
    stream.set_epoch(5)
    assert rows_of(stream) == first and len({row for row, _ in first}) == 12 and first != sorted(first)


# ---- Samples that are odd -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 0])
def test_an_image_that_cannot_be_read_is_named_when_it_is_met_or_left_out(folder, caplog, seed):
    parts = training_streams(
        ImageClassification(), folder(train=stored(30, bad=(4, 17)), dev=stored(3), test=stored(3))
    )
    where = "in sample 4 of 'train': cannot identify" if seed is None else "in sample .* as they are read of 'train'"
    with pytest.raises(ValueError, match=f"One of the images cannot be used, {where}.*Mend or remove it"):
        list(EncodedStream(parts["train"], number, seed=seed))
    kept = list(EncodedStream(parts["train"], number, seed=seed, skip_unreadable=True, threads=3))
    assert sorted(one["pixel_values"] for one in kept) == [row for row in range(30) if row not in (4, 17)]
    assert caplog.text.count("2 samples of 'train' are left out: sample") == 1


def test_rows_without_a_label_are_left_out_and_counted(tmp_path, caplog):
    (tmp_path / "train.csv").write_text("text,label\na b,cat\nc d,\ne f,dog\n")
    samples = load_streams(TextClassification(), str(tmp_path), class_names=["cat", "dog"])["train"]
    assert [one["labels"] for one in EncodedStream(samples, lambda text, label, _: {"labels": label})] == [0, 1]
    assert "Rows without a label are left out: 1 of 3 of 'train'." in caplog.text


def test_a_broken_file_says_how_far_it_was_read(tmp_path):
    lines = ['{"text": "a", "label": "cat"}'] * 3 + ["{broken"]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"train.jsonl|cannot be read on after"):
        samples = load_streams(TextClassification(), str(tmp_path), class_names=["cat", "dog"])["train"]
        list(EncodedStream(samples, lambda text, label, _: {"labels": label}))


# ---- Classes --------------------------------------------------------------------------------------------------------


def texts(tmp_path, labels):
    for split in ("train", "validation", "test"):
        rows = "".join(f"word {row},{label}\n" for row, label in enumerate(labels))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    return str(tmp_path)


def labels_of(samples):
    return [one["labels"] for one in EncodedStream(samples, lambda text, label, _: {"labels": label})]


def test_classes_that_the_data_do_not_name_have_to_be_given(tmp_path):
    name = texts(tmp_path, ["dog", "cat", "dog"])
    with pytest.raises(ValueError, match="strings or whole numbers.*class_names"):
        training_streams(TextClassification(), name)
    parts = training_streams(TextClassification(), name, class_names=["dog", "cat"])
    assert labels_of(parts["train"]) == [0, 1, 0]
    parts = training_streams(TextClassification(), name, class_names=["dogs", "cat"])
    with pytest.raises(ValueError, match="'dog' in sample 0, which is none of the 2 classes. Did you mean 'dogs'"):
        labels_of(parts["test"])


def test_classes_that_the_data_name_are_not_to_be_given(folder):
    name = folder(train=stored(5), validation=stored(6), test=stored(4))
    with pytest.raises(ValueError, match="names its 3 classes itself: cat, dog, eel.*class_names"):
        training_streams(ImageClassification(), name, class_names=["a", "b"])


def test_whole_numbers_are_places_among_the_classes_and_that_is_said(tmp_path, caplog):
    parts = training_streams(TextClassification(), texts(tmp_path, [1, 0, 2]), class_names=["a", "b", "c"])
    assert labels_of(parts["train"]) == [1, 0, 2]
    assert "they are taken for places among the 3 classes a, b, c" in caplog.text
    parts = training_streams(TextClassification(), texts(tmp_path, [7, 3]), class_names=["3", "7"])
    assert labels_of(parts["train"]) == [1, 0]
    parts = training_streams(TextClassification(), texts(tmp_path, [1, 2]), class_names=["a", "b"])
    with pytest.raises(ValueError, match="label 2 in sample 1, which is none of the 2"):
        labels_of(parts["train"])


def test_labels_become_the_classes_of_a_model(folder, tmp_path):
    samples = load_streams(ImageClassification(), folder(train=stored(4)))["train"]
    assert labels_of_images(samples.for_model(["eel", "Dog", "cat", "fox"])) == [2, 1, 0, 2]
    with pytest.raises(ValueError, match="'eel'"):
        labels_of_images(samples.for_model(["cat", "dog"]))
    (tmp_path / "texts").mkdir()
    named = load_streams(TextClassification(), texts(tmp_path / "texts", ["DOG", "cat"]))["train"]
    assert labels_of(named.for_model(["cat", "dog"])) == [1, 0]


def labels_of_images(samples):
    return [one["labels"] for one in EncodedStream(samples, number)]


# ---- Other tasks ----------------------------------------------------------------------------------------------------


def test_texts_and_words_are_encoded_as_those_that_are_loaded(tmp_path):
    words = train_tokenizer(sentences(50))
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    rows = {"text": ["the cast", "a fine film with no plot", "joke"], "label": [0, 1, 0]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "text" / "train.parquet")
    columns = {"tokens": [["a", "film"], ["no", "joke", "plot"]], "ner_tags": [[0, 1], [1, 0, 0]]}
    Dataset.from_dict(columns).to_parquet(tmp_path / "words" / "train.parquet")
    for task, kind, names in ((TextClassification(), "text", None), (TokenClassification(), "words", ["0", "1"])):
        name = str(tmp_path / kind)
        stream = EncodedStream(load_streams(task, name, class_names=names)["train"], task.sample_encoder(words))
        found = [
            {key: list(value) if isinstance(value, list) else value for key, value in one.items()} for one in stream
        ]
        wanted = [dict(one) for one in task.encode(task.load(name)["train"], words)]
        assert found == wanted


def test_tasks_that_cannot_be_streamed_say_so():
    class Other(TextClassification):
        def sample_encoder(self, processor):
            return super(TextClassification, self).sample_encoder(processor)

    with pytest.raises(ValueError, match="text-classification cannot be streamed: load them without"):
        Other().sample_encoder(None)
