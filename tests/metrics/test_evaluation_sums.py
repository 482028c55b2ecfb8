# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What sums tell of metrics, intervals, noise floors, temperatures and comparisons is what the rows tell."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from hf_focal import EvaluationSums, calibration_metrics_from_logits, confidence_interval, noise_floor
from hf_focal.calibrators.confidence import leaning
from hf_focal.metrics import METRICS, Scored
from hf_focal.metrics.comparison import compare_scored
from hf_focal.metrics.comparison_sums import ComparisonSums, compare_all
from hf_focal.metrics.evaluation_sums import scored_pairs
from hf_focal.metrics.gaps import TopCells


def draw(seed=0, n=3000, k=5, sharpness=1.6):
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(n, k))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return sharpness * logits, labels


def added_up(logits, labels, parts=(slice(0, 700), slice(700, 701), slice(701, None))):
    """As several machines would, merged in another order."""
    sums = []
    for part in parts:
        sums.append(EvaluationSums())
        sums[-1].update_logits(logits[part], labels[part])
    whole = EvaluationSums()
    for one in reversed(sums):
        whole.merge(EvaluationSums.from_bytes(one.to_bytes()))
    return whole


def nll(logits, labels, temperature):
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()


def test_metrics_are_those_of_the_rows_whatever_the_order_of_merging():
    logits, labels = draw()
    found, expected = added_up(logits, labels).compute(), calibration_metrics_from_logits(logits, labels)
    bound = added_up(logits, labels).compute(error_bound=True)["adaptive_ece_error_bound"]
    for key in METRICS:
        slack = bound if key == "adaptive_ece" else 1e-13
        assert found[key] == pytest.approx(expected[key], abs=slack), key


def test_probabilities_give_what_their_logits_give():
    logits, labels = draw()
    one, other = EvaluationSums(), EvaluationSums()
    one.update_logits(logits, labels)
    other.update(softmax(logits, axis=1), labels)
    for name, value in one.arrays.items():
        np.testing.assert_allclose(other.arrays[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("key", ["ece", "mce"])
def test_intervals_and_floors_of_equal_bins_are_those_of_the_rows(key):
    logits, labels = draw()
    intervals, floors = added_up(logits, labels).appraise()
    probabilities = softmax(logits, axis=1)
    floor = noise_floor(key, probabilities)
    assert intervals[key] == pytest.approx(confidence_interval(key, probabilities, labels), abs=1e-10)
    assert [floors[key].low, floors[key].median, floors[key].high] == pytest.approx(
        [floor.low, floor.median, floor.high], abs=1e-10
    )


def test_intervals_of_means_are_theirs_by_the_formula_and_near_the_bootstrap():
    logits, labels = draw()
    intervals, _ = added_up(logits, labels).appraise()
    rows = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    half = norm.ppf(0.95) * rows.std(ddof=1) / np.sqrt(len(rows))
    assert intervals["nll"] == pytest.approx((rows.mean() - half, rows.mean() + half), rel=1e-9)
    for key in ("nll", "brier", "accuracy"):
        low, high = confidence_interval(key, softmax(logits, axis=1), labels)
        assert intervals[key] == pytest.approx((low, high), abs=0.15 * (high - low))
    assert "classwise_ece" not in intervals


def test_adaptive_bins_of_cells_are_those_of_samples_that_tie():
    generator = np.random.default_rng(3)
    confidences = generator.choice([0.31, 0.5, 0.77, 0.9, 0.999], size=997, p=[0.1, 0.3, 0.3, 0.2, 0.1])
    pairs = scored_pairs(confidences, generator.random(997) < confidences)
    sums = EvaluationSums(pairs=True)
    sums.add(pairs)
    expected = TopCells(pairs, 15, adaptive=True)
    _, found = sums.cells(METRICS["adaptive_ece"])
    for name in ("counts", "said", "came"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-9)
    for one, other in zip(found.parts, expected.parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_leaning_is_that_of_the_rows():
    for sharpness in (0.4, 0.98, 1.0, 1.02, 1.05, 2.5):
        logits, labels = draw(sharpness=sharpness)
        assert added_up(logits, labels).leaning == leaning(Scored.from_logits(logits, labels)), sharpness


@pytest.mark.parametrize("sharpness", [0.13, 0.5, 1.0, 3.7, 11.0])
@pytest.mark.parametrize("k", [3, 200])
def test_the_temperature_is_that_of_smallest_nll(sharpness, k):
    logits, labels = draw(n=800, k=k, sharpness=sharpness)
    found = added_up(logits, labels).temperature
    best = minimize_scalar(lambda t: nll(logits, labels, np.exp(t)), bounds=(-3, 3), options={"xatol": 1e-10})
    assert found == pytest.approx(np.exp(best.x), rel=2e-4)
    assert nll(logits, labels, found) == pytest.approx(best.fun, rel=1e-7)


def test_masked_classes_and_impossible_labels():
    logits, labels = draw()
    logits[:, 4][labels != 4] = -np.inf
    sums = EvaluationSums()
    sums.update_logits(logits, labels)
    best = minimize_scalar(lambda t: nll(logits, labels, np.exp(t)), bounds=(-3, 3), options={"xatol": 1e-10})
    assert sums.temperature == pytest.approx(np.exp(best.x), rel=2e-4)
    sums.update([[1.0, 0, 0, 0, 0]], [1])
    assert sums.temperature is None and sums.compute()["nll"] == np.inf
    assert "nll" not in sums.appraise()[0]


def test_no_temperature_of_answers_that_are_all_right_nor_where_none_was_asked_for():
    sums = EvaluationSums()
    sums.update_logits([[3.0, 0.0], [0.0, 2.0]], [0, 1])
    assert sums.temperature is None
    sums = EvaluationSums(temperatures=False)
    sums.update_logits(*draw())
    assert sums.temperature is None
    whole = added_up(*draw())
    whole.merge(sums)  # some of it is not known
    assert whole.temperature is None


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_comparisons_are_those_of_the_rows(noise):
    logits, labels = draw(k=4)
    others = 0.7 * logits + noise * np.random.default_rng(9).normal(size=logits.shape)
    a, b = added_up(logits, labels), added_up(others, labels)
    together = ComparisonSums()
    for part in (slice(0, 1100), slice(1100, None)):
        scored = [Scored.from_logits(one[part], labels[part]) for one in (logits, others)]
        together.add(*scored)
    assert together.same_samples
    found = compare_all(a, b, together)
    assert list(found) == ["accuracy", "nll", "brier", "ece", "mce"]
    scored = [Scored.from_logits(one, labels) for one in (logits, others)]
    for key, change in found.items():
        expected = compare_scored(METRICS[key], *scored)
        assert change.difference == pytest.approx(expected.difference, abs=1e-12)
        slack = 0.12 * (expected.high - expected.low)  # other draws of the same law
        assert (change.low, change.high) == pytest.approx((expected.low, expected.high), abs=slack), key
        assert change.verdict == expected.verdict
        turned = compare_all(b, a, turn(together))[key]
        assert (turned.low, turned.high) == pytest.approx((-change.high, -change.low), abs=1e-12)
    rows = [-log_softmax(one, axis=1)[np.arange(len(labels)), labels] for one in (logits, others)]
    apart = compare_all(a, b)["nll"]
    error = np.sqrt(sum(one.var(ddof=1) for one in rows) / len(labels))
    assert apart.high - apart.low == pytest.approx(2 * norm.ppf(0.95) * error, rel=1e-9)


def turn(together):
    turned = ComparisonSums()
    names = {"gaps_a": "gaps_b", "gaps_b": "gaps_a"}
    turned.arrays = {name: together.arrays[names.get(name, name)].T for name in together.arrays}
    return turned


def test_labels_tell_whether_samples_are_the_same():
    logits, labels = draw()
    pairs = scored_pairs([0.5] * len(labels), [True] * len(labels))
    scored = Scored.from_logits(logits, labels)
    for other in (Scored.from_logits(logits, labels[::-1]), Scored.from_logits(logits[1:], labels[1:]), pairs):
        together = ComparisonSums()
        together.add(scored, other)
        assert not together.same_samples


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([0.5, np.nan], [0, 1], r"confidence must lie in \[0, 1\], got values from nan"),
        ([0.5, 1.5], [0, 1], r"\[0, 1\], got values from 0.5 to 1.5. If these are percentages"),
        ([0.5, -0.1], [0, 1], "from -0.1 to 0.5"),
        ([0.5, 0.5], [0, 2], "correct must be 0 or 1"),
        ([0.5, 0.5], [0, np.nan], "correct must be 0 or 1"),
        ([0.5], [0, 1], r"shapes \(1,\) and \(2,\)"),
        ([], [], "at least 1 sample"),
        ([[0.5]], [[1]], "one number for each"),
        ([0.5, 0.5], ["a", "b"], "correct must hold real numbers"),
    ],
)
def test_what_are_no_pairs_is_refused(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSums(pairs=True).update_pairs(confidence, correct)


def test_sums_of_one_kind_take_no_other():
    logits, labels = draw()
    with pytest.raises(ValueError, match="by update_pairs, and of nothing else"):
        EvaluationSums(pairs=True).update_logits(logits, labels)
    with pytest.raises(ValueError, match=r"EvaluationSums\(pairs=True\) takes confidences"):
        EvaluationSums().update_pairs([0.5], [True])
    pairs, whole = EvaluationSums(pairs=True), added_up(logits, labels)
    pairs.update_pairs([0.5], [True])
    with pytest.raises(ValueError, match="Only equal metrics can be merged"):
        whole.merge(pairs)
    pairs.merge(EvaluationSums.from_bytes(pairs.to_bytes()))
    assert pairs.num_samples == 2 and pairs.compute() == {"accuracy": 1.0, "ece": 0.5, "mce": 0.5, "adaptive_ece": 0.5}


def test_bytes_that_are_no_sums_are_refused():
    good = added_up(*draw()).to_bytes()
    for data in (b"", b"x" * 100, good[:-9], good[:5000], EvaluationSums(3).to_bytes()[:-1]):
        with pytest.raises(ValueError, match="These are no sums that to_bytes gave"):
            EvaluationSums.from_bytes(data)
    from safetensors.numpy import save

    for arrays in ({"a": np.zeros(3)}, {"counts": np.zeros(15)}):
        with pytest.raises(ValueError, match="no sums|not one of an accumulator"):
            EvaluationSums.from_bytes(save(arrays))
