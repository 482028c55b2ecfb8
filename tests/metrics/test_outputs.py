# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Metrics of sigmoid heads, of several labels a sample or of one logit: by label, with noise, by sample."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.metrics import brier_score_loss, f1_score, log_loss
from torchmetrics.classification import BinaryCalibrationError

import hf_focal
from hf_focal import (
    METRICS,
    SIGMOID_METRICS,
    BatchMetrics,
    ScoredOutputs,
    accuracy,
    bin_statistics,
    brier_score,
    calibration_metrics,
    calibration_metrics_from_logits,
    calibration_p_value,
    compute_metrics,
    confidence_interval,
    multilabel_calibration_metrics,
    negative_log_likelihood,
    noise_floor,
    paired_bootstrap,
    register_metric,
)
from hf_focal.metrics import accumulator, metrics_of, scored_logits
from hf_focal.metrics.chance import Law, group_numbers
from hf_focal.metrics.comparison import compare_scored
from hf_focal.metrics.intervals import interval_of
from hf_focal.metrics.noise import appraise


KEYS = ["accuracy", "nll", "brier", "ece", "adaptive_ece", "f1_micro", "f1_macro"]


def draw(n=400, labels=5, seed=0, sharpness=1.6, common=0.0, base=0.0):
    """Logits of labels of different frequency, and outcomes of a sample that resemble each other by `common`."""
    generator = np.random.default_rng(seed)
    logits = base + np.linspace(-3, 0.5, labels) + 1.5 * generator.normal(size=(n, labels))
    own, shared = generator.logistic(size=(n, labels)), generator.logistic(size=(n, 1))
    return sharpness * logits, (logits + np.where(generator.random((n, 1)) < common, shared, own) > 0).astype(int)


def with_gaps(labels, share=0.2, seed=1):
    hidden = np.random.default_rng(seed).random(labels.shape) < share
    return np.where(hidden, -100, labels)


def plain_ece(said, came, n_bins=15):
    total = 0.0
    for index in range(n_bins):
        inside = [(p, y) for p, y in zip(said, came, strict=True) if index / n_bins < p <= (index + 1) / n_bins]
        total += abs(sum(p for p, _ in inside) - sum(y for _, y in inside))
    return total / len(said)


def plain_adaptive(said, came, n_bins=15):
    order = np.argsort(said, kind="stable")
    parts = np.array_split(order, n_bins)
    return sum(abs(said[part].sum() - came[part].sum()) for part in parts) / len(said)


def known(logits, labels):
    """Of each label the probabilities and outcomes that are known."""
    return [
        (expit(column[truth != -100]), truth[truth != -100]) for column, truth in zip(logits.T, labels.T, strict=True)
    ]


# ---- Values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("labels", [1, 5])
def test_values_are_those_of_plain_loops_and_of_scikit_learn(labels, missing):
    logits, truth = draw(labels=labels)
    truth = with_gaps(truth) if missing else truth
    found = calibration_metrics(expit(logits), truth)
    assert list(found) == KEYS
    ones, sizes = known(logits, truth), (truth != -100).sum(axis=0)
    for key, plain in (("ece", plain_ece), ("adaptive_ece", plain_adaptive)):
        expected = np.average([plain(*one) for one in ones], weights=sizes)
        assert found[key] == pytest.approx(expected, abs=1e-12)
    said, came = (np.concatenate(values) for values in zip(*ones, strict=True))
    assert found["brier"] == pytest.approx(brier_score_loss(came, said), abs=1e-12)
    assert found["nll"] == pytest.approx(log_loss(came, said), abs=1e-12)
    assert found["accuracy"] == pytest.approx(np.mean((said > 0.5) == came), abs=1e-12)
    assert found["f1_micro"] == pytest.approx(f1_score(came, said > 0.5), abs=1e-12)
    each = [f1_score(y, p > 0.5, zero_division=0) for p, y in ones]
    assert found["f1_macro"] == pytest.approx(np.mean(each), abs=1e-12)
    of_logits = hf_focal.metrics.base.measure(scored_logits(logits, truth))
    assert of_logits == pytest.approx(found, abs=1e-12)


def test_f1_is_that_of_scikit_learn_where_a_label_is_never_right_nor_named():
    said, truth = np.array([[0.9, 0.1, 0.8], [0.2, 0.3, 0.6]]), np.array([[1, 0, 0], [1, 0, 1]])
    found = calibration_metrics(said, truth)
    for average in ("micro", "macro"):
        assert found[f"f1_{average}"] == f1_score(truth, said > 0.5, average=average, zero_division=0)


def test_the_ece_of_a_label_is_that_of_torchmetrics():
    logits, truth = draw(n=2000)
    found = multilabel_calibration_metrics(expit(logits), truth)
    for column, one in enumerate(found.values()):
        theirs = BinaryCalibrationError(n_bins=15, norm="l1")(
            torch.tensor(expit(logits[:, column])), torch.tensor(truth[:, column])
        )
        assert one["ece"] == pytest.approx(float(theirs), abs=1e-6)  # which sums in single precision


def test_metrics_of_each_label_have_its_name_and_what_chance_would_show():
    logits, truth = draw(sharpness=1.0, n=3000)
    truth[:, 2] = -100
    names = ["anger", "joy", "nobody knows", "fear", "joy"]
    found = multilabel_calibration_metrics(expit(logits), truth, label_names=names)
    assert list(found) == ["anger", "joy (1)", "fear", "joy (4)"]
    assert [one["positives"] for one in found.values()] == truth[:, [0, 1, 3, 4]].sum(axis=0).tolist()
    assert all(one["known"] == 3000 and one["ece"] < 1.5 * one["ece_by_chance"] for one in found.values())
    mean = calibration_metrics(expit(logits), truth)
    for key in ("ece", "adaptive_ece", "nll", "brier", "accuracy"):
        assert np.mean([one[key] for one in found.values()]) == pytest.approx(mean[key], abs=1e-12)
    assert np.mean([one["f1"] for one in found.values()]) == pytest.approx(mean["f1_macro"], abs=1e-12)


def test_the_nll_of_logits_loses_nothing_to_rounding():
    scored = ScoredOutputs.of_logits([[800.0, -800.0], [-800.0, 800.0]], [[0, 1], [0, 1]])
    assert scored.nll.tolist() == [800, 800, 0, 0]
    assert negative_log_likelihood([[1.0, 0.0]], [[0, 0]]) == np.inf
    assert negative_log_likelihood([[1.0, 1.0]], [[1, 1]]) == 0


@pytest.mark.parametrize(
    "of",
    [
        np.asarray, torch.tensor, np.ndarray.tolist, lambda a: torch.tensor(a).to(torch.bfloat16),
        lambda a: np.where(a == -100, np.nan, a), lambda a: a.astype(np.int8),
    ],
)  # fmt: skip
def test_labels_of_any_kind_are_the_same(of):
    logits, truth = draw(n=60)
    truth = with_gaps(truth)
    assert calibration_metrics(expit(logits), of(truth)) == calibration_metrics(expit(logits), truth)


def test_single_functions_take_labels_of_the_shape_of_the_probabilities():
    logits, truth = draw()
    said, expected = expit(logits), calibration_metrics(expit(logits), truth)
    assert accuracy(said, truth) == expected["accuracy"] and brier_score(said, truth) == expected["brier"]
    assert hf_focal.expected_calibration_error(said, truth) == expected["ece"]
    assert hf_focal.adaptive_calibration_error(said, truth, n_bins=15) == expected["adaptive_ece"]
    assert negative_log_likelihood(said, truth) == expected["nll"]
    bins = bin_statistics(said, truth)  # all labels in the same bins
    assert bins.counts.sum() == truth.size and bins.correct_sums.sum() == truth.sum()


def test_of_two_classes_the_shape_of_the_labels_decides():
    said, truth = np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([[0, 1], [1, 1]])
    assert "f1_micro" in calibration_metrics(said, truth)
    assert "f1_micro" not in calibration_metrics(said, [1, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration_metrics(np.eye(3), np.eye(3, dtype=int)), "not one-hot"),
        (lambda: calibration_metrics_from_logits(np.eye(3), np.eye(3)), "argmax"),
        (lambda: calibration_metrics([[0.5, 1.5]], [[0, 1]]), r"in \[0, 1\].*apply the sigmoid"),
        (lambda: calibration_metrics([[50.0, 20.0]], [[0, 1]]), "percentages"),
        (lambda: calibration_metrics([[0.5, np.nan]], [[0, 1]]), r"in \[0, 1\]"),
        (lambda: calibration_metrics([[0.5, 0.1]], [[0, 2]]), "must be 0 or 1"),
        (lambda: calibration_metrics([[0.5, 0.1]], [[-100, -100]]), "No label is known"),
        (lambda: calibration_metrics([[0.5, 0.1]], [[0, 1, 1]]), "Pass class indices"),
        (lambda: multilabel_calibration_metrics([[0.5, 0.5]], [1]), "softmax"),
        (lambda: multilabel_calibration_metrics([[0.5, 0.1]], [[0, 1]], label_names=["a"]), "2 names"),
        (lambda: calibration_metrics_from_logits([[1.0, 2.0]], [[1, 1]], gamma=1.0), "gamma"),
        (lambda: noise_floor("nll", [[0.5, 0.1], [0.1, 0.2]], labels=[[0, 1], [1, 1]]), "no calibration error"),
        (lambda: calibration_p_value([[0.5, 0.1], [0.1, 0.2]], [[0, 1], [1, 1]], metric="brier"), "ece"),
        (lambda: ScoredOutputs.of_logits([[1.0, 2.0]], [[1, -100]]).of(1), "Nothing is known"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_on(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- The registry ---------------------------------------------------------------------------------------------------


def test_metrics_say_for_which_heads_they_are():
    assert list(metrics_of("sigmoid")) == KEYS
    assert list(metrics_of("softmax")) == list(METRICS) and list(SIGMOID_METRICS) == ["f1_micro", "f1_macro"]
    with pytest.raises(ValueError, match="already"):
        register_metric("f1_macro", title="F1")
    with pytest.raises(ValueError, match="heads"):
        register_metric("own", title="Own", heads=("sigmod",))


def rmsce(scored, n_bins):
    bins = scored.bins(n_bins)
    gaps = (bins.correct_sums - bins.confidence_sums) / np.maximum(bins.counts, 1)
    return float(np.sqrt((bins.counts * gaps**2).sum() / bins.counts.sum()))


@pytest.fixture
def own():
    register_metric("rmsce", title="RMSCE")(rmsce)
    register_metric("of_softmax", title="O", heads=("softmax",))(lambda scored, n_bins: float(scored.num_labels))
    register_metric("yes_share", title="Y", heads=("sigmoid",), binned=False)(lambda one, bins: float(one.yes.mean()))
    yield
    for key in ("rmsce", "of_softmax"):
        del METRICS[key]
    del SIGMOID_METRICS["yes_share"]


def test_a_metric_of_somebody_is_asked_of_each_label(own):
    logits, truth = draw(n=150, labels=3)
    found = calibration_metrics(expit(logits), truth)
    assert "of_softmax" not in found
    each = [rmsce(scored_logits(logits[:, [column]], truth[:, [column]]), 15) for column in range(3)]
    assert found["rmsce"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["yes_share"] == pytest.approx(np.mean(logits > 0), abs=1e-12)
    scored = scored_logits(logits, truth)
    intervals, floors = appraise(scored)
    assert {"rmsce", "ece", "adaptive_ece"} == {*floors} and {*KEYS, "rmsce", "yes_share"} == {*intervals}
    assert floors["rmsce"].low < floors["rmsce"].high and intervals["yes_share"][0] < found["yes_share"]
    assert "yes_share" not in calibration_metrics([[0.5, 0.5]], [0])


# ---- Chance ---------------------------------------------------------------------------------------------------------


def law_of(scored, key="ece", groups=None):
    error = metrics_of("sigmoid")[key].gap_error(scored, 15)
    return Law(error, error.cells(scored, 15), group_numbers(scored.groups_of_rows(groups), len(scored)))


@pytest.mark.parametrize("key", ["ece", "adaptive_ece"])
def test_the_noise_floor_is_what_calibrated_labels_show(key):
    logits, truth = draw(sharpness=1.0)
    floor = law_of(scored_logits(logits, truth), key).calibrated
    generator, shown = np.random.default_rng(5), []
    for _ in range(300):
        drawn = (generator.random(logits.shape) < expit(logits)).astype(int)
        shown.append(calibration_metrics(expit(logits), drawn)[key])
    for share in (0.05, 0.5, 0.95):
        assert np.quantile(floor, share) == pytest.approx(np.quantile(shown, share), abs=0.1 * np.median(shown))


def test_labels_that_are_copies_of_one_another_count_as_one():
    logits, truth = draw(labels=1, n=500)
    one, many = scored_logits(logits, truth), scored_logits(np.tile(logits, 8), np.tile(truth, 8))
    for key in ("nll", "brier", "f1_macro", "f1_micro"):
        metric = metrics_of("sigmoid")[key]
        assert interval_of(metric, many, 15, 0.9) == pytest.approx(interval_of(metric, one, 15, 0.9), abs=1e-12)
    assert interval_of(METRICS["accuracy"], many, 15, 0.9) == pytest.approx(
        interval_of(METRICS["accuracy"], one, 15, 0.9), abs=2e-3
    )
    wide, narrow = law_of(one).calibrated, law_of(many).calibrated
    assert np.std(narrow) == pytest.approx(np.std(wide), rel=0.15)
    independent = scored_logits(*draw(labels=8, n=500))
    assert np.std(law_of(independent).calibrated) < 0.6 * np.std(narrow)


def test_outcomes_of_a_cell_are_binomial():
    law = law_of(scored_logits(*draw(n=300, labels=3)))
    counts, mean = law.shape[:2]
    noise = law.drawn(law.mean)
    for cell in (0, len(mean) // 2, len(mean) - 1):
        drawn = np.rint(noise[:, cell] + counts[cell] * mean[cell])
        for share in (0.2, 0.5, 0.9):
            place = binom.ppf(share, counts[cell], mean[cell])
            assert np.mean(drawn <= place) == pytest.approx(binom.cdf(place, counts[cell], mean[cell]), abs=0.06)


def test_groups_of_samples_are_heeded():
    logits, truth = draw(n=200, labels=3)
    twice = scored_logits(np.tile(logits, (2, 1)), np.tile(truth, (2, 1)))
    groups, once = np.tile(np.arange(200), 2), scored_logits(logits, truth)
    metric = METRICS["nll"]
    assert interval_of(metric, twice, 15, 0.9, groups) == pytest.approx(interval_of(metric, once, 15, 0.9), abs=1e-12)
    assert np.ptp(interval_of(metric, twice, 15, 0.9)) < np.ptp(interval_of(metric, once, 15, 0.9))
    assert np.std(law_of(twice, groups=groups).calibrated) > np.std(law_of(twice).calibrated)
    with pytest.raises(ValueError, match="400 samples"):
        interval_of(metric, twice, 15, 0.9, groups[:-1])


@pytest.mark.parametrize("key", ["nll", "f1_macro", "f1_micro", "accuracy"])
def test_the_resamples_are_those_of_whole_samples(key):
    logits, truth = draw(n=80)
    truth = with_gaps(truth)  # which leaves something of every sample
    scored, metric, values = scored_logits(logits, truth), metrics_of("sigmoid")[key], []
    generator = np.random.default_rng(0)
    for _ in range(100):
        drawn = generator.integers(0, 80, 80)
        values.append(calibration_metrics(expit(logits[drawn]), truth[drawn])[key])
    numbers = group_numbers(scored.groups_of_rows(None), len(scored))
    assert metric.sums.resampled(scored, numbers, 100, 0, "") == pytest.approx(values, abs=1e-9)


def truth_of(kind, labels, said_of):
    generator = np.random.default_rng(9)
    logits = np.linspace(-3, 0.5, labels) + 1.5 * generator.normal(size=(100_000, labels))
    said = expit(said_of(logits))
    total = 0.0
    for column in range(labels):
        bins = np.clip(np.ceil(said[:, column] * 15).astype(int) - 1, 0, 14)
        total += np.abs(np.bincount(bins, said[:, column] - expit(logits[:, column]), 15)).sum()
    return total / logits.size


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["calibrated", "sharp"])
def test_intervals_hold_the_true_error_as_often_as_they_say(kind):
    factor = {"calibrated": 1.0, "sharp": 1.6}[kind]
    true = truth_of(kind, 4, lambda logits: factor * logits)
    found = []
    for seed in range(30):
        scored = scored_logits(*draw(n=400, labels=4, seed=seed + 100, sharpness=factor, common=0.3))
        low, high = law_of(scored).interval(0.9)
        found.append(low - 1e-9 <= true <= high + 1e-9)
    assert np.mean(found) > 0.75  # of 30 at 90%, fewer are next to impossible


def test_one_logit_is_what_two_classes_are_but_for_its_pairs():
    logits, truth = draw(labels=1)
    low, high = confidence_interval("ece", expit(logits), truth)
    floor = noise_floor("ece", expit(logits), labels=truth)
    assert low < high and 0 < floor.low < floor.high
    assert 0 < calibration_p_value(expit(logits), truth) <= 0.05
    same = paired_bootstrap("nll", expit(logits), expit(logits), truth)
    assert same.verdict == "undecided" and same.difference == 0


@pytest.mark.parametrize("key", KEYS)
def test_comparisons_see_what_is_better(key):
    logits, truth = draw(n=1500, sharpness=1.0, common=0.3, base=1.5)
    generator = np.random.default_rng(3)
    worse = 2.5 * logits + 2 * generator.normal(size=logits.shape)
    one, other = scored_logits(logits, truth), scored_logits(worse, truth)
    assert compare_scored(metrics_of("sigmoid")[key], one, other).verdict == "a_is_better"
    assert compare_scored(metrics_of("sigmoid")[key], one, one).verdict == "undecided"
    found = compare_scored(metrics_of("sigmoid")[key], other, one)
    assert found.verdict == "b_is_better"
    measured = [calibration_metrics(expit(values), truth)[key] for values in (worse, logits)]
    assert found.difference == pytest.approx(measured[0] - measured[1], abs=1e-12)


@pytest.mark.parametrize("key", ["ece", "adaptive_ece"])
def test_equally_good_models_are_seldom_told_apart(key):
    verdicts = []
    for seed in range(8):
        logits, truth = draw(n=400, labels=3, sharpness=1.0, seed=seed)
        said, blunt = expit(logits), np.empty_like(logits)
        for column in range(3):  # as good as it can be that knows but in which quarter a sample lies
            quarter = np.digitize(logits[:, column], np.quantile(logits[:, column], [0.25, 0.5, 0.75]))
            blunt[:, column] = logit((np.bincount(quarter, said[:, column]) / np.bincount(quarter))[quarter])
        pair = scored_logits(logits, truth), scored_logits(blunt, truth)
        verdicts.append(compare_scored(METRICS[key], *pair).verdict)
    assert verdicts.count("undecided") >= 6


# ---- compute_metrics and batches ------------------------------------------------------------------------------------


def prediction(logits, labels):
    return SimpleNamespace(predictions=logits, label_ids=labels)


@pytest.mark.parametrize("labels", [1, 5])
def test_batches_add_up_to_the_whole(labels):
    logits, truth = draw(labels=labels, n=500)
    truth = with_gaps(truth)
    whole = compute_metrics(prediction(logits.astype(np.float32), truth.astype(np.float32)))
    assert list(whole) == KEYS
    batches = BatchMetrics()
    for start in range(0, 500, 100):
        rows = slice(start, start + 100)
        found = batches(prediction(logits[rows].astype(np.float32), truth[rows]), compute_result=start == 400)
        assert bool(found) == (start == 400)
    assert found.pop("adaptive_ece") == pytest.approx(whole.pop("adaptive_ece"), abs=2e-3)  # by its bound
    assert found == pytest.approx(whole, abs=1e-9)
    assert batches(prediction(logits[:100], truth[:100]), True)["nll"] != found["nll"]  # it forgot the others


def test_batches_are_added_up_before_there_are_many(monkeypatch):
    logits, truth = draw(n=300)
    expected = compute_metrics(prediction(logits, truth))
    monkeypatch.setattr(accumulator, "_ROWS", 200)
    monkeypatch.setattr(accumulator, "MOST_CELLS", 4)
    batches = BatchMetrics()
    for rows in np.array_split(np.arange(300), 7):
        found = batches(prediction(logits[rows], truth[rows]), compute_result=rows[-1] == 299)
    assert list(found) == [key for key in KEYS if key != "adaptive_ece"]
    assert found == pytest.approx({key: expected[key] for key in found}, abs=1e-9)


def test_batches_of_other_labels_and_a_gamma_are_refused():
    batches, logits = BatchMetrics(), np.zeros((2, 3))
    batches(prediction(logits, np.ones((2, 3))), False)
    with pytest.raises(ValueError, match="3 so far, now 2"):
        batches(prediction(logits[:, :2], np.ones((2, 2))), False)
    with pytest.raises(ValueError, match="gamma"):
        batches(prediction(logits, np.ones((2, 3))), True, gamma=2.0)
    halved = partial(BatchMetrics(), prediction(np.full((2, 1), 2.0), [1, 0]), True)
    assert halved(temperature=2.0)["nll"] == pytest.approx(np.mean(np.logaddexp(0, [-1.0, 1.0])))


def test_one_logit_of_a_stock_trainer_is_measured():
    logits, truth = draw(labels=1)
    expected = calibration_metrics(expit(logits), truth)
    assert compute_metrics(prediction(logits, truth[:, 0])) == pytest.approx(expected, abs=1e-12)
    assert compute_metrics(prediction(logits, truth[:, 0].astype(np.float32))) == pytest.approx(expected, abs=1e-12)
