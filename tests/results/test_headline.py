# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The first sentence of a run, against plain NumPy: what it names, what it claims, and what it must not claim."""

import re

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest

from hf_focal import Predictions, calibration_metrics, confidence_interval, fit_calibrator, make_report, noise_floor
from hf_focal.calibrators import Fit, TemperatureScaling
from hf_focal.metrics import Scored
from hf_focal.results.headline import changed_answers, headline, standing_of


SENTENCE = re.compile(
    r"where it says (?:more than )?([\d.]+)% it is right ([\d.]+)% of the time \(([\d.]+)% to ([\d.]+)%\)"
    r".* of ([\d,]+) test samples ([\d,]+) say "
)
OVERALL = re.compile(r"it says ([\d.]+)% on average and is right ([\d.]+)% of the time \(([\d.]+)% to ([\d.]+)%\)")


def drawn(count, classes=4, scale=2.0, over=1.0, seed=0):
    """Logits of a calibrated model, made `over` times as large, and labels."""
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(count, classes))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return over * logits, labels


def at(temperature, unchanged=False):
    values = {"nll": 1.0}
    after = values if unchanged else {"nll": 0.5}
    return Fit(TemperatureScaling(temperature), "nll", 1000, values, after, helped=not unchanged)


def told(logits, labels, fit, groups=None, **about):
    return make_report(Predictions(logits, labels, groups), fit, **about).headline


def check_numbers(sentence, logits, labels, temperature):
    """The share of right ones among as many samples as are named, those nearest to the confidence that is named."""
    said, right, low, high, total, count = (
        float(text.replace(",", "")) for text in SENTENCE.search(sentence).groups()
    )
    probabilities = softmax(logits / temperature, axis=1)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    nearest = np.argsort(np.abs(confidence - said / 100), kind="stable")[: int(count)]
    ends = binomtest(int(correct[nearest].sum()), int(count)).proportion_ci(0.9, "wilson")
    assert total == len(labels) and confidence[nearest].mean() == pytest.approx(said / 100, abs=0.005)
    rounding = 0.006 if "." not in sentence.split("right ")[1].split("%")[0] else 0.0006
    assert np.array([right, low, high]) / 100 == pytest.approx([correct[nearest].mean(), *ends], abs=rounding)
    return said


@pytest.mark.parametrize(
    ("count", "classes", "scale", "over", "temperature", "claim"),
    [
        (2000, 4, 2, 3, 3.0, "Calibrated: "),
        (2000, 2, 2, 0.5, 0.5, "Calibrated: "),
        (2000, 40, 3, 1, 1.0, "Calibrated: "),
        (2000, 4, 2, 3, 2.0, "Still over-confident: "),
        (2000, 4, 2, 3, 4.5, "Now under-confident: "),
        (2000, 4, 2, 0.3, 0.6, "Still under-confident: "),
        (2000, 2, 3, 4, 2.5, "Still over-confident: "),
        (2000, 4, 2, 1, 0.5, "Worse than before, over-confident: "),
        (2000, 4, 2, 1, 3.0, "Worse than before, under-confident: "),
        (2000, 4, 60, 8, 2.0, "Still over-confident: "),
    ],
)
def test_the_sentence_names_what_is_so(count, classes, scale, over, temperature, claim):
    logits, labels = drawn(count, classes, scale, over)
    sentence = told(logits, labels, at(temperature))
    assert sentence.startswith(claim) and "; no answer changed; of 2,000 test samples" in sentence
    check_numbers(sentence, logits, labels, temperature)


def test_the_confidence_that_is_named_depends_on_no_outcome_unless_something_is_amiss():
    logits, labels = drawn(2000)
    (one, other) = (SENTENCE.search(told(logits, some, at(1.0))) for some in (labels, drawn(2000)[1]))
    assert one.group(1) == other.group(1)
    confidence = softmax(logits, axis=1).max(axis=1)
    near = {said: int((np.abs(confidence - said) <= 0.05).sum()) for said in (0.5, 0.6, 0.7, 0.8, 0.9)}
    assert float(one.group(1)) / 100 == max(near, key=near.get) == 0.9
    assert not told(logits, (labels + 1) % 4, at(1.0)).startswith("Calibrated")


def test_what_was_left_alone_is_said_with_what_it_is():
    logits, labels = drawn(2000, seed=3)
    fit = fit_calibrator(*drawn(2000, seed=4))
    assert fit.unchanged
    sentence = told(logits, labels, fit)
    assert sentence.startswith("Left alone: calibrated as it is; where it says ") and "changed" not in sentence
    check_numbers(sentence, logits, labels, 1.0)
    over = told(3 * logits, labels, at(1.0, unchanged=True))
    assert over.startswith("Left alone: over-confident; where it says ")
    check_numbers(over, 3 * logits, labels, 1.0)


def test_few_samples_promise_nothing():
    for count in (1, 2, 5, 20, 60):
        logits, labels = drawn(count)
        labels = labels if count > 2 else logits.argmax(axis=1)
        sentence = told(logits, labels, at(1.0))
        assert sentence.startswith("Too little data to tell: "), sentence
        if 2 < count < 60:
            said, right, low, high = map(float, OVERALL.search(sentence).groups())
            ends = binomtest(round(right / 100 * count), count).proportion_ci(0.9, "wilson")
            assert said / 100 == pytest.approx(softmax(logits / 1.0, axis=1).max(axis=1).mean(), abs=0.005)
            assert [low / 100, high / 100] == pytest.approx(list(ends), abs=0.006)
    assert told(*drawn(1), at(1.0)) == "Too little data to tell: measured on 1 test sample."
    assert told(*drawn(1), at(1.0, unchanged=True)).startswith("Left alone: too little data to tell; measured on 1 ")
    # A model that is never wrong tells as little: nothing says how often it would be.
    sure, right = np.tile([12.0, 0.0], (300, 1)), np.zeros(300, int)
    assert told(sure, right, at(1.0)).startswith("Too little data to tell: where it says more than 99.9% it ")


@pytest.mark.parametrize(("wrong", "claim"), [(35, "Calibrated"), (300, "Still over-confident")])
def test_one_confidence_for_all_is_named(wrong, claim):
    logits = np.tile(np.log([0.99, 0.01]), (3000, 1))
    labels = (np.arange(3000) < wrong).astype(int)
    sentence = told(logits, labels, at(1.0))
    assert sentence.startswith(f"{claim}: where it says 99% it is right {100 - wrong / 30:.1f}% of the time (")
    assert sentence.endswith("; no answer changed; of 3,000 test samples 3,000 say about 99%.")
    # 83% is near no round one.
    logits = np.tile(np.log([0.83, 0.17]), (3000, 1))
    sentence = told(logits, (np.arange(3000) < 510).astype(int), at(1.0))
    assert (
        sentence.startswith("Calibrated: it says 83% on average and is right 83") and "measured on 3,000" in sentence
    )


def test_noise_is_not_called_over_confident_and_what_is_above_it_not_calibrated():
    claims, above = [], 0
    about = {"left_alone": False, "changed": 0.0, "worse": False, "data": "test samples"}
    for seed in range(60):
        logits, labels = drawn((150, 400, 1500)[seed % 3], 3 + seed % 5, 2.5, seed=seed)
        probabilities, scored = softmax(logits, axis=1), Scored.from_logits(logits, labels)
        interval, floor = confidence_interval("ece", probabilities, labels), noise_floor("ece", probabilities)
        error = calibration_metrics(probabilities, labels)["ece"]
        standing = standing_of(scored, {"ece": interval}, {"ece": floor}, error, None, 0.9)
        sentence = headline(standing, standing, **about)
        assert not (error > floor.high and sentence.startswith("Calibrated"))
        assert error > floor.high or "confident" not in sentence
        claims.append(sentence.partition(":")[0])
        above += error > floor.high
    assert above <= 8 and claims.count("Calibrated") >= 30  # 5% of 60, and some


def test_answers_that_change_are_counted():
    logits, labels = drawn(3000, 6, seed=5)
    shift = np.array([2.0, 0, 0, 0, 0, 0])
    fit = fit_calibrator(logits + shift, labels, "vector")
    other = drawn(2000, 6, seed=6)
    sentence = told(other[0] + shift, other[1], fit)
    share = np.mean((other[0] + shift).argmax(axis=1) != fit.probabilities(other[0] + shift).argmax(axis=1))
    assert 0.05 < share and f"; {100 * share:.0f}% of answers changed; " in sentence
    assert changed_answers(other[0] + shift, fit.calibrator) == share
    # Logits that a division by T makes equal change nothing.
    close = np.array([[1.0, np.nextafter(1.0, 2.0)], [np.nextafter(1.0, 2.0), 1.0]])
    assert changed_answers(close, TemperatureScaling(7.0)) == 0
    assert changed_answers(np.array([[-np.inf, 1.0, 0.0]]), TemperatureScaling(2.0)) == 0


def test_tokens_are_counted_as_tokens_and_their_intervals_are_of_sentences():
    generator = np.random.default_rng(0)
    logits = np.repeat(np.log([[0.8, 0.2]]), 4000, axis=0)
    hits = np.repeat(generator.random(400) < 0.8, 10)  # the ten of a sentence are right or wrong together
    labels, groups = 1 - hits.astype(int), np.repeat(np.arange(400), 10)
    sentence = told(logits, labels, at(1.0), groups, unit="tokens", group="sentence")
    low, high = confidence_interval("accuracy", softmax(logits, axis=1), labels, groups=groups)
    assert f"it is right {hits.mean():.0%} of the time ({low:.0%} to {high:.0%})" in sentence
    assert sentence.endswith("of 4,000 test tokens 4,000 say about 80%.")
    assert high - low > 2.5 * np.subtract(*confidence_interval("accuracy", softmax(logits, axis=1), labels)[::-1])


def test_data_of_the_fit_are_called_so():
    logits, labels = drawn(2000, over=3)
    fit = fit_calibrator(logits, labels, "temperature")
    made = make_report(Predictions(logits, labels, split="validation"), fit)
    assert "of the 2,000 validation samples that it was fitted on " in made.headline
    assert "fitted on" not in told(*drawn(2000, over=3, seed=1), fit)
