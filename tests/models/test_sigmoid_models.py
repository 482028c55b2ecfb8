# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Classifiers made for several labels a sample, and with a single logit."""

import pytest
import torch
from small_texts import SIZES, sentences
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from hf_focal import create_image_classifier, create_text_classifier
from hf_focal.tasks.text import train_tokenizer


SIGMOID = "multi_label_classification"
FOR_BOTH = pytest.mark.parametrize("names", [["anger", "grief", "joy"], ["yes"]])


def told(config):
    return config.problem_type, [config.id2label[index] for index in range(config.num_labels)]


@FOR_BOTH
def test_a_timm_network_is_saved_with_what_it_tells(tmp_path, names):
    model, _ = create_image_classifier("test_vit", names, from_scratch=True, image_size=32, sigmoid=True)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert told(loaded.config) == told(model.config) == (SIGMOID, names)
    assert loaded(torch.zeros(2, 3, 32, 32)).logits.shape == (2, len(names))


@FOR_BOTH
@pytest.mark.parametrize("network", ["small-bert", "global-pooling-cnn"])
def test_a_network_for_the_texts_at_hand_has_the_loss_of_its_head(tmp_path, network, names):
    model, tokenizer = create_text_classifier(network, names, texts=sentences(20), sigmoid=True)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert told(loaded.config) == (SIGMOID, names)
    labels = torch.tensor([[1.0, 0.0, 1.0][: len(names)]])
    output = loaded(**tokenizer("a fine film", return_tensors="pt"), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("from_scratch", [False, True])
@pytest.mark.parametrize(
    ("num_labels", "problem_type"),
    [(2, "single_label_classification"), (1, "regression"), (1, SIGMOID), (3, SIGMOID), (2, None)],
)
def test_the_head_of_a_checkpoint_becomes_that_of_the_data(tmp_path, caplog, num_labels, problem_type, from_scratch):
    config = BertConfig(vocab_size=100, **SIZES, num_labels=num_labels, problem_type=problem_type)
    stored = BertForSequenceClassification(config)
    stored.save_pretrained(tmp_path)
    train_tokenizer(sentences(50)).save_pretrained(tmp_path)
    for names, sigmoid in ((["yes"], True), (["a", "b", "c"], True), (["no", "yes"], False)):
        caplog.clear()
        model, _ = create_text_classifier(str(tmp_path), names, sigmoid=sigmoid, from_scratch=from_scratch)
        assert told(model.config) == (SIGMOID if sigmoid else None, names)
        assert model.classifier.weight.shape[0] == len(names)
        kept = not from_scratch and len(names) == num_labels
        assert torch.equal(model.classifier.weight, stored.classifier.weight) == kept
        replaced = not sigmoid and num_labels == 1 and not from_scratch
        assert ("single logit, and one of two classes takes its place" in caplog.text) == replaced
