# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Token classification: data sets of words, their tokens, and `scripts/run_text.py --task token-classification`."""

import json
import re
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, load_dataset
from huggingface_hub import ModelCard
from launching import blocks, launch, run_main
from safetensors.numpy import load_file
from scipy.special import softmax
from small_texts import SIZES, sentences, write
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForTokenClassification,
    ByT5Tokenizer,
    DataCollatorForTokenClassification,
    GPT2Config,
    GPT2Tokenizer,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
    T5Config,
)

import hf_focal
from hf_focal import (
    CalibrationTrainer,
    CalibrationTrainingArguments,
    calibration_metrics_from_logits,
    confidence_interval,
    create_text_classifier,
    load_token_dataset,
    parse_tree,
    tokenize_words,
)
from hf_focal.metrics import METRICS
from hf_focal.tasks.text import train_tokenizer


pytestmark = [
    pytest.mark.filterwarnings("ignore:The best temperature"),  # of models that hardly learn anything in an epoch
    # PEFT reads a property of transformers by its earlier name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]

SCRIPT = str(ROOT / "scripts" / "run_text.py")
TAGS = ["O", "B-PER", "I-PER"]


def rows(count, tags=TAGS, seed=0, **columns):
    words = [sentence.split() for sentence in sentences(count, seed)]
    labels = [[tags[(len(word) + place) % len(tags)] for place, word in enumerate(row)] for row in words]
    return {"tokens": words, "ner_tags": labels, **columns}


# ---- Data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_labels_that_are_strings_become_classes_in_sorted_order(tmp_path, kind):
    columns = rows(60, lemmas=rows(60)["tokens"])
    dataset = load_token_dataset(write(tmp_path, kind, train=columns, test=rows(12, seed=1)), holdout=0.2)
    assert {split: len(data) for split, data in dataset.items()} == {"train": 48, "validation": 12, "test": 12}
    for data in dataset.values():
        assert data.features == Features(
            {"words": List(Value("string")), "labels": List(ClassLabel(names=sorted(TAGS)))}
        )
    names = dataset["test"].features["labels"].feature.names
    expected = rows(12, seed=1)
    assert dataset["test"]["words"][:] == expected["tokens"]
    assert [[names[label] for label in row] for row in dataset["test"]["labels"]] == expected["ner_tags"]
    held_out = [*dataset["train"]["words"], *dataset["validation"]["words"]]
    assert sorted(held_out) == sorted(columns["tokens"])


def test_whole_numbers_keep_their_order(tmp_path):
    dataset = load_token_dataset(write(tmp_path, "json", train=rows(120, range(12)), test=rows(60, range(12))))
    assert dataset["train"].features["labels"].feature.names == [str(number) for number in range(12)]
    assert dataset["test"]["labels"][:] == rows(60, range(12))["ner_tags"]


def test_one_of_several_columns_of_class_labels_is_chosen(tmp_path):
    """As CoNLL-2003 has them."""
    numbers = [[TAGS.index(tag) for tag in row] for row in rows(40)["ner_tags"]]
    columns = {"id": list(map(str, range(40))), "tokens": rows(40)["tokens"], "pos_tags": numbers, "ner_tags": numbers}
    features = {
        "id": Value("string"),
        "tokens": List(Value("string")),
        "pos_tags": List(ClassLabel(names=["a", "b", "c"])),
    }
    features["ner_tags"] = List(ClassLabel(names=TAGS))
    data = Dataset.from_dict(columns, features=Features(features))
    DatasetDict(train=data, validation=data, test=data).save_to_disk(str(tmp_path))
    with pytest.raises(
        ValueError, match="everal could serve: pos_tags, ner_tags. Set label_column .--label_column_name"
    ):
        load_token_dataset(str(tmp_path))
    dataset = load_token_dataset(str(tmp_path), label_column="ner_tags")
    assert dataset["train"].features["labels"].feature.names == TAGS and dataset["test"]["labels"][:] == numbers


def replaced(key, row, value):
    """Thirty sentences, with another value in one row."""
    columns = rows(30)
    cell = columns[key][row]
    columns[key][row] = {"nothing": [None] * len(cell), "partly": [cell[0], None, *cell[2:]]}.get(str(value), value)
    return columns


@pytest.mark.parametrize(
    ("columns", "flags", "message"),
    [
        ({"words": rows(30)["tokens"]}, {}, "words.*everal could serve: tokens, words.*words_column .--text_column"),
        ({"tags": rows(30)["ner_tags"]}, {}, "tags.*everal could serve: ner_tags, tags.*label_column .--label_column"),
        ({}, {"words_column": "body"}, "no column 'body'; its columns are tokens, ner_tags.*--text_column_name"),
        ({}, {"label_column": "class"}, "no column 'class'; its columns are tokens, ner_tags.*--label_column_name"),
        ({}, {"label_column": "tokens", "words_column": "tokens"}, "'tokens' cannot hold both the words and"),
        ({"text": ["x"] * 30}, {"words_column": "text"}, "'text' of the split 'train' must hold lists of strings"),
        ({"tag": [1] * 30}, {"label_column": "tag"}, "'tag' of the split 'train' must hold lists of labels"),
        ({"tag": [[["O"]]] * 30}, {"label_column": "tag"}, "'tag' of the split 'train' must hold lists of labels"),
        (replaced("ner_tags", 7, ["O"] * 99), {}, r"'train' has \d words but 99 labels in row 7: \w.* Every word"),
        (replaced("ner_tags", 7, []), {}, r"'train' has \d words but 0 labels in row 7"),
        (replaced("tokens", 7, []), {}, "'train' has an empty sentence in row 7"),
        (replaced("tokens", 7, None), {}, "'train' has an empty sentence in row 7"),
        (replaced("tokens", 7, "nothing"), {}, "'train' has None for a word in row 7, word 0"),
        (replaced("ner_tags", 9, "partly"), {}, "'train' has no label in row 9, word 1"),
        (rows(30, [-1, 0]), {}, r"'train' has no label in row 0, word 1 .index -1"),
        (rows(30, ["O"]), {}, "at least two classes; every label is 'O'"),
        (rows(30, [0.5, 1.5]), {"label_column": "ner_tags"}, "whole numbers or strings, got values of type float"),
    ],
)  # fmt: skip
def test_what_cannot_serve_is_one_clear_error(tmp_path, columns, flags, message):
    folder = write(tmp_path, "parquet", train=rows(30) | columns, test=rows(30) | columns)
    with pytest.raises(ValueError, match=message):
        load_token_dataset(folder, **flags)


def test_labels_that_no_training_word_has_are_refused(tmp_path):
    folder = write(tmp_path, "json", train=rows(30), test=rows(30, [*TAGS, "B-LOC"]))
    with pytest.raises(ValueError, match="no training sample has: 'B-LOC'"):
        load_token_dataset(folder)
    with pytest.raises(ValueError, match="holdout must lie"):
        load_token_dataset(folder, holdout=1)


# ---- Tokens ---------------------------------------------------------------------------------------------------------


def word_data(words, labels=None):
    features = Features({"words": List(Value("string")), "labels": List(ClassLabel(names=list("abcdefghijkl")))})
    labels = labels or [list(range(len(row))) for row in words]
    return Dataset.from_dict({"words": words, "labels": labels}, features=features)


def plain_labels(tokenizer, words, limit=10**9):
    """Each word cut by itself: its label, then -100 for its other pieces; [CLS] and [SEP] around all."""
    labels = []
    for label, word in enumerate(words):
        pieces = tokenizer.tokenize(word)
        labels += [label, *[-100] * (len(pieces) - 1)] if pieces else []
    return [-100, *labels[: limit - 2], -100]


def test_the_first_token_of_each_word_has_its_label(caplog):
    tokenizer = train_tokenizer(sentences(50))
    words = [["a", "filmcast", "with", "no-plot!x"], ["Fine"], ["joke", "\u200b", "bore"]]  # the second is nothing
    encoded = tokenize_words(word_data(words), tokenizer)
    assert encoded["labels"][:] == [plain_labels(tokenizer, row) for row in words]
    assert max(map(len, encoded["labels"])) > 8 and encoded["labels"][2] == [-100, 0, 2, -100]
    assert encoded["input_ids"][:] == [tokenizer(" ".join(row))["input_ids"] for row in words]
    assert encoded.column_names == ["labels", *tokenizer(["a"])]
    assert caplog.messages == ["1 of 8 words have no token, so that their labels do not count."]


def test_long_sentences_are_cut_and_their_lost_words_counted(caplog):
    tokenizer = train_tokenizer(sentences(50))
    tokenizer.model_max_length = 6
    words = [
        ["a", "fine", "film", "with"],
        ["a", "fine", "film", "with", "no", "plot"],
        ["a", "film-plot-cast", "bore"],
    ]
    encoded = tokenize_words(word_data(words), tokenizer)
    assert encoded["labels"][:] == [plain_labels(tokenizer, row, limit=6) for row in words]
    assert [len(row) for row in encoded["input_ids"]] == [6, 6, 6]
    lost = 13 - sum(label != -100 for row in encoded["labels"] for label in row)
    assert lost == 3 and caplog.messages == [
        "2 of 3 sentences are longer than 6 tokens and are cut.",
        "3 of 13 words have no token, so that their labels do not count.",
    ]
    tokenizer.model_max_length = 2
    with pytest.raises(ValueError, match="No word of the sentence in row 0 has a token .'a fine film with'"):
        tokenize_words(word_data(words), tokenizer)


def byte_level(kind):
    """A tokenizer of bytes, as those of GPT-2, RoBERTa and of models without a class of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(50), trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    if kind is PreTrainedTokenizerFast:
        return kind(tokenizer_object=tokenizer, **names)
    model = json.loads(tokenizer.to_str())["model"]
    return kind(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], **names)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (GPT2Tokenizer, GPT2Config(vocab_size=400, n_embd=8, n_layer=1, n_head=2, n_positions=64)),
        (RobertaTokenizer, RobertaConfig(vocab_size=400, **SIZES)),
        (PreTrainedTokenizerFast, ModernBertConfig(vocab_size=400, **SIZES, pad_token_id=1)),
    ],
)
def test_a_tokenizer_of_bytes_sees_the_words_as_in_running_text(tmp_path, kind, config, caplog):
    byte_level(kind).save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    arguments = {"from_scratch": True, "task": "token-classification"}
    model, tokenizer = create_text_classifier(str(tmp_path), ["x", "y"], **arguments)
    assert type(model).__name__.endswith("ForTokenClassification")
    words = ["film", "fine", "film's", "plot"]
    encoded = tokenize_words(word_data([words]), tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved")
    config.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    text = again(" ".join(words))["input_ids"]
    assert encoded["input_ids"][0] == text == again(words, is_split_into_words=True)["input_ids"]
    pieces = again.convert_ids_to_tokens(text)
    starts = [piece.startswith("Ġ") for piece in pieces]
    assert [label != -100 for label in encoded["labels"][0]] == starts and sum(starts) == 4
    assert not caplog.records


def test_a_tokenizer_that_needs_running_text_is_told(tmp_path, caplog):
    """As those of Llama 3 and Qwen, whose bytes come after another step."""
    tokenizer = byte_level(PreTrainedTokenizerFast)
    parts = [pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.save_pretrained(tmp_path)
    ModernBertConfig(vocab_size=400, **SIZES, pad_token_id=1).save_pretrained(tmp_path)
    create_text_classifier(str(tmp_path), ["x", "y"], from_scratch=True, task="token-classification")
    assert "is_split_into_words=True" in caplog.text


def test_a_tokenizer_that_cannot_tell_words_is_refused(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    T5Config(vocab_size=400, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="which tokens are of which word.*ByT5Tokenizer.*fast tokenizer"):
        create_text_classifier(str(tmp_path), ["x", "y"], from_scratch=True, task="token-classification")
    with pytest.raises(ValueError, match="task must be one of text-classification, token-class.*got 'fill-mask'"):
        create_text_classifier(str(tmp_path), ["x", "y"], task="fill-mask")


# ---- The script on sentences of the Stanford Sentiment Treebank, whose words have labels from 0 to 4 ----------------


@pytest.fixture(scope="module")
def treebank(test_data, tmp_path_factory):
    """A folder of JSON lines, and a BERT without dropout."""
    folder = tmp_path_factory.mktemp("treebank")
    for split, count in {"train": 300, "validation": 120, "test": 120}.items():
        trees = load_dataset(str(test_data / "sst"), "fine", split=split)["tree"][:count]
        with (folder / f"{split}.jsonl").open("w") as file:
            for tree in map(parse_tree, trees):
                leaves = [node for node, word in enumerate(tree.words) if word is not None]
                row = {"words": [tree.words[node] for node in leaves], "tags": [tree.labels[node] for node in leaves]}
                file.write(json.dumps(row) + "\n")
    bert = folder.parent / "bert"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    tokenizer = train_tokenizer(" ".join(words) for words in load_token_dataset(str(folder))["train"]["words"])
    tokenizer.save_pretrained(bert)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), **sizes, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    BertForTokenClassification(config).save_pretrained(bert)
    return folder, bert


def flags(folder, *more):
    common = "--task token-classification --use_cpu true --save_strategy no --disable_tqdm true --learning_rate 5e-3"
    return [*common.split(), "--dataset_name", str(folder), *more]


def train(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [SCRIPT, *arguments])
        run_main(SCRIPT)


MEASURED = ["--num_train_epochs", "2", "--track_dynamics", "--dynamics_gradient_epochs", "2"]
MEASURED += ["--stopping_criteria", "nll", "--per_device_eval_batch_size", "16"]


@pytest.fixture(scope="module")
def run(treebank, tmp_path_factory):
    folder, bert = treebank
    out = tmp_path_factory.mktemp("run")
    train(*flags(folder, *MEASURED, "--model_name_or_path", str(bert), "--output_dir", str(out)),
          "--per_device_train_batch_size", "20")  # fmt: skip
    return out, load_file(out / "predictions.safetensors"), json.loads((out / "all_results.json").read_text())


def probabilities(arrays, temperature):
    return softmax(arrays["test_logits"].astype(np.float64) / temperature, axis=1)


def test_results_are_those_of_the_stored_logits_of_tokens(run, treebank):
    _, arrays, results = run
    test = load_token_dataset(str(treebank[0]))["test"]
    assert arrays["test_labels"].tolist() == [label for row in test["labels"] for label in row]
    assert arrays["test_sentences"].tolist() == [index for index, row in enumerate(test["labels"]) for _ in row]
    for temperature, moment in ((1, "before"), (results["temperature"], "after")):
        logits = arrays["test_logits"], arrays["test_labels"]
        metrics = calibration_metrics_from_logits(*logits, temperature=temperature)
        for key in METRICS:
            assert results[f"test_{moment}_{key}"] == pytest.approx(metrics[key], abs=1e-12)
    assert results["test_after_nll"] < results["test_before_nll"]
    assert results["test_after_accuracy"] > 0.8 and results["loss"] == "flsd-53"


@pytest.mark.parametrize("make", [transformers.pipeline, hf_focal.pipeline])
def test_pipelines_give_the_probabilities_that_were_measured(run, treebank, make):
    folder, arrays, results = run
    config = json.loads((folder / "config.json").read_text())
    assert config["calibration"]["folded"] and config["architectures"] == ["BertForTokenClassification"]
    words = load_token_dataset(str(treebank[0]))["test"]["words"][:]
    classifier = make("token-classification", model=str(folder))
    expected = probabilities(arrays, results["temperature"])
    found = classifier([" ".join(row) for row in words], ignore_labels=[])
    for index, row in enumerate(words):
        word_ids = classifier.tokenizer(row, is_split_into_words=True).word_ids()
        scores = {token["index"]: (token["score"], token["entity"]) for token in found[index]}
        firsts = [scores[word_ids.index(word)] for word in range(len(row))]
        of_sentence = expected[arrays["test_sentences"] == index]
        assert [score for score, _ in firsts] == pytest.approx(of_sentence.max(axis=1), abs=1e-5)
        assert [int(name) for _, name in firsts] == of_sentence.argmax(axis=1).tolist()


def test_intervals_are_of_sentences_and_the_card_counts_tokens(run):
    folder, arrays, results = run
    card = ModelCard.load(folder / "README.md")
    labels, sentences_of = arrays["test_labels"], arrays["test_sentences"]
    values = {result.metric_name: result.metric_args for result in card.data.eval_results}
    for moment, temperature in (("before", 1), ("after", results["temperature"])):
        arguments = "nll", probabilities(arrays, temperature), labels
        interval = confidence_interval(*arguments, groups=sentences_of)
        assert values[f"NLL {moment} temperature"]["interval"] == pytest.approx(interval, abs=1e-9)
        assert interval != pytest.approx(confidence_interval(*arguments), abs=1e-6)
    n_validation = len(arrays["validation_labels"])
    assert f"({len(labels)} tokens)" in card.text and f"on {n_validation} tokens of the split" in card.text
    assert "intervals, of whole sentences. True value" in card.text and "samples" not in card.text
    assert 'aggregation_strategy="first"' in card.text and card.data.pipeline_tag == "token-classification"


def test_the_snippet_of_the_card_runs(run, monkeypatch, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", (run[0] / "README.md").read_text(), flags=re.DOTALL)
    exec(snippet, {})
    assert "'entity_group'" in capsys.readouterr().out


def test_a_card_without_a_report_has_intervals_of_sentences_too(run, treebank, tmp_path):
    model, tokenizer = (auto.from_pretrained(str(run[0])) for auto in (AutoModelForTokenClassification, AutoTokenizer))
    validation = tokenize_words(load_token_dataset(str(treebank[0]))["validation"], tokenizer)
    args = CalibrationTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none")
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = CalibrationTrainer(model=model, args=args, data_collator=collator, processing_class=tokenizer)
    fit = trainer.calibrate(validation, criterion="nll")
    trainer.create_model_card()
    found = {r.metric_name: r.metric_args for r in ModelCard.load(tmp_path / "README.md").data.eval_results}
    arrays = run[1]
    scaled = softmax(arrays["validation_logits"].astype(np.float64) / fit.temperature, axis=1)
    groups = arrays["validation_sentences"]
    interval = confidence_interval("brier", scaled, arrays["validation_labels"], groups=groups)
    assert found["Brier after temperature"]["interval"] == pytest.approx(interval, abs=1e-5)


def test_what_was_measured_on_the_way_is_of_tokens(run):
    folder, arrays, results = run
    table = [row for row in pq.read_table(folder / "training_dynamics.parquet").to_pylist() if row["split"] == "test"]
    assert [row["epoch"] for row in table] == [0, 1, 2]
    last = table[-1]
    assert last["n_samples"] == len(arrays["test_labels"]) == len(last["gradient_norms"])
    assert last["nll"] == pytest.approx(results["test_before_nll"], abs=1e-5)
    assert last["ece"] == pytest.approx(results["test_before_ece"], abs=1e-5)
    kept = results["stopping_criteria"]["last"]
    assert kept["test_before_nll"] == pytest.approx(results["test_before_nll"], abs=1e-9)


def test_two_processes_give_the_results_of_one(run, treebank, tmp_path):
    folder, bert = treebank
    two = tmp_path / "two"
    result = launch(SCRIPT, *flags(folder, *MEASURED, "--model_name_or_path", str(bert), "--output_dir", str(two)),
                    "--per_device_train_batch_size", "10", processes=2)  # fmt: skip
    assert "in 2 process(es)" in result.stdout and result.stdout.count("Saved to") == 1
    assert "\ntest tokens " in result.stdout and "90% intervals, by sentence." in " ".join(result.stdout.split())
    arrays, results = load_file(two / "predictions.safetensors"), json.loads((two / "all_results.json").read_text())
    for key, value in run[1].items():
        assert value.shape == arrays[key].shape and np.abs(value - arrays[key]).max() < 1e-3, key
    for key in METRICS:
        assert results[f"test_before_{key}"] == pytest.approx(run[2][f"test_before_{key}"], abs=1e-3)
    tables = [pq.read_table(out / "training_dynamics.parquet").to_pylist() for out in (run[0], two)]
    for row, other in zip(*tables, strict=True):
        for key, value in row.items():
            assert other[key] == (value if value is None or isinstance(value, str) else pytest.approx(value, abs=1e-3))


# ---- Other ways to train --------------------------------------------------------------------------------------------


@pytest.fixture
def words_folder(tmp_path):
    return write(tmp_path, "json", train=rows(60), validation=rows(60, seed=1), test=rows(30, seed=2))


def test_a_small_bert_learns_its_tokens_from_the_words(words_folder, tmp_path):
    """The label is told by the length of the word and its place."""
    train(*flags(words_folder, "--num_train_epochs", "12", "--per_device_train_batch_size", "8", "--loss", "focal",
                 "--no_fold_temperature", "--output_dir", str(tmp_path / "out")))  # fmt: skip
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["test_after_accuracy"] > 0.6 and results["model"] == "small-bert"
    arrays = load_file(tmp_path / "out" / "predictions.safetensors")
    expected = probabilities(arrays, results["temperature"])[arrays["test_sentences"] == 0].max(axis=1)
    text = " ".join(rows(30, seed=2)["tokens"][0])
    for make, temperature in ((hf_focal.pipeline, results["temperature"]), (transformers.pipeline, 1)):
        found = make("token-classification", model=str(tmp_path / "out"))(text, ignore_labels=[])
        expected = probabilities(arrays, temperature)[arrays["test_sentences"] == 0].max(axis=1)
        firsts = [token["score"] for token in found if not token["word"].startswith("##")]
        assert firsts == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("how", [["--lora", "--lora_rank", "2"], ["--freeze_all_but_last", "0"]])
def test_adapters_and_frozen_layers(words_folder, treebank, tmp_path, how):
    _, bert = treebank
    train(*flags(words_folder, "--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--model_name_or_path",
                 str(bert), *how, "--learning_rate", "0.05", "--output_dir", str(tmp_path / "out")))  # fmt: skip
    before, after = load_file(bert / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert after["classifier.weight"].shape == (3, 32) and not (tmp_path / "out" / "adapter_config.json").exists()
    changed = {key for key in before if "classifier" not in key and not np.array_equal(before[key], after[key])}
    if "--lora" not in how:
        assert not changed
        return
    assert len(changed) == 2 * 6  # the matrices of two layers
    for key in changed:
        assert key.endswith(".weight") and 1 <= np.linalg.matrix_rank(after[key] - before[key], tol=1e-5) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset_name", "scipy-docs"], "no embedded sentences.*--dataset_name"),
        (["--task", "fill-mask"], "--task must be one of text-classification, token-class.*, got 'fill-mask'"),
        (["--text_column_name", "body"], "no column 'body'; its columns are tokens, ner_tags"),
    ],
)
def test_a_wrong_flag_is_one_clear_error(words_folder, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(*flags(words_folder, "--output_dir", str(tmp_path / "out"), *arguments))
    assert not (tmp_path / "out").exists()


def test_the_command_of_the_readme_runs(words_folder, treebank, tmp_path):
    (command,) = (block.split() for block in blocks("bash") if "token-classification" in block)
    assert command[:3] == ["accelerate", "launch", "scripts/run_text.py"]
    paths = {"path/to/sentences": words_folder, "path/to/bert": str(treebank[1])}
    more = ["--num_train_epochs", "1", "--use_cpu", "true", "--output_dir", str(tmp_path / "out")]
    train(*[paths.get(word, word) for word in command[3:]], *more)
    assert (tmp_path / "out" / "model.safetensors").is_file()
