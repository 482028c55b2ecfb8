# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Texts: data sets in every form, columns and labels, tokenizers, models of text, classes matched by name."""

import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from small_texts import SIZES, checkpoint, rows, sentences, write
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BloomConfig,
    DataCollatorWithPadding,
    GPT2Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from hf_focal import create_text_classifier, load_text_dataset
from hf_focal.tasks import TextClassification
from hf_focal.tasks.columns import match_labels
from hf_focal.tasks.splits import held_out_pair
from hf_focal.tasks.text import tokenize, train_tokenizer


# ---- Data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_folder_of_files_gives_three_splits_and_classes_in_sorted_order(tmp_path, kind):
    train = rows(60, ["pos", "neg", "none"])
    dataset = load_text_dataset(write(tmp_path, kind, train=train, test=rows(12, ["none", "neg"])), holdout=0.2)
    assert {split: len(data) for split, data in dataset.items()} == {"train": 48, "validation": 12, "test": 12}
    for data in dataset.values():
        assert data.column_names == ["text", "label"] and data.features["label"].names == ["neg", "none", "pos"]
    assert np.bincount(dataset["validation"]["label"][:]).tolist() == [4, 4, 4]
    names = dataset["test"].features["label"].int2str(dataset["test"]["label"][:])
    assert list(zip(dataset["test"]["text"], names, strict=True)) == list(
        zip(sentences(12), ["none", "neg"] * 6, strict=True)
    )


def test_whole_numbers_keep_their_order(tmp_path):
    dataset = load_text_dataset(write(tmp_path, train=rows(120, range(12)), test=rows(24, range(12))))
    assert dataset["train"].features["label"].names == [str(number) for number in range(12)]  # not 0, 1, 10, 11, 2
    assert dataset["test"]["label"][:] == list(range(12)) * 2


def test_a_saved_data_set_keeps_its_class_labels(tmp_path):
    features = Features({"review": Value("string"), "id": Value("string"), "stars": ClassLabel(names=["z", "a"])})
    columns = {"review": sentences(40), "id": ["x"] * 40, "stars": [0, 1] * 20}
    data = Dataset.from_dict(columns, features=features)
    DatasetDict(train=data, validation=data, test=data).save_to_disk(str(tmp_path / "data"))
    before = sorted((tmp_path / "data").rglob("*"))
    dataset = load_text_dataset(str(tmp_path / "data"))
    assert dataset["test"].features["label"].names == ["z", "a"] and dataset["test"]["text"][:] == columns["review"]
    tokenize(dataset["test"], train_tokenizer(columns["review"]))
    assert sorted((tmp_path / "data").rglob("*")) == before  # nothing of ours is left there


def test_sst_is_found_by_the_names_of_its_columns(test_data):
    dataset = load_text_dataset(str(test_data / "sst"), "binary")
    assert {split: len(data) for split, data in dataset.items()} == {"train": 6920, "validation": 872, "test": 1821}
    assert dataset["train"].features["label"].names == ["negative", "positive"]
    assert "(" not in dataset["train"]["text"][0][:1]  # not the trees


def test_newsgroups_have_a_validation_split_made(test_data):
    dataset = load_text_dataset(str(test_data / "twenty_newsgroups"))
    assert {split: len(data) for split, data in dataset.items()} == {"train": 10183, "validation": 1131, "test": 7532}
    assert len(dataset["train"].features["label"].names) == 20
    shares = [np.bincount(dataset[split]["label"][:]) / len(dataset[split]) for split in ("train", "validation")]
    assert np.abs(shares[0] - shares[1]).max() < 1e-3


@pytest.mark.parametrize(
    ("columns", "flags", "message"),
    [
        ({"review": ["x"] * 30}, {}, "texts.*everal could serve: text, review.*--text_column_name"),
        ({"category": ["x"] * 30}, {}, "labels.*everal could serve: label, category.*--label_column_name"),
        ({}, {"text_column": "body"}, "no column 'body'; its columns are text, label.*--text_column_name"),
        ({}, {"label_column": "class"}, "no column 'class'; its columns are text, label.*--label_column_name"),
        ({"n": list(range(30))}, {"text_column": "n"}, "column 'n' of the split 'train' must hold strings"),
        ({"text": ["x"] * 7 + [" \n"] + ["x"] * 22}, {}, "'train' has an empty text in row 7"),
        ({"text": ["x"] * 7 + [None] + ["x"] * 22}, {}, "'train' has a missing text in row 7"),
        ({"label": [1] * 9 + [-2] + [0] * 20}, {}, "'train' has the label -2 in row 9: an index .* as strings"),
        ({"label": ["a"] * 30}, {}, "at least two classes; every label is 'a'"),
        (
            {"label": [1.0] * 9 + [0.5] * 21},
            {},
            "class labels, whole numbers or strings, got values of type float .0.5 in row 9",
        ),
        (
            {"label": [[[0]], [[1]]] * 15},
            {},
            "'label' of the split 'train' must hold a label a row, or a list of labels, not .*--label_column",
        ),
    ],
)
def test_what_cannot_serve_is_one_clear_error(tmp_path, columns, flags, message):
    folder = write(tmp_path, "parquet", train=rows(30) | columns, test=rows(30) | columns)
    with pytest.raises(ValueError, match=message):
        load_text_dataset(folder, **flags)


def test_labels_that_no_training_sample_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no training sample has: 'Good'"):
        load_text_dataset(write(tmp_path, train=rows(30), test=rows(30, ["bad", "Good"])))


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_files_in_another_encoding_are_named_as_such(tmp_path, name):
    text = "text,label\ncafé,a\nx,b\n" if name.endswith("csv") else '{"text": "café", "label": "a"}\n'
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"A file of the data set '{tmp_path}' is not in UTF-8.*0xe9"):
        load_text_dataset(str(tmp_path))


# ---- Two parts to fit and to measure on -----------------------------------------------------------------------------


def parts(tmp_path, *names, split=None, test_split=None):
    folder = write(tmp_path, "parquet", **{name: rows(30) for name in names})
    return {
        name: len(data) for name, data in held_out_pair(TextClassification().load(folder), split, test_split).items()
    }


def test_validation_and_test_are_taken_where_they_are(tmp_path):
    assert parts(tmp_path, "train", "validation", "test") == {"validation": 30, "test": 30}
    assert parts(tmp_path, "train", "validation", "test", split="train", test_split="validation") == {
        "train": 30,
        "validation": 30,
    }


@pytest.mark.parametrize("names", [("train", "test"), ("test",), ("train", "validation"), ("train",)])
def test_a_lonely_split_is_halved_by_class_and_that_is_said(tmp_path, names, caplog):
    folder = write(tmp_path, "parquet", **{name: rows(30) for name in names})
    with caplog.at_level(logging.WARNING):
        halves = held_out_pair(TextClassification().load(folder))
    assert list(halves) == [f"half of {names[-1]}", f"other half of {names[-1]}"]
    assert f"{names[-1]!r} is halved, 15 samples to fit the temperature on and 15 to measure it on" in caplog.text
    assert ("was not trained on" in caplog.text) == (names == ("train",))
    texts = [list(zip(half["text"], half["label"], strict=True)) for half in halves.values()]
    data = TextClassification().load(folder)[names[-1]]
    assert sorted(texts[0] + texts[1]) == sorted(zip(data["text"], data["label"], strict=True))
    assert [sum(label for _, label in half) in (7, 8) for half in texts] == [True, True]


@pytest.mark.parametrize(
    ("names", "flags", "message"),
    [
        (("train", "test"), {"split": "validation"}, "no split 'validation'; it has train, test"),
        (("train", "test"), {"split": "test", "test_split": "dev"}, "no split 'dev'"),
        (("train", "test"), {"split": "test", "test_split": "test"}, "fitted and measured on the same split, 'test'"),
    ],
)
def test_splits_that_are_not_there_are_refused(tmp_path, names, flags, message):
    with pytest.raises(ValueError, match=message):
        parts(tmp_path, *names, **flags)


def test_training_data_are_not_chosen_among_several_splits(tmp_path):
    data = Dataset.from_dict(rows(30))
    DatasetDict(train=data, extra=data).save_to_disk(str(tmp_path))
    with pytest.raises(ValueError, match="no validation split; it has train, extra. Choose one with --split"):
        held_out_pair(TextClassification().load(str(tmp_path)))


# ---- Classes --------------------------------------------------------------------------------------------------------


def test_classes_are_matched_by_name_whatever_their_order_and_case():
    assert match_labels(["b", "c", "a"], ["a", "b", "c"]) == [1, 2, 0]
    assert match_labels(["negative", "very positive"], ["VERY_POSITIVE", "Negative"]) == [1, 0]
    assert match_labels(["A", "a"], ["a", "A"]) == [1, 0]  # exact names go first


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("0", "1")])
def test_classes_without_names_are_matched_in_order_and_that_is_said(names, caplog):
    assert match_labels(["neg", "pos"], names) == [0, 1] == match_labels(names, ["neg", "pos"])
    assert caplog.text.count("matched in order") == 2
    assert match_labels(["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"]) == [1, 0]


def test_classes_that_the_data_lack_are_no_error():
    assert match_labels(["c", "A"], ["a", "b", "c"]) == [2, 0]
    assert match_labels(["a", "other"], ["b", "a"], present={0}) == [1, -1]  # no sample is of the other
    assert match_labels(["0", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"]) == [0, 2]


@pytest.mark.parametrize(
    ("data_names", "model_names", "message"),
    [
        (["a", "d"], ["a", "b"], "does not know the classes 'd' of the data.*id2label"),
        (["Tabby cat", "dgo"], ["tabby_cat", "dog", "owl"], r"the classes 'dgo' \(the nearest is 'dog'\) of"),
        (["1", "2"], ["1 star", "2 stars"], "does not know the classes '1'"),
        (["0", "1"], ["a", "b", "c"], r"has 2 classes \(0, 1\); the model has 3 classes \(a, b, c\)"),  # which two?
        (["1", "2", "3"], ["a", "b", "c"], "does not know the classes"),  # counted from one?
        (["neg", "pos"], ["LABEL_0", "LABEL_1", "LABEL_2"], "does not know the classes"),
        (["0", "7"], ["LABEL_0", "LABEL_1"], "does not know the classes '0'"),
        (["US", "us"], ["us", "them"], "'US', 'us' of the data are one class of the model, 'us'"),
        (["us"], ["US", "Us"], "does not know the classes 'us'"),  # which of the two?
    ],
)
def test_classes_that_do_not_match_are_refused(data_names, model_names, message):
    with pytest.raises(ValueError, match=message):
        match_labels(data_names, model_names)


# ---- Tokenizers and models ------------------------------------------------------------------------------------------


def test_a_trained_tokenizer_spells_out_what_it_knows(tmp_path):
    tokenizer = train_tokenizer(sentences(50))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("A FINE joke, 7")["input_ids"])
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and "fine" in tokens and "[UNK]" in tokens
    assert tokenizer.decode(tokenizer("a fine film")["input_ids"], skip_special_tokens=True) == "a fine film"


def test_a_trained_tokenizer_frames_pairs_and_is_the_same_when_loaded(tmp_path):
    tokenizer = train_tokenizer(sentences(50))
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    pair = tokenizer("A fine film", "no plot")
    words = ["[CLS]", "a", "fine", "film", "[SEP]", "no", "plot", "[SEP]"]
    assert pair["input_ids"] == tokenizer.convert_tokens_to_ids(words)
    assert pair["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1, 1]
    tokenizer.model_max_length = 9
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert dict(again("A fine film", "no plot")) == dict(pair) and again.model_max_length == 9
    assert again.get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_that_framed_single_texts_alone_still_loads(tmp_path):
    """As those that small-bert was saved with before."""
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = [*names.values(), "a", "fine", "film"]
    backend = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    data = Dataset.from_dict({"text": ["A fine film", "film"], "label": [0, 1]})
    assert tokenize(data, tokenizer)["input_ids"][:] == [[2, 4, 5, 6, 3], [2, 6, 3]]


def test_long_texts_are_cut_and_counted_once(caplog):
    tokenizer = train_tokenizer(sentences(50))
    texts = ["a", "a fine film", "a fine film with no plot", "what a cast but no plot and no joke"]  # 3, 5, 8, 11
    data = Dataset.from_dict({"text": texts, "label": [0, 1, 0, 1]})
    tokenizer.model_max_length = 5
    encoded = tokenize(data, tokenizer)
    assert [len(tokens) for tokens in encoded["input_ids"]] == [3, 5, 5, 5]
    assert all(tokens[-1] == tokenizer.sep_token_id for tokens in encoded["input_ids"])
    assert encoded["labels"][:] == [0, 1, 0, 1]
    assert [record.message for record in caplog.records] == ["2 of 4 texts are longer than 5 tokens and are cut."]
    tokenizer.model_max_length = int(1e30)
    assert [len(tokens) for tokens in tokenize(data, tokenizer)["input_ids"]] == [3, 5, 8, 11]
    batch = DataCollatorWithPadding(tokenizer)([encoded[0], encoded[2]])
    assert batch["input_ids"].shape == (2, 5) and batch["attention_mask"].sum(1).tolist() == [3, 5]


@pytest.mark.parametrize("from_scratch", [True, False])
def test_a_checkpoint_becomes_a_classifier_of_our_labels(tmp_path, from_scratch):
    folder, _ = checkpoint(tmp_path, BertConfig(vocab_size=200, **SIZES, max_position_embeddings=16, num_labels=5))
    first, _ = create_text_classifier(folder, ["p", "q"], from_scratch=True)
    first.save_pretrained(folder)
    model, tokenizer = create_text_classifier(folder, ["x", "y", "z"], from_scratch=from_scratch)
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"} and model.classifier.out_features == 3
    same = torch.equal(model.bert.embeddings.word_embeddings.weight, first.bert.embeddings.word_embeddings.weight)
    assert same is not from_scratch
    assert tokenizer.model_max_length == 16
    assert create_text_classifier(folder, ["x", "y"], max_seq_length=9)[1].model_max_length == 9
    assert create_text_classifier(folder, ["x", "y"], max_seq_length=99)[1].model_max_length == 16
    with pytest.raises(ValueError, match="max_seq_length must be at least 1"):
        create_text_classifier(folder, ["x", "y"], max_seq_length=0)


def test_a_decoder_pads_with_its_end_of_text_without_changing_its_logits(tmp_path):
    config = GPT2Config(vocab_size=200, n_embd=8, n_layer=1, n_head=2, n_positions=12)
    folder, _ = checkpoint(tmp_path, config, pad_token=None, eos_token="[SEP]")
    torch.manual_seed(0)
    model, tokenizer = create_text_classifier(folder, ["x", "y", "z"], from_scratch=True)
    assert tokenizer.pad_token == "[SEP]" and model.config.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 12
    torch.nn.init.normal_(model.score.weight)
    tokens = [tokenizer(text, return_tensors="pt")["input_ids"][:, :-1] for text in ("a fine", "a fine film with no")]
    batch = tokenizer.pad({"input_ids": [row[0] for row in tokens]}, return_tensors="pt")
    with torch.no_grad():
        together = model.eval()(**batch).logits
        apart = torch.cat([model(input_ids=row).logits for row in tokens])
    assert (together - apart).abs().max() < 1e-6 and (apart[0] - apart[1]).abs().max() > 1e-3


def test_a_tokenizer_without_anything_to_pad_with_is_refused(tmp_path):
    config = GPT2Config(vocab_size=200, n_embd=8, n_layer=1, n_head=2, n_positions=12, eos_token_id=None)
    folder, _ = checkpoint(tmp_path, config, pad_token=None)
    with pytest.raises(ValueError, match="neither a padding token nor an end of text"):
        create_text_classifier(folder, ["x", "y"], from_scratch=True)


def test_roberta_takes_no_more_than_its_positions_after_the_padding(tmp_path):
    config = RobertaConfig(vocab_size=200, **SIZES, max_position_embeddings=12, pad_token_id=1)
    folder, _ = checkpoint(tmp_path, config)
    model, tokenizer = create_text_classifier(folder, ["x", "y"], from_scratch=True)
    assert tokenizer.model_max_length == 10
    longest = torch.full((1, tokenizer.model_max_length), 7)
    model(input_ids=longest)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 11), 7))


def test_a_model_of_any_length_leaves_texts_whole(tmp_path):
    folder, _ = checkpoint(tmp_path, BloomConfig(vocab_size=200, hidden_size=8, n_layer=1, n_head=2))
    _, tokenizer = create_text_classifier(folder, ["x", "y"], from_scratch=True)
    assert tokenizer.model_max_length > 1e29
