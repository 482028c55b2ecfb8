# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A threshold with a promise: against its definition worked out with SciPy, and how often the promise is kept."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from hf_focal import choose_threshold, confident_predictions, fit_calibrator
from hf_focal.calibrators.base import calibrator_class
from hf_focal.calibrators.held_out import draw_folds
from hf_focal.calibrators.threshold import promise_after
from hf_focal.metrics.promise import Promise, exact_interval, promise_of, shown
from hf_focal.metrics.scored import Scored, ScoredLogits


def of_two(confidences, right):
    """Probabilities of two classes with these confidences, and labels that say which are right."""
    confidences = np.asarray(confidences, float)
    return np.stack([confidences, 1 - confidences], axis=1), np.where(right, 0, 1)


def draw(seed, count=2000, classes=10, deviation=6.0):
    """Calibrated probabilities, and labels drawn from them."""
    generator = np.random.default_rng(seed)
    logits = deviation * generator.normal(size=(count, classes))
    return softmax(logits, axis=1), (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


@cache
def passes(count, errors, accuracy, error):
    return binomtest(count - errors, count, accuracy, alternative="greater").pvalue <= error


@cache
def smallest(errors, count, accuracy, error):
    """The smallest number of samples that may have so many errors."""
    return next((n for n in range(errors + 1, count + 1) if passes(n, errors, accuracy, error)), math.inf)


def by_definition(confidences, right, accuracy, level):
    """The threshold, by the rule that the docstring of `choose_threshold` tells, one number after the other."""
    count, error, allowed = len(right), 1 - level, [0]
    while allowed[-1] <= count:
        allowed.append(max(allowed[-1] + 1, math.ceil(1.03 * allowed[-1])))
    steps = sorted({size for one in allowed if (size := smallest(one, count, accuracy, error)) <= count} | {count})
    if smallest(0, count, accuracy, error) > count:
        return None
    start = min(0.15 * count, 300 + 5 * smallest(0, count, accuracy, error))
    best = None
    for step in steps:
        if step < start:
            continue
        threshold = sorted(confidences, reverse=True)[step - 1]
        kept = [ok for one, ok in zip(confidences, right, strict=True) if one >= threshold]  # ties whole
        if not passes(len(kept), len(kept) - sum(kept), accuracy, error):
            break
        best = threshold
    return best


@pytest.mark.parametrize("accuracy", [0.6, 0.8, 0.9, 0.95])
@pytest.mark.parametrize(("count", "decimals"), [(20, 3), (60, 1), (120, 6)])
def test_the_threshold_is_that_of_the_definition(count, decimals, accuracy):
    found = set()
    for seed in range(9):
        generator = np.random.default_rng([seed, count])
        confidences = np.round(0.5 + 0.5 * generator.beta(2, 0.5, count), decimals)
        right = generator.random(count) < np.minimum(confidences + 0.03, 1)
        level = (0.75, 0.9, 0.99)[seed % 3]
        expected = by_definition(confidences.tolist(), right.tolist(), accuracy, level)
        assert choose_threshold(*of_two(confidences, right), accuracy=accuracy, level=level) == expected
        found.add(expected)
    assert len(found) > 1 or accuracy == 0.95 and count == 20  # of which 20 are too few


def test_the_least_number_of_samples_is_that_of_the_exact_test():
    right = np.ones(45, bool)  # 0.95^45 = 0.0994, 0.95^44 = 0.105
    assert choose_threshold(*of_two(np.full(45, 0.7), right), accuracy=0.95) == 0.7
    assert choose_threshold(*of_two(np.full(44, 0.7), right[1:]), accuracy=0.95) is None
    assert choose_threshold(*of_two(np.full(45, 0.7), right), accuracy=0.95, level=0.91) is None
    assert choose_threshold(*of_two([0.9], [True]), accuracy=0.5, level=0.5) == 0.9


def test_where_all_may_be_kept_it_is_the_lowest_confidence():
    probabilities, _ = draw(0, 300)
    threshold = choose_threshold(probabilities, probabilities.argmax(axis=1), accuracy=0.9)
    assert threshold == probabilities.max(axis=1).min()
    assert choose_threshold(probabilities, probabilities.argmin(axis=1), accuracy=0.9) is None


def test_samples_of_equal_confidence_stay_together_in_whatever_order_they_come():
    confidences = np.repeat([0.99, 0.8, 0.6], [300, 300, 300])
    right = np.ones(900, bool)
    right[570:] = False  # of the second 270 are right, of the third none
    probabilities, labels = of_two(confidences, right)
    assert choose_threshold(probabilities, labels, accuracy=0.9) == 0.8
    right[540:] = False
    assert choose_threshold(*of_two(confidences, right), accuracy=0.92) == 0.99  # 300 and 540 of 600
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(900)
        assert choose_threshold(probabilities[order], labels[order], accuracy=0.9) == 0.8


def test_only_the_order_of_confidences_counts():
    probabilities, labels = draw(1, 800)
    confidences, right = Scored(probabilities, labels).pairs
    threshold = choose_threshold(probabilities, labels, accuracy=0.9)
    squeezed = choose_threshold(*of_two(0.5 + confidences / 3, right), accuracy=0.9)
    assert 0.5 + threshold / 3 == pytest.approx(squeezed)


def test_tensors_half_precision_and_masked_rows_are_read_as_elsewhere():
    probabilities, labels = draw(2)
    threshold = choose_threshold(probabilities, labels, accuracy=0.9)
    assert type(threshold) is float and 0 < threshold < 1
    assert choose_threshold(torch.tensor(probabilities), torch.tensor(labels), accuracy=0.9) == threshold
    single = probabilities.astype(np.float32)
    kept = single.max(axis=1) >= choose_threshold(single, labels, accuracy=0.9)
    assert np.array_equal(kept, probabilities.max(axis=1) >= threshold)
    assert choose_threshold(probabilities.astype(np.float16), labels, accuracy=0.9) == pytest.approx(
        threshold, abs=2e-3
    )
    more = np.ma.masked_array(np.append(labels, [0] * 500), np.arange(2500) >= 2000)
    hidden = np.concatenate([probabilities, np.full((500, 10), 0.1)])
    assert choose_threshold(hidden, more, accuracy=0.9) == threshold
    shut = np.concatenate([probabilities, np.zeros((2000, 1))], axis=1)  # a class that is masked
    assert choose_threshold(shut, labels, accuracy=0.9) == threshold
    assert confident_predictions(probabilities, labels, threshold).accuracy > 0.9  # it is one that others take


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accuracy": 0}, "accuracy must be a number between 0 and 1"),
        ({"accuracy": 1.0}, "neither of them, got 1.0."),
        ({"accuracy": 95}, "got 95. For 95% give 0.95."),
        ({"accuracy": math.nan}, "got nan"),
        ({"accuracy": None}, "got None"),
        ({"accuracy": True}, "got True"),
        ({"accuracy": 0.9, "level": 0.1}, "level must be a number of at least 0.5 and below 1, got 0.1."),
        ({"accuracy": 0.9, "level": 1}, "got 1. It is how certain"),
        ({"accuracy": 0.9, "level": "90%"}, "got '90%'"),
    ],
)
def test_what_cannot_be_promised_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        choose_threshold([[0.9, 0.1]], [0], **options)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="at least one sample"):
        choose_threshold(np.empty((0, 3)), [], accuracy=0.9)
    with pytest.raises(TypeError):
        choose_threshold([[0.9, 0.1]], [0])  # what is wanted has no default


# ---- What it promises -----------------------------------------------------------------------------------------------


def plain_bound(confidences, right, accuracy):
    """The lowest threshold that passes the test, of all that there are."""
    order = np.argsort(-confidences)
    errors = np.cumsum(~right[order])
    kept = [n for n in range(20, len(order) + 1, 3) if passes(n, int(errors[n - 1]), accuracy, 0.1)]
    return confidences[order][kept[-1] - 1] if kept else None


def test_the_promise_is_kept_where_a_bound_at_every_threshold_is_not():
    broken, plain = 0, 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        confidences, right = generator.random(200), generator.random(200) < 0.899  # whatever is kept, it is too little
        broken += promise_of(confidences, right, 0.9).threshold is not None
        plain += seed < 40 and plain_bound(confidences, right, 0.9) is not None
    assert 0.02 < broken / 300 <= 0.1 + 2 * (0.1 * 0.9 / 300) ** 0.5 and plain / 40 > 0.2


def test_it_keeps_most_of_what_an_oracle_keeps():
    probabilities, labels = draw(0, 200_000)
    confidences = np.sort(probabilities.max(axis=1))[::-1]
    above = np.cumsum(confidences) / np.arange(1, len(confidences) + 1)  # they are calibrated
    for accuracy in (0.8, 0.9, 0.95):
        oracle = np.flatnonzero(above >= accuracy)[-1] + 1
        shares, broken = [], 0
        for part in range(100):
            rows = slice(2000 * part, 2000 * part + 2000)
            threshold = choose_threshold(probabilities[rows], labels[rows], accuracy=accuracy)
            count = int(np.searchsorted(-confidences, -threshold, side="right"))
            shares.append(count / oracle)
            broken += above[count - 1] < accuracy
        assert np.mean(shares) > 0.85 and broken <= 16  # of 100, by chance


def test_the_exact_interval_is_that_of_scipy():
    for right, count in ((0, 5), (5, 5), (1, 1), (95, 100), (1, 3000)):
        expected = binomtest(right, count).proportion_ci(0.9, "exact")
        assert exact_interval(right, count, 0.9) == pytest.approx(tuple(expected), abs=1e-9)


# ---- After a calibrator that was fitted to the same data ------------------------------------------------------------


def test_what_many_numbers_were_fitted_to_is_not_asked_how_good_they_are():
    generator = np.random.default_rng(0)
    true = 2.5 * generator.normal(size=(400, 10))
    logits, labels = 2 * true, (true + generator.gumbel(size=true.shape)).argmax(axis=1)
    fit = fit_calibrator(logits, labels, "matrix", guard=False)
    confidences, right = np.empty(400), np.empty(400, bool)
    for seen, rest in draw_folds(400, 5, 1):
        assert not set(seen) & set(rest) and len(seen) + len(rest) == 400
        one = calibrator_class("matrix").fit(logits[seen], labels[seen], criterion="nll", n_bins=15)
        probabilities = one.probabilities(logits[rest])
        confidences[rest], right[rest] = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels[rest]
    expected = promise_of(confidences, right, 0.8)
    found = promise_after(fit, logits, labels, 0.8)
    assert found.threshold == pytest.approx(expected.threshold, rel=1e-12)
    assert (found.kept, found.observed) == (expected.kept, expected.observed)
    seen = promise_of(*ScoredLogits(logits, labels, fit.calibrator).pairs, 0.8)
    assert seen.kept > expected.kept + 0.05  # too good to be true
    scaled = fit_calibrator(logits, labels, "temperature", guard=False)
    expected = choose_threshold(softmax(logits / scaled.temperature, axis=1), labels, accuracy=0.6)
    assert promise_after(scaled, logits, labels, 0.6).threshold == pytest.approx(expected, rel=1e-14)


def test_of_parts_that_depend_on_one_another_nothing_is_promised():
    probabilities, labels = draw(3)
    fit = fit_calibrator(np.log(probabilities), labels, "temperature")
    promise = promise_after(fit, log_softmax(np.log(probabilities), axis=1), labels, 0.9, group="sentence")
    assert (
        promise.threshold is None and "the parts of a sentence are not right or wrong independently" in promise.words()
    )


# ---- Its words, and its record --------------------------------------------------------------------------------------


def test_its_record_holds_all_of_it_and_what_is_none_is_left_alone():
    for promise in (promise_of(*Scored(*draw(0)).pairs, 0.95), promise_of(*Scored(*draw(0, 20)).pairs, 0.95)):
        record = json.loads(json.dumps(promise.to_record()))
        assert Promise.from_record(record) == promise and record["confidence"] == promise.threshold
    for wrong in ({"accuracy": 2}, {"kept": "much"}, {"confidence": math.nan}, {"observed": []}, {"level": 10**400}):
        assert Promise.from_record({**record, **wrong}) is None
    assert Promise.from_record(None) is None and Promise.from_record(0.5) is None and Promise.from_record({}) is None


def test_words_say_what_is_promised_and_what_it_keeps():
    promise = Promise(0.83211, 0.95, 0.9, 0.81, 0.97, 2000)
    start = "Answers with a confidence of at least 0.8322 (81.0% of them) are right at least 95% of the time, "
    assert promise.words() == start + "with 90% certainty."
    probabilities, labels = of_two([0.9] * 40 + [0.6] * 10, [True] * 39 + [False] * 11)
    kept = promise.on(Scored(probabilities, labels))
    assert (kept.count, kept.share, kept.accuracy) == (40, 0.8, 39 / 40)
    low, high = binomtest(39, 40).proportion_ci(0.9, "exact")
    ends = f"(90% interval {low:.1%} to {high:.1%})"
    assert promise.words(kept, "test") == (
        f"{start}with 90% certainty; on test it keeps 80.0%, and 97.5% of these {ends} are right."
    )
    none = promise.on(Scored(*of_two([0.7], [True])))
    assert (none.count, none.accuracy) == (0, None) and "on test no answer has it" in promise.words(none, "test")
    assert Promise(0.3, 0.9, 0.9, 1.0, 0.95, 9).words().startswith("All answers are right at least 90% of the time")
    words = Promise(None, 0.99, 0.9, 0.0, None, 50).words()
    assert words.startswith("No confidence is known from which on answers are right at least 99%")
    assert "the 50 samples are too few" in words


def test_a_threshold_is_never_shown_lower_than_it_is():
    for threshold in (0.5, 0.83211, 0.99, 0.99991, 0.9999999, 1 - 1e-15, 1.0, 1 / 3):
        digits = float(shown(threshold))
        assert threshold <= digits <= min(1, threshold + 1e-4) and (digits < 1 or threshold > 1 - 1e-14)
    assert shown(0.83) == "0.8301" or float(shown(0.83)) == 0.83
