# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Several labels a sample: the forms that people have them in, a model's classes, and models with a single logit."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from small_texts import sentences
from transformers import ViTImageProcessor, Wav2Vec2FeatureExtractor

from hf_focal import create_tree_lstm, load_image_dataset, load_text_dataset
from hf_focal.tasks import AudioClassification, ImageClassification, TextClassification, TokenClassification
from hf_focal.tasks.encoded_stream import EncodedStream
from hf_focal.tasks.multi_label import label_matrix, multi_hot
from hf_focal.tasks.rows import keep_rows, stored_rows
from hf_focal.tasks.splits import held_out_pair
from hf_focal.tasks.streaming import held_out_streams, training_streams
from hf_focal.tasks.text import tokenize, train_tokenizer
from hf_focal.tasks.transforms import create_image_inputs


NAMES = ["anger", "grief", "joy"]
CLASSES = List(ClassLabel(names=NAMES))
TEXTS = TextClassification()


def split(labels, feature=CLASSES, **columns):
    columns |= {"text": sentences(len(labels)), "emotions": labels}
    features = Features({**{name: Value("int64") for name in columns}, "text": Value("string"), "emotions": feature})
    return Dataset.from_dict(columns, features=features)


def saved(folder, **splits):
    DatasetDict(splits).save_to_disk(str(folder))
    return str(folder)


def loaded(folder, labels, feature=CLASSES, **options):
    data = split(labels, feature)
    column = {"label_column": "emotions", **options}
    return load_text_dataset(saved(folder, train=data, validation=data, test=data), **column)["train"]


ROWS = [[0], [], [2, 0], [1], [2], []]
MATRIX = [[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "feature", "names"),
    [
        (ROWS, CLASSES, NAMES),
        (ROWS, List(Value("int64")), ["0", "1", "2"]),
        ([[NAMES[label] for label in row] for row in ROWS], List(Value("string")), NAMES),
        ([[10 * label for label in row] for row in ROWS], List(Value("int32")), ["0", "10", "20"]),
        (MATRIX, List(Value("int8")), ["0", "1", "2"]),
        (MATRIX, List(Value("float32"), length=3), ["0", "1", "2"]),
        ([[bool(value) for value in row] for row in MATRIX], List(Value("bool")), ["0", "1", "2"]),
    ],
)
def test_every_form_of_several_labels_is_the_same_to_a_model(tmp_path, labels, feature, names):
    data = loaded(tmp_path, labels, feature)
    assert TEXTS.class_names(data) == names and TEXTS.has_lists(data)
    assert [sorted(row) for row in data["label"]] == [sorted(row) for row in ROWS]
    encoded = tokenize(data, train_tokenizer(data["text"]))
    assert encoded["labels"][:] == MATRIX and encoded.features["labels"].feature.dtype == "float32"


def test_the_column_is_found_where_no_other_will_do(tmp_path):
    data = split(ROWS)
    assert load_text_dataset(saved(tmp_path / "one", train=data, test=data))["train"].features["label"] == CLASSES
    single = data.add_column("topic", [0, 1] * 3, feature=ClassLabel(names=["a", "b"]))
    found = load_text_dataset(saved(tmp_path / "two", train=single, test=single))["train"]
    assert found.features["label"].names == ["a", "b"]


def test_columns_of_0_and_1_are_one_label_each(tmp_path, caplog):
    columns = {
        "grief": [1, 0, None, -1, 0, None], "joy": [0.0, 1.0, 1.0, float("nan"), 0.0, None],
        "anger": [True, False, True, False, None, None],
    }  # fmt: skip
    data = Dataset.from_dict({"text": sentences(6), **columns})
    folder = saved(tmp_path, train=data, validation=data, test=data)
    train = load_text_dataset(folder, label_column=["anger", "grief", "joy"])["train"]
    assert TEXTS.class_names(train) == ["anger", "grief", "joy"]
    assert train["label"][:] == [[0, 1], [2], [0, ~1, 2], [~1, ~2], [~0]]  # the last tells nothing, and is left out
    known = [[1, 1, 0], [0, 0, 1], [1, -100, 1], [0, -100, -100], [-100, 0, 0]]
    assert tokenize(train, train_tokenizer(train["text"]))["labels"][:] == known
    assert "1 of 6 of 'train'" in caplog.text
    assert load_text_dataset(folder, label_column=["grief"])["train"].features["label"].names == ["0", "1"]
    with pytest.raises(ValueError, match="no column 'hope'; its columns are text, grief"):
        load_text_dataset(folder, label_column=["joy", "hope"])
    with pytest.raises(ValueError, match="names a column twice"):
        load_text_dataset(folder, label_column=["joy", "joy"])
    with pytest.raises(ValueError, match="name all: grief anger"):
        load_text_dataset(folder)


def test_what_is_not_known_of_a_sample_is_left_out_and_of_a_label_too(tmp_path, caplog):
    data = loaded(tmp_path / "lists", [[0], None, [-1], [1], []])
    assert data["label"][:] == [[0], [1], []] and "2 of 5 of 'train'" in caplog.text
    data = loaded(tmp_path / "vectors", [[1, 0, -1], [0, None, 0], None, [0, 0, 1]], List(Value("int64")))
    assert data["label"][:] == [[0, ~2], [~1], [2]]
    assert list(stored_rows(data)) == [0, 1, 3]


@pytest.mark.parametrize(
    ("labels", "feature", "words"),
    [
        ([[0.3, 2.5], [1.0, 0.0]], List(Value("float32")), "0.3.* for the label '0' in row 0: .*a regression"),
        ([[0, 1, 0], [1, 0]], List(Value("int64")), "2 numbers in row 1, and 3 in row 0"),
        ([[0, None, 2], [2]], CLASSES, "no label in row 0, label 1"),
        ([[-3], [2]], List(Value("int64")), "the label -3 in row 0, label 0"),
        ([[], []], List(Value("string")), "every list is empty"),
        ([[[1]], [[0]]], List(List(Value("int64"))), "must hold a label a row, or a list of labels"),
        ([0.5, 1.5], Value("float32"), "0.5 in row 0 .*a regression"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, labels, feature, words):
    with pytest.raises(ValueError, match=words):
        loaded(tmp_path, labels, feature)


def test_splits_of_both_kinds_are_refused(tmp_path):
    folder = saved(tmp_path, train=split(ROWS), test=split([0, 1], ClassLabel(names=NAMES)))
    with pytest.raises(ValueError, match="Some splits have lists"):
        load_text_dataset(folder, label_column="emotions")


def test_a_label_of_which_nothing_can_be_learned_is_named(tmp_path, caplog):
    data = multi_hot(loaded(tmp_path, [[0, 2], [2], [2]]))
    assert "No sample of 'train' has these labels, of which nothing can be learned or measured there: 'grief'." in (
        caplog.text
    )
    assert "Every sample of 'train' has these labels" in caplog.text and "there: 'joy'" in caplog.text
    caplog.clear()
    assert multi_hot(data) is data and not caplog.text
    multi_hot(loaded(tmp_path / "all", [[0, 1], [2]]))
    assert "these labels" not in caplog.text


def test_parts_without_a_test_split_are_drawn_without_regard_to_classes(tmp_path):
    folder = saved(tmp_path, train=split(ROWS * 20))
    parts = load_text_dataset(folder, holdout=0.25)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [60, 30, 30]
    halves = held_out_pair({"test": parts["test"]}, seed=0)
    assert all(TEXTS.has_lists(data) for data in halves.values())


# ---- The classes of a model -----------------------------------------------------------------------------------------


def test_classes_of_a_model_are_matched_by_name_and_those_the_data_lack_are_not_known(tmp_path, caplog):
    data = loaded(tmp_path, ROWS)
    matched = TEXTS.match_classes(data, ["Joy", "fear", "grief", "anger"], sigmoid=True)
    assert multi_hot(matched)["label"][:] == [
        [row[2], -100, row[1], row[0]] for row in MATRIX
    ] and "left out: 'fear'" in caplog.text  # fmt: skip
    drawn = keep_rows(data, [False, True, True, False, True, True])
    again = TEXTS.match_classes(drawn, NAMES[::-1], sigmoid=True)
    assert again["label"][:] == [[], [0, 2], [0], []] and list(stored_rows(again)) == [1, 2, 4, 5]
    with pytest.raises(ValueError, match="does not know the classes 'anger'"):
        TEXTS.match_classes(data, ["joy", "grief"], sigmoid=True)


def test_what_is_not_known_stays_so_in_another_order(tmp_path):
    data = loaded(tmp_path, [[1, 0, -1], [0, 1, 0]], List(Value("int64")))
    matched = TEXTS.match_classes(data, ["2", "1", "0"], sigmoid=True)
    assert multi_hot(matched)["label"][:] == [[-100, 0, 1], [0, 1, 0]]


def test_both_mismatches_are_one_sentence(tmp_path):
    several, single = loaded(tmp_path / "a", ROWS), loaded(tmp_path / "b", [0, 1, 2], ClassLabel(names=NAMES))
    with pytest.raises(ValueError, match="lists of labels, and the model one softmax over its 3 classes"):
        TEXTS.match_classes(several, NAMES)
    with pytest.raises(ValueError, match="one label a row, and the model gives each of its 3 labels"):
        TEXTS.match_classes(single, NAMES, sigmoid=True)
    with pytest.raises(ValueError, match="a single logit.* and the data have 3 classes"):
        TEXTS.match_classes(single, ["yes"], sigmoid=True)
    words = Dataset.from_dict(
        {"words": [["a"]], "labels": [[0]]}, features=Features({"words": List(Value("string")), "labels": CLASSES})
    )
    with pytest.raises(ValueError, match="token-classification needs a softmax"):
        TokenClassification().match_classes(words, ["yes"], sigmoid=True)


@pytest.mark.parametrize(
    ("model_name", "expected"),
    [("LABEL_0", [[], [0], [0]]), ("relevant", [[], [0], [0]]), ("Not Relevant", [[0], [], []])],
)
def test_a_single_logit_is_the_second_of_two_classes(tmp_path, model_name, expected):
    data = loaded(tmp_path, [0, 1, 1], ClassLabel(names=["not relevant", "relevant"]))
    matched = TEXTS.match_classes(data, [model_name], sigmoid=True)
    assert matched["label"][:] == expected and matched.features["label"].feature.names == [model_name]
    several = loaded(tmp_path / "list", [[], [0]], List(ClassLabel(names=["toxic"])))
    assert TEXTS.match_classes(several, [model_name], sigmoid=True)["label"][:] == [[], [0]]


def test_a_column_alone_keeps_its_rows():
    alone = Dataset.from_dict({"label": ROWS}, features=Features({"label": CLASSES}))
    assert multi_hot(alone)["label"][:] == MATRIX


def test_trees_have_one_label_each(tmp_path):
    data = loaded(tmp_path, ROWS)
    _, tokenizer = create_tree_lstm(["(1 (0 a) (1 b))"], NAMES, embedding_size=4, hidden_size=4)
    with pytest.raises(ValueError, match="needs one label for each tree"):
        tokenize(data, tokenizer)


# ---- Other tasks, and streams ---------------------------------------------------------------------------------------


def test_images_and_sounds_of_several_labels(tmp_path, caplog):
    pictures = [PILImage.fromarray(np.full((8, 8, 3), 9 * row, np.uint8)) for row in range(6)]
    features = Features({"image": Image(), "labels": CLASSES})
    data = Dataset.from_dict({"image": pictures, "labels": ROWS}, features=features)
    dataset = load_image_dataset(saved(tmp_path, train=data, validation=data, test=data))
    inputs = create_image_inputs(dataset, ViTImageProcessor(size={"height": 8, "width": 8}))
    assert inputs["test"].labels.tolist() == MATRIX and inputs["train"][2]["labels"] == [1.0, 0.0, 1.0]
    encoded = ImageClassification().encode(dataset["test"], ViTImageProcessor(size={"height": 8, "width": 8}))
    assert encoded.labels.tolist() == MATRIX
    features = Features({"audio": List(Value("float32")), "label": CLASSES})
    sounds = Dataset.from_dict({"audio": [[0.1, 0.2]] * 6, "label": ROWS}, features=features)
    task, extractor = AudioClassification(), Wav2Vec2FeatureExtractor()
    batch = task.collator(extractor)([*task.encode(sounds, extractor)])
    assert batch["labels"].tolist() == MATRIX


def test_streams_of_several_labels(tmp_path):
    def labels(samples):
        return [row["labels"] for row in EncodedStream(samples, lambda text, label, _: {"labels": label})]

    texts = [[NAMES[label] for label in row] for row in ROWS]
    for feature, rows in ((CLASSES, ROWS), (List(Value("string")), texts)):
        data = split(rows, feature)
        folder = saved(tmp_path / str(len(str(feature))), train=data, validation=data, test=data)
        named = None if feature is CLASSES else NAMES
        streams = training_streams(TEXTS, folder, None, None, "emotions", None, class_names=named)
        assert labels(streams["train"]) == MATRIX and streams["train"].several
        held_out = held_out_streams(TEXTS, folder, None, None, ["emotions"], None)["validation"]
        if feature is CLASSES:
            matched = held_out.for_model(["joy", "fear", "grief", "anger"], sigmoid=True)
            assert labels(matched) == [[row[2], -100, row[1], row[0]] for row in MATRIX]
        with pytest.raises(ValueError, match="one softmax over its 3 classes"):
            held_out.for_model(NAMES)
    with pytest.raises(ValueError, match="Several columns of labels cannot be streamed"):
        training_streams(TEXTS, folder, None, None, ["emotions", "text"], None)
    vectors = split(MATRIX, List(Value("int64")))
    folder = saved(tmp_path / "vectors", train=vectors, test=vectors)
    with pytest.raises(ValueError, match="vectors of 0 and 1, which cannot be streamed"):
        training_streams(TEXTS, folder, None, None, "emotions", None, class_names=NAMES)


def test_streams_for_a_single_logit(tmp_path):
    data = split([0, 1, 1, 0], ClassLabel(names=["no", "yes"]))
    folder = saved(tmp_path, train=data, test=data)
    samples = training_streams(TEXTS, folder, None, None, "emotions", None)["train"].for_model(["yes"], sigmoid=True)
    rows = EncodedStream(samples, lambda text, label, _: {"labels": label})
    assert [row["labels"] for row in rows] == [[0.0], [1.0], [1.0], [0.0]]


def test_a_matrix_of_lists_with_what_is_not_known():
    assert label_matrix([], 2).shape == (0, 2) and label_matrix([[], [~0, 1, 1]], 2).tolist() == [[0, 0], [-100, 1]]
