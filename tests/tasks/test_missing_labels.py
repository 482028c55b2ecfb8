# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Data as people have them: splits without labels, or that nobody uses; rows that are named; files that are broken."""

import io
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_from_disk
from PIL import Image as PILImage
from small_texts import sentences
from transformers import ViTImageProcessor, Wav2Vec2FeatureExtractor

from hf_focal import load_image_dataset, load_images, load_text_dataset, load_token_dataset
from hf_focal.tasks import AudioClassification, ImageClassification, TextClassification
from hf_focal.tasks.columns import is_missing
from hf_focal.tasks.rows import keep_rows, stored_rows
from hf_focal.tasks.splits import chosen_pair, held_out_pair, training_splits


NAMES = ["negative", "positive", "neutral"]
COLUMNS = Features({"text": Value("string"), "label": ClassLabel(names=NAMES)})


def split(labels, features=COLUMNS, texts=None):
    return Dataset.from_dict({"text": texts or sentences(len(labels)), "label": labels}, features=features)


def classes(count, hidden=()):
    return [-1 if row in hidden else row % 3 for row in range(count)]


def saved(folder, **splits):
    DatasetDict(splits).save_to_disk(str(folder))
    return str(folder)


def sizes(splits):
    return {name: len(data) for name, data in splits.items()}


# ---- Labels that are missing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "test",
    [
        split([-1] * 30),
        split([-100] * 30, Features({"text": Value("string"), "label": Value("int64")})),
        split([None] * 30),
        split([float("nan")] * 30, Features({"text": Value("string"), "label": Value("float32")})),
        split([""] * 30, Features({"text": Value("string"), "label": Value("string")})),
        split([0] * 30).remove_columns("label"),
    ],
)
def test_a_test_split_without_labels_is_as_if_it_were_not_there(tmp_path, caplog, test):
    folder = saved(tmp_path, train=split(classes(60)), validation=split(classes(40)), test=test)
    with caplog.at_level(logging.INFO):
        loaded = load_text_dataset(folder)
    assert sizes(loaded) == {"train": 54, "validation": 6, "test": 40}
    assert caplog.text.count("are left out") == 1 and "'test'" in caplog.text and "all" in caplog.text
    assert "'validation' is the test set" in caplog.text
    parts = held_out_pair(TextClassification().load(folder, choose=chosen_pair))
    assert sizes(parts) == {"half of validation": 20, "other half of validation": 20}


def test_rows_without_a_label_are_left_out_and_counted(tmp_path, caplog):
    hidden = {0, 1, 2, 7, 59}
    texts = sentences(60)
    folder = saved(tmp_path, train=split(classes(60, hidden), texts=texts), validation=split(classes(30, {4})))
    loaded = TextClassification().load(folder)
    kept = [row for row in range(60) if row not in hidden]
    assert loaded["train"]["text"][:] == [texts[row] for row in kept]
    assert loaded["train"]["label"][:] == [row % 3 for row in kept] and stored_rows(loaded["train"]) == kept
    said = "Rows without a label (-1, or nothing) are left out: 5 of 60 of 'train', 1 of 30 of 'validation'."
    assert caplog.messages == [said]


def test_minus_one_without_names_may_have_been_a_class_and_that_is_said(tmp_path, caplog):
    Dataset.from_dict({"text": sentences(60), "label": [-1, 0, 1] * 20}).to_json(str(tmp_path / "train.jsonl"))
    loaded = load_text_dataset(str(tmp_path))
    assert loaded["train"].features["label"].names == ["0", "1"] and sum(sizes(loaded).values()) == 40
    assert "20 of 60 of 'train'. Where -1 is a class of its own, write the labels as strings." in caplog.text


def test_sentences_none_of_whose_words_has_a_tag_are_left_out(tmp_path, caplog):
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B"]))})
    words = [["a", "film"]] * 40
    tagged = Dataset.from_dict({"tokens": words, "ner_tags": [[0, 1]] * 39 + [None]}, features=features)
    hidden = Dataset.from_dict({"tokens": words, "ner_tags": [[-1, -1]] * 40}, features=features)
    loaded = load_token_dataset(saved(tmp_path, train=tagged, validation=tagged, test=hidden))
    assert sizes(loaded) == {"train": 35, "validation": 4, "test": 39}
    assert "1 of 40 of 'train', 1 of 40 of 'validation', all 40 of 'test'" in caplog.text


def test_where_nothing_has_a_label_the_error_names_a_flag_that_there_is(tmp_path):
    folder = saved(tmp_path, train=split([-1] * 9), test=split([None] * 5))
    with pytest.raises(ValueError, match="no split 'train'.*all 9 of 'train'.*--label_column_name"):
        load_text_dataset(folder)
    with pytest.raises(ValueError, match="no split with labels.*all 9 of 'train', all 5 of 'test'"):
        TextClassification().load(folder)
    with pytest.raises(ValueError, match="no split 'test'; it has train. Without labels: all 5 of 'test'"):
        TextClassification().load(
            saved(tmp_path / "b", train=split(classes(9)), test=split([None] * 5)),
            choose=lambda names: chosen_pair(names, "test"),
        )


@pytest.mark.parametrize("value", [None, float("nan"), -1, -100, -1.0, "", " \n", [None, None], [[-1]]])
def test_what_is_no_label(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, 1, -2, False, True, 0.0, "0", "-1", [], [None, 0]])
def test_what_is_a_label(value):
    assert not is_missing(value)


# ---- Only what is used is looked at ---------------------------------------------------------------------------------


def test_splits_that_are_not_used_stop_nothing(tmp_path, caplog):
    good, odd = split(classes(30)), Dataset.from_dict({"label": [[1]] * 3})
    empty_text = split([0, 7, 2], Features({"text": Value("string"), "label": Value("int64")}), texts=["a", "", "b"])
    folder = saved(
        tmp_path, train=good, validation=good, test=good, unsupervised=split([-1] * 9), odd=odd, more=empty_text
    )
    for file in (tmp_path / "odd").glob("*.arrow"):
        file.write_bytes(b"broken")
    with caplog.at_level(logging.INFO):
        loaded = load_text_dataset(folder)
    assert sizes(loaded) == {"train": 30, "validation": 30, "test": 30}
    assert caplog.messages == ["Splits that are not used: 'unsupervised', 'odd', 'more'."]
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_images(folder, split="odd")


def test_a_broken_file_of_a_split_that_is_not_used_stops_nothing(tmp_path):
    for name, count in (("train", 40), ("validation", 20), ("test", 20)):
        split(classes(count)).to_json(str(tmp_path / f"{name}.jsonl"))
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label"\n')
    task = TextClassification()
    assert sizes(task.load(str(tmp_path), choose=lambda _: ["train", "validation"])) == {"train": 40, "validation": 20}
    with pytest.raises(ValueError, match=r"test.jsonl is broken in line 1"):
        load_text_dataset(str(tmp_path))


def test_images_in_no_folder_of_a_class_do_not_cost_the_others_theirs(tmp_path):
    for place in [
        *(f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(20)),
        "test/1.png",
        "test/2.png",
    ]:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 4)).save(tmp_path / place)
    loaded = load_image_dataset(str(tmp_path))
    assert loaded["train"].features["label"].names == ["cat", "dog"]
    assert sizes(loaded) == {"train": 32, "validation": 4, "test": 4}


@pytest.mark.parametrize(
    ("names", "training", "pair"),
    [
        (["train", "validation_matched", "validation_mismatched", "test_matched"], [0, 1, 3], [1, 3]),
        (["train", "eval"], [0, 1], [1]),
        (["train", "eval", "test"], [0, 1, 2], [1, 2]),
        (["train", "dev", "eval"], [0, 1, 2], [1, 2]),
        (["training", "val", "testing"], [0, 1, 2], [1, 2]),
        (["train", "extra"], [0], None),
        (["extra"], None, [0]),
    ],
)
def test_splits_are_told_by_the_names_that_people_give_them(names, training, pair):
    for choose, expected in ((training_splits, training), (chosen_pair, pair)):
        if expected is None:
            with pytest.raises(ValueError, match=f"it has {', '.join(names)}"):
                choose(names)
        else:
            assert choose(names) == [names[place] for place in expected]


# ---- Rows and files that are named ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("value", [7, 2**40, -5])
def test_an_index_beyond_the_names_is_refused_by_row(tmp_path, kind, value):
    table = split(classes(60, {0, 1})).data.table
    labels = pa.array([value if row == 17 else label for row, label in enumerate(classes(60, {0, 1}))], pa.int64())
    broken = table.set_column(1, "label", labels).replace_schema_metadata(table.schema.metadata)
    if kind == "parquet":
        pq.write_table(broken, tmp_path / "train.parquet")
    else:
        Dataset(broken).save_to_disk(str(tmp_path))
        assert load_from_disk(str(tmp_path))["label"][17] == value
    with pytest.raises(ValueError, match=rf"'train' has the label {value} in row 17, but the 3 classes"):
        load_text_dataset(str(tmp_path))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_index_beyond_the_names_of_a_card_is_refused_by_row(tmp_path, kind):
    names = "\n".join(f"          '{index}': {name}" for index, name in enumerate(NAMES))
    about = "dataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
    about += "      class_label:"
    (tmp_path / "README.md").write_text(f"---\n{about}\n        names:\n{names}\n---\n")
    rows = [{"text": f"word {row}", "label": 7 if row == 17 else row % 3} for row in range(60)]
    lines = (
        map(json.dumps, rows)
        if kind == "jsonl"
        else ["text,label", *(f"{row['text']},{row['label']}" for row in rows)]
    )
    (tmp_path / f"train.{kind}").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"label '?7'? in row 17"):
        load_text_dataset(str(tmp_path))


def test_whole_numbers_are_classes_whatever_their_type(tmp_path):
    for kind, labels in {"float": [0.0, 2.0, None], "bool": [False, True, None], "digits": ["0", "2", None]}.items():
        (tmp_path / kind).mkdir()
        rows = [json.dumps({"text": "a b", "label": labels[row % 3]}) for row in range(60)]
        (tmp_path / kind / "train.jsonl").write_text("\n".join(rows))
        names = load_text_dataset(str(tmp_path / kind))["train"].features["label"].names
        assert names == (["False", "True"] if kind == "bool" else ["0", "2"])


def test_other_classes_of_a_drawn_part_leave_its_rows_where_they_are_stored():
    data = keep_rows(split(classes(12)), [row % 4 != 0 for row in range(12)]).shuffle(seed=0)
    matched = TextClassification().match_classes(data, ["neutral", "x", "negative", "positive"])
    assert stored_rows(matched) == stored_rows(data) and len(matched) == 9
    assert matched["text"][:] == data["text"][:]
    assert matched["label"][:] == [[2, 3, 0][label] for label in data["label"]]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.csv": "text,label\n"}, "train.csv holds no data"),
        ({"train.csv": ""}, "train.csv is empty"),
        ({"train.csv": "text,label\na,b\na,b,c,d\n"}, "train.csv cannot be read: .*line 3"),
        ({"train.jsonl": ""}, "train.jsonl is empty"),
        ({"train.json": "3"}, "train.json holds no rows"),
        (
            {"a/train.jsonl": '{"text": "a"}\n', "b/train.jsonl": '{"text": "a"}\n{"te\n'},
            "b/train.jsonl is broken in line 2",
        ),
        ({"train.parquet": "PAR1 and no more"}, "train.parquet cannot be read: .*corrupted"),
        ({"train.parquet": ""}, "train.parquet is empty"),
        ({"notes.doc": "x"}, "No .* data files found in .*"),
        ({"dataset_dict.json": "{"}, "dataset_dict.json is damaged"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, OSError), match=message):
        load_text_dataset(str(tmp_path))


@pytest.mark.parametrize("name", ["./no/data", "/no/data", "no/such/data"])
def test_a_folder_that_is_not_there_is_called_that(name):
    with pytest.raises(FileNotFoundError, match=f"There is no such folder: {name}[.]$"):
        load_text_dataset(name)
    with pytest.raises(ValueError, match="is a file: a data set is a folder"):
        load_text_dataset(__file__)


def test_an_image_that_cannot_be_read_is_named_by_its_row_and_split(tmp_path):
    file = io.BytesIO()
    PILImage.new("RGB", (8, 8)).save(file, "PNG")
    cells = [{"bytes": b"no picture" if row == 40 else file.getvalue(), "path": None} for row in range(60)]
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    data = Dataset.from_dict({"image": cells, "label": classes(60, range(6))}, features=features)
    loaded = ImageClassification().load(saved(tmp_path, validation=data))
    parts = held_out_pair(loaded)
    processor, faults = ViTImageProcessor(size={"height": 8, "width": 8}), []
    for part in parts.values():
        inputs = ImageClassification().encode(ImageClassification().match_classes(part, NAMES[::-1]), processor)
        try:
            inputs.__getitems__(list(range(len(inputs))))
        except ValueError as error:
            faults.append(str(error))
    assert len(faults) == 1 and "The image in row 40 of the split 'validation' cannot be used" in faults[0]


def test_a_cell_without_an_image_and_images_without_a_class_are_told_of(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    cells = [None if row == 4 else PILImage.new("RGB", (8, 8)) for row in range(9)]
    data = Dataset.from_dict({"image": cells, "label": classes(9)}, features=features)
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    with pytest.raises(ValueError, match="The image in row 4 of the split cannot be used: the cell is empty"):
        ImageClassification().encode(data, processor).__getitems__([3, 4])
    PILImage.new("RGB", (4, 4)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="None of image does.*called after their classes .train/cat/1.png"):
        load_image_dataset(str(tmp_path))


def test_a_saved_split_that_is_damaged_is_named(tmp_path):
    folder = saved(tmp_path, train=split(classes(30)), test=split(classes(30)))
    (tmp_path / "test" / "dataset_info.json").write_text("{")
    assert sizes(TextClassification().load(folder, choose=lambda _: ["train"])) == {"train": 30}
    with pytest.raises(ValueError, match="The saved split .*/test cannot be loaded.*empty or damaged"):
        load_text_dataset(folder)


def test_a_sound_that_cannot_be_used_is_named_by_its_row():
    features = Features(
        {"audio": {"array": List(Value("float32")), "sampling_rate": Value("int32")}, "label": COLUMNS["label"]}
    )
    sound = {"array": [0.0] * 800, "sampling_rate": 16_000}
    odd = {4: {**sound, "sampling_rate": 8_000}, 6: None, 7: {**sound, "array": [0.0, float("nan")]}}
    cells = [odd.get(row, sound) for row in range(9)]
    data = Dataset.from_dict({"audio": cells, "label": classes(9)}, features=features)
    inputs = AudioClassification().encode(data, Wav2Vec2FeatureExtractor())
    assert len(inputs.__getitems__([0, 1, 8])) == 3
    with pytest.raises(ValueError, match="The sound in row 4 of the split cannot be used: A waveform has 8000 Hz"):
        inputs.__getitems__([3, 4, 5])
    with pytest.raises(ValueError, match="The sound in row 6 .*: the cell is empty"):
        inputs[6]
    with pytest.raises(ValueError, match="The sound in row 7 .*: the waveform is empty, or holds NaN"):
        inputs[7]
