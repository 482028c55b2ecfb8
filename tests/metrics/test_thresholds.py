# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Thresholds of each label: by F1 against scikit-learn, and by a precision whose promise is kept."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import binom
from sklearn.metrics import f1_score, precision_recall_curve

from hf_focal import Thresholds, choose_threshold, choose_thresholds
from hf_focal.metrics.promise import promise_of
from hf_focal.metrics.thresholds import thresholds_of


def drawn(seed, count, means=(-5.0, -2.0, 0.0), deviation=3.0):
    generator = np.random.default_rng(seed)
    said = expit(np.array(means) + deviation * generator.normal(size=(count, len(means))))
    return said, (generator.random(said.shape) < said).astype(int)


def test_the_f1_of_each_label_is_the_highest_that_scikit_learn_finds():
    said, labels = drawn(0, 500)
    said = said.round(2)  # with ties
    found = thresholds_of(said, labels)
    for column, threshold in enumerate(found.values):
        precision, recall, _ = precision_recall_curve(labels[:, column], said[:, column])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
        ours = f1_score(labels[:, column], said[:, column] >= threshold)
        assert ours == pytest.approx(best, abs=1e-12) == found.observed[column]
        assert found.kept[column] == (said[:, column] >= threshold).mean()
    assert choose_thresholds(said, labels) == list(found.values)
    assert np.array_equal(found.said(said), said >= np.array(found.values))


def test_of_equal_f1_the_label_is_said_least_often():
    assert choose_thresholds([[0.9], [0.8], [0.7], [0.1]], [[1], [0], [1], [0]]) == [0.7]
    # 0.9 alone: F1 2/3; down to 0.6: 2 * 2 / (4 + 2), the same.
    assert choose_thresholds([[0.9], [0.8], [0.7], [0.6], [0.1]], [[1], [0], [0], [1], [0]]) == [0.9]


def test_where_there_is_no_label_there_is_no_threshold():
    said, labels = drawn(1, 200)
    labels[:, 0] = 0
    found = thresholds_of(said, labels)
    assert found.values[0] is None and found.observed[0] is None and found.kept[0] == 0
    assert not found.said(said)[:, 0].any()
    assert found.words(["a", "b", "c"]).endswith("No sample has a.")
    assert choose_thresholds(said, labels, precision=0.9)[0] is None
    unknown = labels.astype(float)
    unknown[:, 1] = np.nan
    assert choose_thresholds(said, unknown)[1] is None
    assert choose_thresholds(said, unknown, precision=0.5)[1] is None


def test_unknown_labels_are_left_out():
    said, labels = drawn(2, 400)
    hidden = np.random.default_rng(0).random(labels.shape) < 0.3
    for options in ({}, {"precision": 0.7}):
        found = choose_thresholds(said, np.where(hidden, -100, labels), **options)
        for column, threshold in enumerate(found):
            kept = ~hidden[:, column]
            assert [threshold] == choose_thresholds(said[kept, column], labels[kept, column], **options)
        assert found == choose_thresholds(torch.tensor(said), np.where(hidden, np.nan, labels).tolist(), **options)


def test_a_label_that_is_always_there_is_promised_as_answers_are():
    """Where all samples may be expected to be right, the tests are those of the confidences of answers."""
    generator = np.random.default_rng(3)
    confidences = 1 - 0.02 * generator.random(2000)
    right = generator.random(2000) < 0.97 - 0.3 * (confidences < 0.985)
    answers = np.stack([confidences, 1 - confidences], axis=1)
    expected = choose_threshold(answers, np.where(right, 0, 1), accuracy=0.9)
    assert expected is not None
    assert choose_thresholds(confidences, right, precision=0.9) == [pytest.approx(expected, rel=1e-3)]


@pytest.mark.parametrize(("mean", "precision"), [(-9.0, 0.6), (-5.0, 0.9)])  # labels of 2%, and of 12%, of samples
def test_the_promise_is_kept_for_rare_labels(mean, precision):
    """Of all data sets that could be drawn at most a tenth lead to a threshold that breaks it."""
    fresh, _ = drawn(10_000, 200_000, (mean,), 4.0)
    ordered = np.sort(fresh[:, 0])[::-1]
    means = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)  # the true precision down to each probability
    broken = found = as_for_answers = 0
    for seed in range(200):
        said, labels = drawn(seed, 1500, (mean,), 4.0)
        (threshold,) = choose_thresholds(said, labels, precision=precision)
        found += threshold is not None
        as_for_answers += promise_of(said[:, 0], labels[:, 0] == 1, precision).threshold is not None
        if threshold is not None:
            broken += means[np.searchsorted(-ordered, -threshold, side="right") - 1] < precision
    assert broken <= binom.ppf(0.999, 200, 0.1)
    assert found > 100 and as_for_answers == 0


def test_the_precision_that_was_promised_is_that_observed_and_more():
    said, labels = drawn(4, 3000, (-2.0, -1.0, 0.0))
    found = thresholds_of(said, labels, 0.8)
    for column, threshold in enumerate(found.values):
        kept = said[:, column] >= threshold
        assert found.observed[column] == labels[kept, column].mean() > 0.8
        assert found.kept[column] == kept.mean()
    stricter = choose_thresholds(said, labels, precision=0.8, level=0.95)
    assert all(one >= other for one, other in zip(stricter, found.values, strict=True))


def test_records_are_json_and_come_back():
    said, labels = drawn(5, 800, (0.0, -2.0, 0.0))
    labels[:, 1] = 0
    for precision in (None, 0.9):
        found = thresholds_of(said, labels, precision)
        record = json.loads(json.dumps(found.to_record()))
        assert Thresholds.from_record(record) == found
        assert record["metric"] == ("f1" if precision is None else "precision") and len(record["values"]) == 3
        assert ("precision" in record) == (precision is not None)
        for name, bad in (("values", "no"), ("values", [2.0] * 3), ("metric", "f2"), ("kept", [None] * 3),
                          ("observed", []), ("values", [[]]), ("n_samples", None)):  # fmt: skip
            assert Thresholds.from_record({**record, name: bad}) is None
    for bad in (None, 3, {}, [], {"metric": "precision"}):
        assert Thresholds.from_record(bad) is None
    words = found.words(["joy", "grief", "fear"])
    assert "right at least 90% of the time that it is said, with 90% certainty" in words and "joy 0." in words
    assert "Nothing can be promised by 800 samples of grief." in words and "label 0" in found.words()


def test_what_cannot_be_is_refused():
    said, labels = drawn(6, 50)
    for wrong in (said * 3 - 1, np.where(said > 0.5, np.nan, said)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            choose_thresholds(wrong, labels)
    with pytest.raises(ValueError, match="must have shape"):
        choose_thresholds(said[None], labels)
    with pytest.raises(ValueError, match="labels must hold 0 or 1 for each of the 3 outputs"):
        choose_thresholds(said, labels[:, 0])
    with pytest.raises(ValueError, match="must be 0 or 1, or -100.*got 2"):
        choose_thresholds(said, 2 * labels)
    with pytest.raises(ValueError, match="For 90% give 0.9"):
        choose_thresholds(said, labels, precision=90)
    with pytest.raises(ValueError, match="level must be"):
        choose_thresholds(said, labels, precision=0.9, level=1.0)
