# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pairs of texts, as in NLI, paraphrase and reranking data: from their columns to calibrated probabilities."""

import json
import logging
import re
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from launching import blocks, launch, run_main
from safetensors.numpy import load_file
from scipy.special import softmax
from small_texts import SIZES, sentences, write
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, RobertaConfig

import hf_focal
from hf_focal import create_text_classifier, get_task, load_text_dataset
from hf_focal.tasks.encoded_stream import EncodedStream
from hf_focal.tasks.pairs import PAIR, check_pairs, pair_for, pair_of
from hf_focal.tasks.streaming import held_out_streams, load_streams
from hf_focal.tasks.text import train_tokenizer


pytestmark = pytest.mark.filterwarnings("ignore:The best temperature", "ignore:The temperature is fitted on")

TASK = get_task("text-classification")
NLI = ["entailment", "neutral", "contradiction"]


def pairs(count, names=("premise", "hypothesis"), seed=0, labels=NLI):
    first, second = sentences(count, seed), sentences(count, seed + 100)
    return {names[0]: first, names[1]: second, "label": [labels[i % len(labels)] for i in range(count)]}


def saved(folder, **splits):
    """A data set of class labels, of which -1 says that there is none."""
    splits = {split: dict(columns) for split, columns in splits.items()}
    texts = {name: Value("string") for columns in splits.values() for name in columns if name != "label"}
    features = Features({**texts, "label": ClassLabel(names=NLI)})
    DatasetDict({split: Dataset.from_dict(one, features=features) for split, one in splits.items()}).save_to_disk(
        folder
    )
    return str(folder)


def tokenizer():
    return train_tokenizer(sentences(50))


# ---- Columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("premise", "hypothesis", "idx"), ("premise", "hypothesis")),  # SNLI, MNLI
        (("question", "sentence", "idx"), ("question", "sentence")),  # QNLI: a sentence is otherwise a text
        (("question1", "question2", "idx"), ("question1", "question2")),  # QQP
        (("sentence2", "sentence1"), ("sentence1", "sentence2")),  # MRPC, RTE, PAWS
        (("sentence_A", "sentence_B"), ("sentence_A", "sentence_B")),  # SICK
        (("text1", "text2"), ("text1", "text2")),
        (("topic", "query", "passage", "article"), ("query", "passage")),
        (("text", "text_pair"), ("text", "text_pair")),
        (("text", "premise", "hypothesis"), ("text",)),  # as before
        (("choice1", "choice2", "text"), ("text",)),
        (("question", "topic", "review"), ("review",)),
    ],
)
def test_pairs_are_found_by_the_names_of_their_columns(columns, expected, caplog):
    caplog.set_level(logging.INFO)
    data = Dataset.from_dict({**{name: ["a", "b"] for name in columns}, "label": [0, 1]})
    found = TASK.columns(data, "test", TASK.wanted("data", None, None))
    assert tuple(found[column] for column in (TASK.input, PAIR) if column in found) == expected
    said = [record.getMessage() for record in caplog.records]
    if len(expected) == 2:
        (line,) = said
        pair = "Texts are pairs: {!r} with {!r}.".format(*expected)
        assert line == f"{pair} text_column (--text_column_name) alone takes single texts."
    elif "premise" in columns:
        assert said == [
            "Texts are single ones, not pairs ('premise' with 'hypothesis'): those need " + PAIR.argument + "."
        ]
    else:
        assert not said


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"text_column": "premise"}, ("premise", None)),
        ({"text_pair_column": "hypothesis"}, ("premise", "hypothesis")),
        ({"text_column": "hypothesis", "text_pair_column": "premise"}, ("hypothesis", "premise")),
        ({"text_column": "text", "text_pair_column": "premise"}, ("text", "premise")),
        ({"text_pair_column": "note", "text_column": "text_pair"}, ("text_pair", "note")),
        ({"text_pair_column": "text", "text_column": "text_pair"}, ("text_pair", "text")),
    ],
)
def test_columns_that_are_named_are_taken_as_they_are_named(tmp_path, flags, expected):
    rows = {**pairs(12), **{name: sentences(12, seed) for seed, name in enumerate(("text", "text_pair", "note"), 7)}}
    folder = saved(tmp_path, train=rows, test=rows)
    data = load_text_dataset(folder, **flags)["test"]
    first, second = expected
    assert data["text"][:] == rows[first]
    assert ("text_pair" in data.column_names) is (second is not None)
    if second is not None:
        assert data["text_pair"][:] == rows[second] and pair_of(data) == expected


def without(rows, name):
    return {key: value for key, value in rows.items() if key != name}


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({}, {"text_pair_column": "hypo"}, "no column 'hypo'; its .* Set text_pair_column .--text_pair_column_name."),
        (
            {},
            {"text_column": "premise", "text_pair_column": "premise"},
            "'premise' cannot hold both the texts and the s",
        ),
        (
            {},
            {"text_column": "premise", "text_pair_column": "label", "label_column": "label"},
            "'label' cannot hold both the labels and the second",
        ),
        ({"idx": range(12)}, {"text_column": "premise", "text_pair_column": "idx"}, "'idx' .*must hold strings"),
        (
            {"question": ["a"] * 12, "answer": ["b"] * 12},
            {},
            "Several could serve: 'premise' with .*, 'question' with",
        ),
        ({"hypothesis": ["b"] * 7 + [None] + ["b"] * 4}, {}, "missing text in row 7 .column 'hypothesis'"),
        ({"hypothesis": ["b"] * 7 + [" "] + ["b"] * 4}, {}, "an empty text in row 7 .column 'hypothesis'"),
        ({}, {"text_pair_column": "hypothesis", "trees": True}, "Trees come one a sample"),
    ],
)
def test_what_cannot_be_a_pair_is_one_clear_error(tmp_path, change, flags, message):
    rows = {**pairs(12), **change}
    rows = {**{key: list(value) for key, value in rows.items()}, "label": [NLI.index(one) for one in rows["label"]]}
    DatasetDict({split: Dataset.from_dict(rows) for split in ("train", "test")}).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_text_dataset(str(tmp_path), **flags)


def test_a_pair_that_is_found_is_loaded_with_both_columns(tmp_path):
    rows = {split: pairs(12, ("query", "passage"), seed) for seed, split in enumerate(("train", "test"))}
    data = load_text_dataset(write(tmp_path, "csv", **rows))["test"]
    assert data.column_names == ["text", "text_pair", "label"] and pair_of(data) == ("query", "passage")
    assert data["text"][:] == rows["test"]["query"] and data["text_pair"][:] == rows["test"]["passage"]


def test_splits_of_pairs_and_of_single_texts_do_not_mix(tmp_path):
    rows = pairs(12)
    write(tmp_path, "csv", train=rows, test={"premise": rows["premise"], "label": rows["label"]})
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", "csv", test={"sentence": rows["premise"], "label": rows["label"]}, train=rows)
    for stored in (tmp_path, tmp_path / "other"):
        splits = {split: Dataset.from_csv(str(stored / f"{split}.csv"), cache_dir=str(tmp_path / "cache"))
                  for split in ("train", "test")}  # fmt: skip
        DatasetDict(splits).save_to_disk(stored / "saved")
        for load in (load_text_dataset, lambda name: load_streams(TASK, name)):
            with pytest.raises(ValueError, match="'test' holds single texts .*, and others pairs .*premise"):
                load(str(stored / "saved"))
    assert load_text_dataset(str(tmp_path / "saved"), text_column="premise")["test"].column_names == ["text", "label"]


def test_other_tasks_and_embedded_data_have_no_second_texts(tmp_path):
    with pytest.raises(
        ValueError, match=r"text_pair_column .--text_pair_column_name. is for pairs of texts, .*of images"
    ):
        get_task("image-classification").load("digits", pair_column="text")
    with pytest.raises(
        ValueError, match="is for pairs of texts, and a sample of token-classification is one of words"
    ):
        get_task("token-classification").load_dataset("x", pair_column="text")
    for load in (TASK.load, TASK.load_dataset, lambda name, **wanted: held_out_streams(TASK, name, **wanted)):
        with pytest.raises(ValueError, match="the embedded scipy-docs has none. Leave it unset"):
            load("scipy-docs", pair_column="text")


def test_rows_without_a_label_as_snli_has_them_are_left_out_and_counted(tmp_path, caplog):
    rows = {**pairs(12), "label": [0, 1, 2, -1] * 3}
    folder = saved(tmp_path, train=rows, test=rows)
    data = load_text_dataset(folder)
    assert "Rows without a label (-1, or nothing) are left out: 3 of 12 of 'train', 3 of 12 of 'test'." in caplog.text
    assert data["test"]["text_pair"][:] == [text for row, text in enumerate(rows["hypothesis"]) if row % 4 != 3]
    streamed = list(EncodedStream(load_streams(TASK, folder)["test"], TASK.sample_encoder(tokenizer())))
    assert len(streamed) == 9 and "Rows without a label are left out: 3 of 12 of 'test'" in caplog.text


# ---- Inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", [True, False])
def test_inputs_are_those_of_the_tokenizer_on_two_texts_loaded_or_streamed(tmp_path, types):
    rows = pairs(12)
    folder = saved(tmp_path, train=rows, test=rows)
    plain = tokenizer()
    if not types:
        plain.model_input_names = ["input_ids", "attention_mask"]
    expected = [plain(*both) for both in zip(rows["premise"], rows["hypothesis"], strict=True)]
    found = TASK.encode(load_text_dataset(folder)["test"], plain)
    samples = load_streams(TASK, folder)["test"]
    streamed = list(EncodedStream(samples, TASK.sample_encoder(plain), seed=None))
    assert ("token_type_ids" in found.column_names) is types and pair_of(samples) == ("premise", "hypothesis")
    for row, one, other in zip(expected, found, streamed, strict=True):
        assert {**row, "labels": one["labels"]} == one == other
    if types:
        assert all(set(row["token_type_ids"]) == {0, 1} for row in found)


def test_the_longer_text_is_cut_first_and_cuts_are_counted(tmp_path, caplog):
    rows = {"premise": ["a fine film"] * 6, "hypothesis": ["a fine film with no plot and every joke a bore"] * 6,
            "label": NLI * 2}  # fmt: skip
    cut = tokenizer()
    cut.model_max_length = 10
    found = TASK.encode(load_text_dataset(saved(tmp_path, train=rows, test=rows))["test"], cut)
    assert "6 of 6 pairs are longer than 10 tokens and are cut." in caplog.text
    words = cut.convert_ids_to_tokens(found[0]["input_ids"])
    assert words == "[CLS] a fine film [SEP] a fine film with [SEP]".split()


def test_a_vocabulary_is_learned_from_both_texts(tmp_path):
    rows = {**pairs(12), "hypothesis": ["zebra"] * 12}
    data = load_text_dataset(saved(tmp_path, train=rows, test=rows))["train"]
    assert sorted(TASK.texts(data)) == sorted([*data["text"], *data["text_pair"]])


def test_a_missing_second_text_of_a_stream_is_named_when_it_is_met(tmp_path):
    rows = {**pairs(12), "hypothesis": ["b"] * 7 + [None] + ["b"] * 4}
    stream = EncodedStream(
        load_streams(TASK, saved(tmp_path, train=rows, test=rows))["test"], TASK.sample_encoder(tokenizer())
    )
    with pytest.raises(ValueError, match="sample 7 of 'test': the second text is missing"):
        list(stream)


def test_tokenizers_that_cannot_give_a_model_two_texts_are_refused_or_told_of(caplog):
    plain = tokenizer()
    sizes = {**SIZES, "vocab_size": 100}
    check_pairs(BertForSequenceClassification(BertConfig(**sizes)), plain)
    assert not caplog.records
    roberta = transformers.AutoModelForSequenceClassification.from_config(RobertaConfig(**sizes, type_vocab_size=1))
    with pytest.raises(IndexError):  # which says nothing to anybody
        roberta(**plain("a", "b", return_tensors="pt"))
    with pytest.raises(ValueError, match="marks the second text of a pair by the token type 1, and Roberta.* knows 1"):
        check_pairs(roberta, plain)
    plain.model_max_length = 4
    with pytest.raises(ValueError, match="cut to 4 tokens, but a pair of texts needs 5 tokens at least, 3 of them"):
        check_pairs(roberta, plain)
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer, pad_token="[PAD]")
    bare.backend_tokenizer.post_processor = None
    gpt2 = transformers.AutoModelForSequenceClassification.from_config(
        GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=2)
    )
    check_pairs(gpt2, bare)
    assert "puts nothing between the texts of a pair: the model cannot tell them apart" in caplog.text


# ---- From the command line ------------------------------------------------------------------------------------------


def run(monkeypatch, name, *flags):
    script = str(ROOT / "scripts" / name)
    monkeypatch.setattr(sys, "argv", [script, *map(str, flags), "--use_cpu", "true", "--disable_tqdm", "true"])
    run_main(script)


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    """A model of pairs that is right three times of four and far surer than that, and its data."""
    folder = tmp_path_factory.mktemp("pairs")
    plain = tokenizer()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(plain), **SIZES, initializer_range=0.5, max_position_embeddings=32)
    config.update({"id2label": dict(enumerate(NLI)), "label2id": {name: index for index, name in enumerate(NLI)}})
    model = BertForSequenceClassification(config).eval()
    model.classifier.weight.data.normal_(std=4)
    model.save_pretrained(folder / "model")
    plain.save_pretrained(folder / "model")
    splits = {}
    for seed, split in enumerate(("validation", "test")):
        rows = pairs(160, seed=seed)
        batch = plain(rows["premise"], rows["hypothesis"], padding=True, return_tensors="pt")
        with torch.no_grad():
            said = model(**batch).logits.argmax(-1).tolist()
        rows["label"] = [(label + (index % 4 == 0)) % 3 for index, label in enumerate(said)]
        splits[split] = rows
    return folder, saved(folder / "data", **splits), splits["test"], model


@pytest.fixture(scope="module")
def calibrated(sure):
    folder, data, _, _ = sure
    with pytest.MonkeyPatch.context() as patch:
        flags = ["--text_column_name", "premise", "--text_pair_column_name", "hypothesis"]
        run(patch, "calibrate.py", "--model_name_or_path", folder / "model", "--dataset_name", data,
            "--output_dir", folder / "out", *flags)  # fmt: skip
    return folder / "out"


def test_pairs_are_calibrated_and_pipelines_give_the_probabilities(sure, calibrated):
    _, _, rows, model = sure
    temperature = json.loads((calibrated / "all_results.json").read_text())["temperature"]
    assert temperature > 1.5
    plain = tokenizer()
    both = list(zip(rows["premise"], rows["hypothesis"], strict=True))
    with torch.no_grad():
        logits = np.vstack([model(**plain(*one, return_tensors="pt")).logits.numpy() for one in both])
        swapped = model(**plain(*both[0][::-1], return_tensors="pt")).logits.numpy()
    assert np.abs(swapped - logits[0]).max() > 0.1  # the order of the two tells
    assert np.abs(load_file(calibrated / "predictions.safetensors")["test_logits"] - logits).max() < 1e-4
    expected = softmax(logits.astype(np.float64) / temperature, axis=1)
    inputs = [{"text": first, "text_pair": second} for first, second in both]
    for make in (hf_focal.pipeline, transformers.pipeline):
        found = make("text-classification", model=str(calibrated), top_k=None)(inputs)
        scores = [[{one["label"]: one["score"] for one in row}[name] for name in NLI] for row in found]
        assert np.abs(np.array(scores) - expected).max() < 1e-5


def test_the_card_shows_a_pair_and_its_lines_run(calibrated, capsys):
    card = (calibrated / "README.md").read_text()
    assert "- **inputs**: pairs of texts, premise as text and hypothesis as text_pair" in card
    assert "pipeline_tag: text-classification" in card
    (lines,) = re.findall(r"```python\n(.*?)```", card.split("## Use")[1], flags=re.DOTALL)
    assert 'classifier({"text": "The premise.", "text_pair": "The hypothesis."})' in lines
    exec(compile(lines, "card", "exec"), {})
    printed = json.loads(capsys.readouterr().out.replace("'", '"'))
    assert printed["label"] in NLI and 1 / 3 <= printed["score"] <= 1


def test_columns_that_are_found_in_a_stream_give_the_same(sure, calibrated, monkeypatch):
    folder, data, _, _ = sure
    expected, out = load_file(calibrated / "predictions.safetensors"), folder / "stream"
    given = ["--model_name_or_path", folder / "model", "--dataset_name", data, "--output_dir", out]
    run(monkeypatch, "calibrate.py", *given, "--streaming", "true")
    found = load_file(out / "predictions.safetensors")
    assert found["test_labels"].tolist() == expected["test_labels"].tolist()
    assert np.abs(found["test_logits"] - expected["test_logits"]).max() < 1e-6
    assert "premise as text and hypothesis as text_pair" in (out / "README.md").read_text()


def pairs_that_are_easy(folder):
    """The second text alone tells the label."""
    generator = np.random.default_rng(0)
    rows = {}
    for split, count in (("train", 96), ("validation", 40), ("test", 40)):
        first, second = generator.choice(["fine", "bore"], (2, count))
        labels = ["good" if text == "fine" else "bad" for text in second]
        rows[split] = {"premise": list(first), "hypothesis": list(second), "label": labels}
    return write(folder, "csv", **rows)


QUICK = [
    "--num_train_epochs",
    "4",
    "--per_device_train_batch_size",
    "8",
    "--eval_strategy",
    "no",
    "--save_strategy",
    "no",
]


def test_a_classifier_of_pairs_is_trained_and_served(tmp_path, monkeypatch):
    (command,) = (block.split() for block in blocks("bash") if "--text_pair_column_name" in block)
    assert command[:3] == ["accelerate", "launch", "scripts/run_text.py"]
    words = {"path/to/pairs": pairs_that_are_easy(tmp_path), "path/to/bert": "small-bert", "2e-5": "0.01"}
    run(
        monkeypatch,
        "run_text.py",
        *(words.get(one, one) for one in command[3:]),
        *QUICK,
        "--output_dir",
        tmp_path / "out",
    )
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["test_after_accuracy"] > 0.95
    assert '"text_pair": "The hypothesis."' in (tmp_path / "out" / "README.md").read_text()
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "out"))
    assert classify({"text": "fine", "text_pair": "bore"})["label"] == "bad"
    assert classify({"text": "bore", "text_pair": "fine"})["label"] == "good"


@pytest.mark.slow
def test_a_classifier_of_pairs_is_trained_on_a_stream(tmp_path, sure, monkeypatch):
    flags = ["--dataset_name", pairs_that_are_easy(tmp_path), "--model_name_or_path", sure[0] / "model", *QUICK]
    stream = ["--streaming", "true", "--max_steps", "2", "--class_names", "bad", "good"]
    run(monkeypatch, "run_text.py", *flags, *stream, "--output_dir", tmp_path / "out")
    assert "premise as text and hypothesis as text_pair" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("calibrate.py", ["--text_pair_column_name", "x"], "no column 'x'"),
        ("calibrate.py", ["--text_column_name", "premise", "--text_pair_column_name", "premise"], "cannot hold both"),
        (
            "run_text.py",
            ["--model_name_or_path", "tree-lstm", "--text_pair_column_name", "premise"],
            "one tree a sample",
        ),
        (
            "run_text.py",
            ["--task", "ner", "--text_pair_column_name", "x"],
            "is for pairs of texts, and a sample of token",
        ),
        ("run_text.py", ["--dataset_name", "scipy-docs", "--text_pair_column_name", "x"], "scipy-docs has none"),
    ],
)
def test_a_wrong_flag_is_one_clear_error(sure, tmp_path, monkeypatch, script, flags, message):
    folder, data, _, _ = sure
    given = ["--dataset_name", data, "--output_dir", tmp_path / "no"]
    given += ["--model_name_or_path", folder / "model"] if script == "calibrate.py" else []
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, script, *given, *flags)


def test_networks_of_trees_take_no_pairs(tmp_path):
    model, trees = create_text_classifier("tree-lstm", NLI, texts=["(3 (2 It) (4 (2 is) (4 good)))"])
    data = load_text_dataset(saved(tmp_path, train=pairs(12), test=pairs(12)))["test"]
    for refused in (lambda: TASK.encode(data, trees), lambda: pair_for(model, trees, data)):
        with pytest.raises(ValueError, match="A network of trees reads one a sample, and these data hold pairs"):
            refused()


def test_models_of_images_take_no_second_texts(tmp_path, monkeypatch):
    config = transformers.ViTConfig(**SIZES, image_size=8, patch_size=4)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    flags = ["--model_name_or_path", tmp_path, "--dataset_name", "digits", "--output_dir", tmp_path / "out"]
    with pytest.raises(
        ValueError, match="is for pairs of texts, and a sample of image-classification is one of images"
    ):
        run(monkeypatch, "calibrate.py", *flags, "--text_pair_column_name", "text")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--streaming", "true"]])
def test_two_processes_measure_the_same_pairs(sure, calibrated, tmp_path, flags):
    folder, data, _, _ = sure
    given = [
        "--model_name_or_path",
        str(folder / "model"),
        "--dataset_name",
        data,
        "--output_dir",
        str(tmp_path / "out"),
    ]
    script = str(ROOT / "scripts" / "calibrate.py")
    launch(script, *given, "--per_device_eval_batch_size", "16", *flags, processes=2)
    found, expected = (load_file(one / "predictions.safetensors") for one in (tmp_path / "out", calibrated))
    order = [np.lexsort((*one["test_logits"].T, one["test_labels"])) for one in (found, expected)]
    assert np.abs(found["test_logits"][order[0]] - expected["test_logits"][order[1]]).max() < 1e-4
    assert found["test_labels"][order[0]].tolist() == expected["test_labels"][order[1]].tolist()
