# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Every metric against plain loops, its properties, its peers (with their differences explained), and bad input."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import references
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from hf_focal import (
    accuracy,
    adaptive_calibration_error,
    bin_statistics,
    brier_score,
    calibration_metrics,
    calibration_metrics_from_logits,
    classwise_calibration_error,
    compute_metrics,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    negative_log_likelihood_from_logits,
)


METRICS = {
    "accuracy": accuracy,
    "nll": negative_log_likelihood,
    "brier": brier_score,
    "ece": expected_calibration_error,
    "mce": maximum_calibration_error,
    "adaptive_ece": adaptive_calibration_error,
    "classwise_ece": classwise_calibration_error,
}
BINNED = ("ece", "mce", "adaptive_ece", "classwise_ece")
FOR_EACH_METRIC = pytest.mark.parametrize("name", METRICS)
FOR_EACH_BINNED = pytest.mark.parametrize("name", BINNED)


def _close(actual, expected, tolerance=1e-12):
    assert type(actual) is float
    assert actual == expected or abs(actual - expected) <= tolerance, (actual, expected)


def _batch(seed, n, k, concentration=0.5):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(k, concentration), n)
    probabilities = np.maximum(probabilities, 1e-12)
    return probabilities / probabilities.sum(1, keepdims=True), generator.integers(0, k, n)


def _on_edges(seed, n, k, n_bins):
    """Rows whose every entry is a multiple of 1 / n_bins: all on edges, zeros, ones and ties among them."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(k, 0.4), n)
    counts = np.array([generator.multinomial(n_bins, share) for share in shares])
    return counts / n_bins, generator.integers(0, k, n)


def _make_cases():
    certain = np.eye(4)[[0, 1, 2, 3, 0, 1]]
    generator = np.random.default_rng(3)
    absent = _batch(4, 50, 6)
    return {
        "random": _batch(0, 300, 10),
        "binary": _batch(1, 101, 2),
        "sharp": _batch(2, 200, 5, concentration=0.02),
        "flat": _batch(3, 64, 20, concentration=50),
        "many_classes": _batch(5, 20, 200),
        "one_sample_right": (np.array([[0.7, 0.2, 0.1]]), np.array([0])),
        "one_sample_wrong": (np.array([[0.2, 0.8]]), np.array([0])),
        "fewer_samples_than_bins": _batch(6, 7, 4),
        "as_many_samples_as_bins": _batch(7, 15, 4),
        "one_sample_more_than_bins": _batch(8, 16, 4),
        "edges_15": _on_edges(9, 200, 3, 15),
        "edges_15_binary": _on_edges(10, 100, 2, 15),
        "edges_10": _on_edges(11, 200, 4, 10),
        "edges_7": _on_edges(12, 100, 4, 7),
        "certain": (certain, np.array([0, 1, 2, 3, 1, 1])),
        "uniform": (np.full((12, 4), 0.25), generator.integers(0, 4, 12)),
        "tied_two": (np.repeat([[0.4, 0.4, 0.2], [0.1, 0.45, 0.45]], 8, 0), generator.integers(0, 3, 16)),
        "absent_classes": (absent[0], absent[1] % 3),
        "absent_last_class": (absent[0], np.zeros(50, dtype=int)),
        "mostly_empty_bins": (np.array([[0.99, 0.01], [0.51, 0.49], [0.02, 0.98]]), np.array([0, 1, 0])),
    }


CASES = _make_cases()


# ---- Definitions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@FOR_EACH_METRIC
def test_metric_agrees_with_its_definition(name, case):
    _close(METRICS[name](*CASES[case]), references.METRICS[name](*CASES[case]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n_bins", [1, 2, 7, 10, 16, 100, np.int64(15)])
@FOR_EACH_BINNED
def test_metric_agrees_with_its_definition_for_any_number_of_bins(name, n_bins, case):
    _close(METRICS[name](*CASES[case], n_bins=n_bins), references.METRICS[name](*CASES[case], n_bins))


@st.composite
def batches(draw, max_labels=6):
    n, k = draw(st.integers(1, 40)), draw(st.integers(2, max_labels))
    n_bins = draw(st.integers(1, 24))
    seed = draw(st.integers(0, 2**32 - 1))
    if draw(st.booleans()):
        return *_on_edges(seed, n, k, n_bins), n_bins
    return *_batch(seed, n, k, draw(st.sampled_from([0.05, 0.5, 5.0]))), n_bins


@settings(deadline=None, max_examples=150)
@given(batch=batches())
def test_all_metrics_agree_with_their_definitions_on_any_batch(batch):
    probabilities, labels, n_bins = batch
    metrics = calibration_metrics(probabilities, labels, n_bins)
    assert list(metrics) == list(METRICS)
    for name in METRICS:
        bins = (n_bins,) if name in BINNED else ()
        _close(metrics[name], references.METRICS[name](probabilities, labels, *bins))
        _close(metrics[name], METRICS[name](probabilities, labels, *bins))


@pytest.mark.parametrize("n_bins", [*range(1, 41), 49, 100, 1000])
def test_a_confidence_on_an_edge_lies_in_the_bin_below_it(n_bins):
    # With 2,002 columns any multiple of 1 / n_bins can be the largest probability.
    num_labels = 2002
    upper = np.arange(1, n_bins + 1)
    upper = np.unique(np.concatenate([upper[:20], upper[-20:]]))
    values = upper / n_bins
    rows = np.zeros((len(values), num_labels))
    rows[:, 0] = values
    rows[:, 1:] = (1 - values[:, None]) / (num_labels - 1)
    counts = bin_statistics(rows, np.zeros(len(rows), dtype=int), n_bins).counts
    expected = np.zeros(n_bins, dtype=int)
    expected[upper - 1] = 1
    np.testing.assert_array_equal(counts, expected)
    rows[:, 0] = np.nextafter(values, 2).clip(max=1)  # the next number up lies in the next bin
    counts = bin_statistics(rows, np.zeros(len(rows), dtype=int), n_bins).counts
    expected = np.bincount(np.minimum(upper, n_bins - 1), minlength=n_bins)
    np.testing.assert_array_equal(counts, expected)
    rows[:, 0] = np.nextafter(values, 0)  # and the next one down in the same
    counts = bin_statistics(rows, np.zeros(len(rows), dtype=int), n_bins).counts
    np.testing.assert_array_equal(counts, np.bincount(upper - 1, minlength=n_bins))


def test_one_is_in_the_last_bin_and_zero_in_the_first():
    rows, labels = np.array([[1.0, 0.0], [0.95, 0.05]]), np.array([1, 0])
    assert bin_statistics(rows, labels, 15).counts.tolist() == [0] * 14 + [2]
    _close(expected_calibration_error(rows, labels), abs(1 - 1.95) / 2)
    # Classwise: 1.0 and 0.95 share the last bin, 0.0 and 0.05 the first; each holds one member.
    _close(classwise_calibration_error(rows, labels), (abs(1.95 - 1) / 2 + abs(0.05 - 1) / 2) / 2)


def test_ties_take_the_lowest_class():
    rows = [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.25, 0.375, 0.375]]
    assert accuracy(rows, [0, 1, 1]) == 1.0
    assert accuracy(rows, [1, 2, 2]) == 0.0


def test_nll_of_a_true_class_with_probability_zero_is_infinite():
    assert negative_log_likelihood([[1.0, 0.0], [0.5, 0.5]], [1, 0]) == math.inf
    assert negative_log_likelihood([[1.0, 0.0]], [0]) == 0.0
    assert math.copysign(1, negative_log_likelihood([[1.0, 0.0]], [0])) == 1
    assert negative_log_likelihood([[1 - 1e-300, 1e-300]], [1]) == pytest.approx(690.7755278982137, rel=1e-14)


@pytest.mark.parametrize("case", ["random", "absent_last_class", "edges_15"])
def test_classwise_error_divides_by_the_number_of_columns_and_drops_nothing(case):
    probabilities, labels = CASES[case]
    padded = np.hstack([probabilities, np.zeros((len(labels), 3))])  # three classes that nothing belongs to
    k = probabilities.shape[1]
    exact = classwise_calibration_error(probabilities, labels) * k / (k + 3)
    _close(classwise_calibration_error(padded, labels), exact)


def test_classwise_error_counts_probabilities_of_zero():
    # All samples give class 0 a probability of 0 although they belong to it: the error is total in both columns.
    assert classwise_calibration_error([[0.0, 1.0]] * 4, [0] * 4) == 1.0


def test_classwise_error_in_chunks_is_that_of_the_whole(monkeypatch):
    from hf_focal.metrics import classwise_ece

    probabilities, labels = CASES["random"]
    monkeypatch.setattr(classwise_ece, "_CHUNK", 70)  # 7 rows at a time
    _close(classwise_calibration_error(probabilities, labels), references.classwise_ece(probabilities, labels))


@pytest.mark.parametrize(("n", "sizes"), [(7, [3, 2, 2]), (8, [3, 3, 2]), (9, [3, 3, 3]), (2, [1, 1]), (1, [1])])
def test_equal_mass_bins_have_the_sizes_of_array_split(n, sizes):
    confidences = np.linspace(0.55, 0.95, n)
    rows = np.stack([confidences, 1 - confidences], 1)[::-1]
    bins = bin_statistics(rows, np.zeros(n, dtype=int), 3, adaptive=True)
    assert bins.counts.tolist() == sizes
    starts = np.cumsum([0, *sizes[:-1]])
    np.testing.assert_allclose(bins.edges, np.append(confidences[starts], confidences[-1]), rtol=0, atol=1e-15)
    np.testing.assert_allclose(bins.confidence_sums.sum(), confidences.sum(), rtol=1e-14)


def test_equal_mass_bins_share_what_is_right_of_confidences_that_tie():
    rows = np.array([[0.7, 0.3]] * 4)
    for labels in ([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]):
        assert bin_statistics(rows, labels, 2, adaptive=True).correct_sums.tolist() == [1, 1]
        _close(adaptive_calibration_error(rows, labels, 2), 0.2)
    rows = np.array([[0.6, 0.4], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.9, 0.1], [0.95, 0.05]])
    bins = bin_statistics(rows, [0, 0, 1, 1, 0, 1], 2, adaptive=True)  # the first bin has two of the three that tie
    np.testing.assert_allclose(bins.correct_sums, [1 + 2 / 3, 1 / 3 + 1], rtol=1e-15)


def test_adaptive_error_with_fewer_samples_than_bins_is_the_mean_gap_of_single_samples():
    probabilities, labels = CASES["fewer_samples_than_bins"]
    pairs = references.confidence_and_correct(probabilities, labels)
    _close(adaptive_calibration_error(probabilities, labels), sum(abs(c - r) for r, c in pairs) / len(pairs))


def test_bin_statistics_hold_what_the_errors_are_made_of():
    rows = np.array([[0.9, 0.1], [0.95, 0.05], [0.3, 0.7], [0.6, 0.4]])
    bins = bin_statistics(rows, [0, 1, 1, 0], 5)
    np.testing.assert_array_equal(bins.edges, np.arange(6) / 5)
    assert bins.counts.tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(bins.confidence_sums, [0, 0, 0.6, 0.7, 1.85], atol=1e-15)
    assert bins.correct_sums.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(bins.confidence, [np.nan, np.nan, 0.6, 0.7, 0.925], atol=1e-15)
    np.testing.assert_allclose(bins.accuracy, [np.nan, np.nan, 1, 1, 0.5])
    _close(bins.expected_error(), (0.4 + 0.3 + 0.85) / 4)
    _close(bins.maximum_error(), 0.425)


# ---- From logits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1, 30, 1e4])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nll_from_logits_is_exact(scale, dtype):
    generator = np.random.default_rng(0)
    logits = (scale * generator.normal(size=(50, 6))).astype(dtype)
    labels = generator.integers(0, 6, 50)
    expected = references.cross_entropy(logits, labels).mean()
    assert negative_log_likelihood_from_logits(logits, labels) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_nll_from_logits_stays_finite_where_probabilities_underflow():
    assert negative_log_likelihood_from_logits([[0.0, 2000.0]], [0]) == 2000.0
    assert negative_log_likelihood(references.softmax([[0.0, 2000.0]]), [0]) == math.inf


@pytest.mark.parametrize("temperature", [1.0, 0.1, 2.5])
def test_metrics_from_logits_are_those_of_the_softmax(temperature):
    generator = np.random.default_rng(1)
    logits, labels = 4 * generator.normal(size=(120, 5)), generator.integers(0, 5, 120)
    metrics = calibration_metrics_from_logits(logits, labels, n_bins=10, temperature=temperature)
    probabilities = references.softmax(logits / temperature)
    assert list(metrics) == list(METRICS)
    for name, value in metrics.items():
        bins = (10,) if name in BINNED else ()
        _close(value, references.METRICS[name](probabilities, labels, *bins))


def test_metrics_from_single_precision_logits_are_computed_in_double():
    generator = np.random.default_rng(2)
    logits, labels = generator.normal(size=(80, 5)).astype(np.float32), generator.integers(0, 5, 80)
    expected = calibration_metrics_from_logits(logits.astype(np.float64), labels)
    assert calibration_metrics_from_logits(logits, labels) == expected
    assert calibration_metrics_from_logits(torch.from_numpy(logits), torch.from_numpy(labels)) == expected


def test_compute_metrics_reads_what_a_trainer_predicts():
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(6, 5, 4)).astype(np.float32)
    labels = generator.integers(0, 4, (6, 5))
    flat = calibration_metrics_from_logits(logits.reshape(-1, 4), labels.ravel())
    for predictions, label_ids in (
        (logits.reshape(-1, 4), labels.ravel()),
        (logits, labels),
        ((logits, np.zeros((6, 7))), labels),
        ((logits, 1), (labels,)),
    ):
        prediction = SimpleNamespace(predictions=predictions, label_ids=label_ids)
        assert compute_metrics(prediction) == flat
    with pytest.raises(ValueError, match="label_ids holds 2 arrays"):  # which one the loss takes is not told
        compute_metrics(SimpleNamespace(predictions=logits, label_ids=(labels, labels)))
    kept = labels.copy()
    kept[:, 3:] = -100
    prediction = SimpleNamespace(predictions=logits, label_ids=kept)
    expected = calibration_metrics_from_logits(logits[:, :3].reshape(-1, 4), labels[:, :3].ravel(), n_bins=10)
    assert compute_metrics(prediction, n_bins=10) == expected


def test_compute_metrics_refuses_predictions_that_do_not_fit():
    with pytest.raises(ValueError, match=r"label_ids must have shape \(6,\).*got \(5,\)"):
        compute_metrics(SimpleNamespace(predictions=np.zeros((6, 3)), label_ids=np.zeros(5, dtype=int)))
    with pytest.raises(ValueError, match="logits must hold at least one sample"):
        compute_metrics(SimpleNamespace(predictions=np.zeros((6, 3)), label_ids=np.full(6, -100)))


def test_metrics_of_real_logits_have_their_published_values(test_data):
    path = test_data / "logits" / "cifar10_densenet40.npz"
    if not path.is_file():
        pytest.skip(f"no real logits at {path}")
    with np.load(path) as data:
        logits, labels = data["test_logits"], data["test_labels"]
        validation = calibration_metrics_from_logits(data["val_logits"], data["val_labels"])
    metrics = calibration_metrics_from_logits(logits, labels)
    assert metrics["accuracy"] == 0.9242
    assert round(metrics["nll"], 6) == 0.430059
    assert round(metrics["ece"], 6) == 0.055003
    assert validation["accuracy"] == 0.9382
    assert round(validation["nll"], 6) == 0.331312 and round(validation["ece"], 6) == 0.043565
    probabilities = references.softmax(logits)
    for name, value in metrics.items():
        _close(value, references.METRICS[name](probabilities, labels))


# ---- Kinds of input -------------------------------------------------------------------------------------------------


@FOR_EACH_METRIC
def test_lists_arrays_and_tensors_give_the_same(name):
    probabilities, labels = CASES["sharp"]
    expected = METRICS[name](probabilities, labels)
    strided = np.asfortranarray(probabilities)
    for rows in (probabilities.tolist(), tuple(map(tuple, probabilities)), strided, torch.tensor(probabilities)):
        for classes in (labels.tolist(), torch.tensor(labels), labels.astype(np.uint8), labels.astype(np.float32)):
            _close(METRICS[name](rows, classes), expected)
    attached = torch.tensor(probabilities, requires_grad=True)
    _close(METRICS[name](attached, torch.tensor(labels)), expected)


@pytest.mark.parametrize("kind", [np.float32, np.float16, torch.float32, torch.float16, torch.bfloat16], ids=str)
@FOR_EACH_METRIC
def test_lower_precision_is_raised_to_double_before_anything_is_binned_or_summed(name, kind):
    probabilities, labels = CASES["random"]
    if isinstance(kind, torch.dtype):
        low = torch.tensor(probabilities).to(kind)
        exact = low.double().numpy()
    else:
        low = probabilities.astype(kind)
        exact = low.astype(np.float64)
    if kind is torch.bfloat16:  # rows that rounding puts off by more than a thousandth are divided by their sums
        exact = low.float().numpy()
        exact /= exact.sum(axis=1, keepdims=True, dtype=np.float32)
        with pytest.warns(UserWarning, match=r"sum to 1 only within 0\.01, as after rounding to half precision"):
            _close(METRICS[name](low, labels), references.METRICS[name](exact.astype(np.float64), labels), 1e-6)
    else:
        _close(METRICS[name](low, labels), references.METRICS[name](exact, labels))


@pytest.mark.parametrize("n_bins", [10, 15, 20])
def test_single_precision_edges_are_compared_in_double(n_bins):
    # float32(i / n_bins) lies a little above or below the edge; it must not be rounded back onto it.
    values = (np.arange(n_bins // 2 + 1, n_bins) / n_bins).astype(np.float32)
    rows = np.stack([values, 1 - values], 1)
    counts = bin_statistics(rows, np.zeros(len(rows), dtype=int), n_bins).counts
    expected = np.bincount([references.bin_of(float(value), n_bins) for value in values], minlength=n_bins)
    np.testing.assert_array_equal(counts, expected)
    assert any(float(value) > (i + n_bins // 2 + 1) / n_bins for i, value in enumerate(values))


@pytest.mark.parametrize("kind", [np.float16, torch.bfloat16, torch.float16], ids=str)
def test_rows_of_half_precision_may_miss_one_by_a_hundredth(kind):
    for total, accepted in ((1.007, True), (0.993, True), (1.03, False), (0.97, False)):
        rows = np.array([[total - 0.25, 0.25]])
        low = torch.tensor(rows).to(kind) if isinstance(kind, torch.dtype) else rows.astype(kind)
        if accepted:
            with pytest.warns(UserWarning, match="only within 0.01, as after rounding to half precision"):
                assert accuracy(low, [0]) == 1.0
        else:
            with pytest.raises(ValueError, match="sum to 1 within 0.001, got row 0"):
                accuracy(low, [0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_may_miss_one_by_a_thousandth(dtype):
    for total, accepted in ((1.0009, True), (0.9991, True), (1.0012, False), (0.9988, False)):
        rows = np.array([[0.5, 0.5], [total - 0.25, 0.25]], dtype=dtype)
        if accepted:
            assert accuracy(rows, [0, 0]) == 1.0
        else:
            with pytest.raises(ValueError, match=r"sum to 1 within 0\.001, got row 1, which sums to"):
                accuracy(rows, [0, 0])


def test_whole_numbers_are_probabilities_too():
    assert calibration_metrics([[1, 0], [0, 1]], [0, 0]) == calibration_metrics([[1.0, 0.0], [0.0, 1.0]], [0, 0])


@FOR_EACH_METRIC
def test_inputs_are_left_as_they_were(name):
    probabilities, labels = CASES["random"]
    before = probabilities.copy(), labels.copy()
    METRICS[name](probabilities, labels)
    np.testing.assert_array_equal(probabilities, before[0])
    np.testing.assert_array_equal(labels, before[1])


def _exact_sums(n, tolerance):
    generator = np.random.default_rng(0)
    top = generator.uniform(0.5, 1, n).astype(np.float32)
    probabilities = np.stack([top, 1 - top], 1)
    labels = (generator.uniform(size=n) > top).astype(np.int64)
    wide, hits = top.astype(np.float64), labels == 0
    index = np.searchsorted(np.arange(16) / 15, wide, side="left") - 1
    gaps, sizes = [], []
    for b in range(15):
        inside = index == b
        sizes.append(inside.sum())
        gaps.append(math.fsum(wide[inside]) - hits[inside].sum())
    _close(expected_calibration_error(probabilities, labels), math.fsum(map(abs, gaps)) / n, tolerance)
    worst = max(abs(gap) / size for gap, size in zip(gaps, sizes, strict=True) if size)
    _close(maximum_calibration_error(probabilities, labels), worst, tolerance)
    true = np.where(hits, wide, probabilities[:, 1].astype(np.float64))
    _close(negative_log_likelihood(probabilities, labels), -math.fsum(np.log(true)) / n, tolerance)
    other = probabilities[:, 1].astype(np.float64)
    squares = np.where(hits, (wide - 1) ** 2 + other**2, wide**2 + (other - 1) ** 2)
    _close(brier_score(probabilities, labels), math.fsum(squares) / n, tolerance)


def test_sums_of_a_million_single_precision_samples_are_those_of_double():
    _exact_sums(1_000_000, 1e-11)


@pytest.mark.slow
def test_sums_of_ten_million_single_precision_samples_are_those_of_double():
    _exact_sums(10_000_000, 1e-9)


# ---- Properties -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(batch=batches())
def test_ece_is_at_most_mce_and_all_errors_lie_between_zero_and_one(batch):
    probabilities, labels, n_bins = batch
    metrics = calibration_metrics(probabilities, labels, n_bins)
    assert metrics["ece"] <= metrics["mce"] + 1e-15
    for name in ("accuracy", *BINNED):
        assert 0 <= metrics[name] <= 1
    assert 0 <= metrics["brier"] <= 2 and metrics["nll"] >= 0


@settings(deadline=None, max_examples=100)
@given(batch=batches(), seed=st.integers(0, 1000))
def test_permuting_samples_changes_nothing(batch, seed):
    probabilities, labels, n_bins = batch
    order = np.random.default_rng(seed).permutation(len(labels))
    before = calibration_metrics(probabilities, labels, n_bins)
    after = calibration_metrics(probabilities[order], labels[order], n_bins)
    confidences = probabilities.max(1)
    for name in METRICS:
        if name != "adaptive_ece" or len(np.unique(confidences)) == len(confidences):
            _close(after[name], before[name])


@settings(deadline=None, max_examples=100)
@given(batch=batches(), seed=st.integers(0, 1000))
def test_permuting_classes_changes_nothing_where_no_classes_tie(batch, seed):
    probabilities, labels, n_bins = batch
    ordered = np.sort(probabilities, 1)
    assume(np.all(ordered[:, -1] > ordered[:, -2]))
    order = np.random.default_rng(seed).permutation(probabilities.shape[1])
    before = calibration_metrics(probabilities, labels, n_bins)
    after = calibration_metrics(probabilities[:, order], np.argsort(order)[labels], n_bins)
    for name in METRICS:
        _close(after[name], before[name])


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), n_bins=st.integers(1, 24))
def test_classwise_error_of_two_classes_equals_its_mirror(seed, n, n_bins):
    probabilities, labels = _batch(seed, n, 2)
    distance = np.abs(probabilities[:, :1] - np.arange(n_bins + 1) / n_bins)[:, 1 : n_bins or None]
    assume(n_bins == 1 or distance.min() > 1e-9)
    one_sided = references.column_error(probabilities[:, 1], labels == 1, n_bins)
    mirrored = references.column_error(probabilities[:, 0], labels == 0, n_bins)
    _close(classwise_calibration_error(probabilities, labels, n_bins), one_sided)
    _close(classwise_calibration_error(probabilities, labels, n_bins), mirrored)


def test_the_mirror_fails_for_a_probability_on_an_edge():
    # 0.25 lies in (0, 0.25], its mirror image 0.75 in (0.5, 0.75] and not in the mirrored bin (0.75, 1].
    rows, labels = np.array([[0.25, 0.75], [0.125, 0.875]]), np.array([1, 0])
    first = references.column_error(rows[:, 0], labels == 0, 4)
    second = references.column_error(rows[:, 1], labels == 1, 4)
    assert first == 0.3125 and second == 0.5625
    _close(classwise_calibration_error(rows, labels, 4), (first + second) / 2)


@settings(deadline=None, max_examples=60)
@given(batch=batches())
def test_one_bin_gives_the_gap_of_the_means(batch):
    probabilities, labels, _ = batch
    pairs = references.confidence_and_correct(probabilities, labels)
    gap = abs(math.fsum(r for r, _ in pairs) - sum(c for _, c in pairs)) / len(pairs)
    for metric in (expected_calibration_error, maximum_calibration_error, adaptive_calibration_error):
        _close(metric(probabilities, labels, 1), gap)


def test_more_equal_mass_bins_than_samples_change_nothing():
    probabilities, labels = CASES["fewer_samples_than_bins"]
    values = {adaptive_calibration_error(probabilities, labels, n_bins) for n_bins in (7, 8, 15, 1000)}
    assert max(values) - min(values) < 1e-15


# ---- Peers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bins", [5, 15])
@pytest.mark.parametrize("case", ["random", "binary", "flat", "fewer_samples_than_bins"])
def test_torchmetrics_agrees_away_from_edges(case, n_bins):
    probabilities, labels = CASES[case]
    confidences = probabilities.max(1)
    assert np.abs(confidences[:, None] - np.arange(n_bins + 1) / n_bins).min() > 1e-6  # its edges are in float32
    arguments = torch.tensor(probabilities), torch.tensor(labels), probabilities.shape[1], n_bins
    for norm, metric in (("l1", expected_calibration_error), ("max", maximum_calibration_error)):
        peer = multiclass_calibration_error(*arguments, norm=norm).item()
        assert metric(probabilities, labels, n_bins) == pytest.approx(peer, abs=1e-7)


def test_torchmetrics_puts_a_confidence_of_one_into_a_sixteenth_bin():
    rows, labels = np.array([[1.0, 0.0], [0.95, 0.05]]), np.array([1, 0])
    peer = multiclass_calibration_error(torch.tensor(rows), torch.tensor(labels), 2, 15).item()
    together, apart = abs(1 - 1.95) / 2, (1 + 0.05) / 2
    assert expected_calibration_error(rows, labels) == pytest.approx(together, abs=1e-12)
    assert peer == pytest.approx(apart, abs=1e-6)


def test_torchmetrics_closes_its_bins_on_the_left():
    # 0.75 is the upper end of (0.5, 0.75] here and the lower end of [0.75, 1) there.
    rows, labels = np.array([[0.75, 0.25], [0.875, 0.125]]), np.array([1, 0])
    peer = multiclass_calibration_error(torch.tensor(rows), torch.tensor(labels), 2, 4).item()
    assert expected_calibration_error(rows, labels, 4) == (0.75 + 0.125) / 2
    assert peer == pytest.approx(abs(1 - 1.625) / 2, abs=1e-7)


@pytest.mark.parametrize("case", ["random", "binary", "flat", "sharp"])
def test_netcal_agrees_away_from_edges(case):
    from netcal.metrics import ECE, MCE

    probabilities, labels = CASES[case]
    confidences = probabilities.max(1)
    assert np.abs(confidences[:, None] - np.arange(15) / 15).min() > 1e-9
    for peer, metric in ((ECE, expected_calibration_error), (MCE, maximum_calibration_error)):
        rows = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
        if rows.ndim == 1:  # netcal reads two classes as the probability of the second: give it confidences instead
            rows, labels_ = confidences, (probabilities.argmax(1) == labels).astype(int)
        else:
            labels_ = labels
        assert metric(probabilities, labels) == pytest.approx(float(peer(15).measure(rows, labels_)), abs=1e-9)


@pytest.mark.parametrize("case", ["random", "binary", "many_classes", "absent_classes", "fewer_samples_than_bins"])
def test_scikit_learn_agrees_on_accuracy_nll_and_brier(case):
    probabilities, labels = CASES[case]
    classes = list(range(probabilities.shape[1]))
    _close(accuracy(probabilities, labels), float(accuracy_score(labels, probabilities.argmax(1))))
    _close(negative_log_likelihood(probabilities, labels), float(log_loss(labels, probabilities, labels=classes)))
    squares = ((probabilities - np.eye(len(classes))[labels]) ** 2).sum(1).mean()
    _close(brier_score(probabilities, labels), float(squares))


def test_scikit_learn_clips_a_probability_of_zero_where_nll_is_infinite():
    rows, labels = np.array([[1.0, 0.0], [0.5, 0.5]]), [1, 0]
    assert 10 < log_loss(labels, rows) < 1000
    assert negative_log_likelihood(rows, labels) == math.inf


@pytest.mark.parametrize("case", ["random", "edges_15", "edges_10", "edges_7", "certain"])
@pytest.mark.parametrize("n_bins", [7, 10, 15])
def test_calibration_curve_of_scikit_learn_has_the_same_bins(case, n_bins):
    probabilities, labels = CASES[case]
    # Its edges come from linspace, which misses i / n_bins by a digit at times: leave out what lies on those.
    other_edges = np.setxor1d(np.linspace(0, 1, n_bins + 1), np.arange(n_bins + 1) / n_bins)
    kept = ~np.isin(probabilities, other_edges).any(1)
    probabilities, labels = probabilities[kept], labels[kept]
    total, num_labels = 0.0, probabilities.shape[1]
    for k in range(num_labels):
        column, members = probabilities[:, k], (labels == k).astype(int)
        shares, means = calibration_curve(members, column, n_bins=n_bins)
        counts = np.bincount([references.bin_of(value, n_bins) for value in column], minlength=n_bins)
        total += (counts[counts > 0] * np.abs(shares - means)).sum() / len(labels)
    assert len(labels) > 5
    _close(classwise_calibration_error(probabilities, labels, n_bins), total / num_labels)


# ---- Bad input ------------------------------------------------------------------------------------------------------

GOOD = [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]
BAD_PROBABILITIES = [
    ([0.5, 0.5], [0, 1], r"probabilities must have shape \(num_samples, num_labels\), got \(2,\)"),
    ([[[0.5, 0.5]]], [0], r"probabilities must have shape .* got \(1, 1, 2\)"),
    (0.5, [0], "probabilities must have shape"),
    ([], [], "probabilities must have shape"),
    (np.zeros((0, 3)), [], "probabilities must hold at least one sample"),
    (np.ones((3, 1)), [0, 0, 0], r"probabilities must have a column .* at least 2 classes.*stack \[1 - p, p\]"),
    (np.ones((3, 0)), [0, 0, 0], "probabilities must have a column"),
    ([[0.5, 0.5], [1.0]], [0, 0], "probabilities must be a rectangular array"),
    ([[math.nan, 1.0]], [0], "probabilities must be finite"),
    ([[0.5, 0.5], [math.nan, math.nan]], [0, 0], "probabilities must be finite"),
    ([[math.inf, 0.0]], [0], "probabilities must be finite"),
    ([[0.0, -math.inf]], [0], "probabilities must be finite"),
    ([[math.inf, -math.inf]], [0], "probabilities must be finite"),
    ([[0.5, 0.6]], [0], "sum to 1 within 0.001, got row 0, which sums to 1.1.*apply a softmax"),
    ([[2.0, -1.0]], [0], "probabilities must not be negative.*got a value of -1.*softmax"),
    ([[1e300, 1e300]], [0], "probabilities .*sum to 1.*softmax"),
    ([[0.0, 0.0]], [0], "sum to 1 within 0.001, got row 0, which sums to 0"),
    ([["a", "b"]], [0], "probabilities must hold real numbers"),
    ([[None, 1.0]], [0], "probabilities must hold real numbers, got an array of dtype object"),
    ([[0.5 + 0j, 0.5]], [0], "probabilities must hold real numbers"),
    (np.array(GOOD, dtype=object), [0, 0, 0], "probabilities must hold real numbers"),
    (None, [0], "probabilities must hold real numbers"),
    (GOOD, [0, 0], "probabilities and labels must have the same length, got 3 and 2"),
    (GOOD, [0, 0, 0, 0], "probabilities and labels must have the same length, got 3 and 4"),
    (GOOD, [], "probabilities and labels must have the same length, got 3 and 0"),
    (GOOD, [[1, 0], [0, 1], [0, 1]], r"labels must have shape \(num_samples,\), got \(3, 2\).*not one-hot"),
    (GOOD, [[0], [0], [0]], r"labels must have shape \(num_samples,\)"),
    (GOOD, 0, "labels must have shape"),
    (GOOD, [0, 1, 2], r"labels must lie in \[0, 1\] for 2 columns, got values from 0 to 2"),
    (GOOD, [0, 1, -1], r"labels must lie in \[0, 1\]"),
    (GOOD, [0, 1, -100], r"labels must lie in \[0, 1\].*ignored samples"),
    (GOOD, [0, 1, 0.5], "labels must be whole numbers"),
    (GOOD, [0, 1, math.nan], "labels must be whole numbers"),
    (GOOD, [0, 1, math.inf], "labels must be whole numbers"),
    (GOOD, ["0", "1", "0"], "labels must hold real numbers"),
    (GOOD, [None, 0, 1], "labels must hold real numbers"),
    (GOOD, [[0], [0, 1], [0]], "labels must be a rectangular array"),
]


@pytest.mark.parametrize(("probabilities", "labels", "message"), BAD_PROBABILITIES)
@pytest.mark.parametrize("metric", [*METRICS.values(), calibration_metrics, bin_statistics], ids=lambda m: m.__name__)
def test_bad_probabilities_and_labels_are_refused_by_name(metric, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(probabilities, labels)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([0.5, 0.5], [0, 1], r"logits must have shape \(num_samples, num_labels\)"),
        (np.zeros((0, 3)), [], "logits must hold at least one sample"),
        (np.zeros((3, 1)), [0, 0, 0], "logits must have a column"),
        ([[math.nan, 1.0]], [0], "logits must be finite"),
        ([[0.0, math.inf]], [0], "logits must be finite"),
        ([["a", "b"]], [0], "logits must hold real numbers"),
        ([[1.0, 2.0]], [0, 1], "logits and labels must have the same length, got 1 and 2"),
        ([[1.0, 2.0]], [2], r"labels must lie in \[0, 1\]"),
        ([[1.0, 2.0]], [-100], r"labels must lie in \[0, 1\]"),
        ([[1.0, 2.0]], [0.5], "labels must be whole numbers"),
        ([[1.0, 2.0]], [[0]], r"labels must have shape \(num_samples,\)"),
    ],
)
@pytest.mark.parametrize("metric", [negative_log_likelihood_from_logits, calibration_metrics_from_logits])
def test_bad_logits_are_refused_by_name(metric, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(logits, labels)


@pytest.mark.parametrize(
    "metric", [*(METRICS[name] for name in BINNED), calibration_metrics, bin_statistics], ids=lambda m: m.__name__
)
def test_a_bad_number_of_bins_is_refused(metric):
    for n_bins in (0, -1, np.int64(-3)):
        with pytest.raises(ValueError, match="n_bins must be at least 1"):
            metric(GOOD, [0, 0, 0], n_bins=n_bins)
    for n_bins in (2.5, 15.0, "15", None, True, np.float64(3)):
        with pytest.raises(TypeError, match="n_bins must be a whole number"):
            metric(GOOD, [0, 0, 0], n_bins=n_bins)
    with pytest.raises(TypeError, match="n_bins"):
        calibration_metrics_from_logits(GOOD, [0, 0, 0], n_bins=2.5)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        calibration_metrics_from_logits(GOOD, [0, 0, 0], temperature=temperature)
