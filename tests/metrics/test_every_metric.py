# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What is true of every registered metric, and of one that somebody registers: by being there it is tested."""

import math

import numpy as np
import pytest
import references
from scipy.special import softmax

from hf_focal import (
    bootstrap_interval,
    calibration_metrics,
    calibration_metrics_from_logits,
    confidence_interval,
    noise_floor,
    paired_bootstrap,
)
from hf_focal.metrics import METRICS, CalibrationAccumulator, Scored, register_metric
from hf_focal.metrics.base import scaling_of
from hf_focal.metrics.noise import appraise


def rmsce(bins):
    gaps = (bins.correct_sums - bins.confidence_sums) / np.maximum(bins.counts, 1)
    return float(np.sqrt((bins.counts * gaps**2).sum() / bins.counts.sum()))


def second_guess(scored, n_bins):
    """Share of samples whose true class is among the two most probable, by way of the matrix."""
    ranks = (scored.probabilities > scored.true_probabilities[:, None]).sum(axis=1)
    return float((ranks < 2).mean())


PLUGINS = {
    "rmsce": (lambda scored, n_bins: rmsce(scored.bins(n_bins)), {"running": lambda sums: rmsce(sums.bins)}),
    "top_two": (second_guess, {"lower_is_better": False, "binned": False, "whole_rows": True}),
}
KEYS = [*METRICS, *PLUGINS]
every_metric = pytest.mark.parametrize("key", KEYS)


@pytest.fixture(autouse=True)
def plugins():
    for key, (value, details) in PLUGINS.items():
        assert register_metric(key, title=key.upper(), **details)(value) is value
    yield
    for key in PLUGINS:
        del METRICS[key]


def draw(seed=0, n=300, k=5, sharpness=2.0):
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(n, k))
    return logits, (logits / 1.5 + generator.gumbel(size=logits.shape)).argmax(axis=1)


def scored(**options):
    logits, labels = draw(**options)
    return Scored(softmax(logits, axis=1), labels)


def rows_drawn(n=300, seed=3):
    return np.random.default_rng(seed).integers(0, n, n)


def close(value):
    return pytest.approx(value, abs=1e-12)


# ---- The value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", references.METRICS)
@pytest.mark.parametrize("options", [{}, {"k": 2}, {"n": 1}, {"n": 9}, {"k": 200, "n": 40}, {"sharpness": 20.0}])
def test_the_value_is_that_of_the_plain_definition(key, options):
    data = scored(**options)
    bins = (15,) if METRICS[key].binned else ()
    assert METRICS[key].value(data, 15) == close(references.METRICS[key](data.probabilities, data.labels, *bins))


@every_metric
def test_the_order_of_samples_does_not_matter(key):
    data, order = scored(), np.random.default_rng(1).permutation(300)
    again = Scored(data.probabilities[order], data.labels[order])
    assert METRICS[key].value(again, 10) == close(METRICS[key].value(data, 10))


@every_metric
def test_the_number_of_bins_matters_where_it_is_said_to(key):
    data = scored()
    assert (METRICS[key].value(data, 3) != METRICS[key].value(data, 15)) == METRICS[key].binned


@every_metric
@pytest.mark.parametrize("options", [{}, {"n": 1}, {"sharpness": 0.01}, {"sharpness": 50.0}])
def test_values_stay_within_the_bounds(key, options):
    low, high = METRICS[key].bounds
    assert low - 1e-12 <= METRICS[key].value(scored(**options), 15) <= high + 1e-12


@every_metric
def test_perfect_predictions_score_best(key):
    metric, labels = METRICS[key], draw()[1]
    perfect = metric.value(Scored(np.eye(5)[labels], labels), 15)
    assert perfect == close(metric.bounds[0] if metric.lower_is_better else metric.bounds[1])
    others = [metric.value(scored(seed=seed, sharpness=3.0), 15) for seed in range(5)]
    assert all(perfect < other if metric.lower_is_better else perfect > other for other in others)


@every_metric
@pytest.mark.parametrize("k", [2, 5, 300])
@pytest.mark.parametrize(("temperature", "gamma"), [(1.0, 0.0), (2.5, 0.0), (1.5, 3.0)])
def test_logits_give_what_their_softmax_gives(key, k, temperature, gamma):
    logits, labels = draw(k=k)
    of_logits = Scored.from_logits(logits, labels, scaling_of(temperature, gamma))
    expected = METRICS[key].value(Scored(of_logits.probabilities, labels), 15)
    assert METRICS[key].value(of_logits, 15) == close(expected)
    measured = calibration_metrics_from_logits(logits, labels, 15, temperature, gamma)
    assert measured[key] == close(expected) and list(measured) == KEYS


@every_metric
def test_the_public_function_gives_the_value(key):
    metric, data = METRICS[key], scored()
    assert calibration_metrics(data.probabilities, data.labels)[key] == metric.value(data, 15)
    if metric.function is not None:
        assert metric.function(data.probabilities, data.labels) == metric.value(data, 15)


# ---- Resampled and running ------------------------------------------------------------------------------------------


@every_metric
@pytest.mark.parametrize("of_logits", [False, True])
def test_the_resampled_form_is_the_value_of_the_rows_drawn(key, of_logits):
    logits, labels = draw()
    data = Scored.from_logits(logits, labels) if of_logits else scored()
    rows = rows_drawn()
    expected = METRICS[key].value(Scored(data.probabilities[rows], labels[rows]), 7)
    assert METRICS[key].value(data.take(rows), 7) == close(expected)
    assert METRICS[key].statistic(data, 7)(rows) == close(expected)
    assert METRICS[key].value(data.take(rows).take(rows), 7) == close(METRICS[key].statistic(data, 7)(rows[rows]))


@every_metric
def test_the_running_form_over_merged_batches_is_the_value_of_the_whole(key):
    data = scored()
    first, second = CalibrationAccumulator(n_bins=7), CalibrationAccumulator(n_bins=7)
    for accumulator, rows in ((first, slice(0, 90)), (first, slice(90, 100)), (second, slice(100, 300))):
        accumulator.update(data.probabilities[rows], data.labels[rows])
    first.merge(second)
    found = first.compute(error_bound=True)
    assert (key in found) == (METRICS[key].running is not None)
    if key in found:
        bound = found.get(f"{key}_error_bound", 0.0)
        assert abs(found[key] - METRICS[key].value(data, 7)) <= bound + 1e-12


@every_metric
def test_intervals_take_the_metric_by_its_name_and_its_functions(key):
    metric, data = METRICS[key], scored()
    interval = bootstrap_interval(key, data.probabilities, data.labels, n_resamples=20)
    assert interval[0] < interval[1]
    for function in {metric.value, metric.function} - {None}:
        assert bootstrap_interval(function, data.probabilities, data.labels, n_resamples=20) == interval


@every_metric
def test_the_interval_and_the_floor_are_within_the_bounds_of_the_metric(key):
    metric, data = METRICS[key], scored()
    low, high = confidence_interval(key, data.probabilities, data.labels)
    assert metric.bounds[0] <= low < high <= metric.bounds[1]
    assert confidence_interval(metric.value, data.probabilities, data.labels) == (low, high)
    intervals, floors = appraise(data)
    assert intervals[key] == (low, high)
    assert (key in floors) == (metric.gap_error(data, 15) is not None)
    assert {"ece", "adaptive_ece", "classwise_ece", "mce", "rmsce"} <= {*floors} and "nll" not in floors
    floor = noise_floor(key, data.probabilities)
    assert metric.bounds[0] <= floor.low <= floor.median <= floor.high <= metric.bounds[1]
    assert floors.get(key, floor) == floor


@every_metric
def test_of_two_models_the_better_is_told_by_the_direction(key):
    probabilities, labels = scored().probabilities, draw()[1]
    perfect = np.eye(5)[labels]
    assert paired_bootstrap(key, perfect, probabilities, labels, n_resamples=20).verdict == "a_is_better"


# ---- The entry ------------------------------------------------------------------------------------------------------


@every_metric
def test_the_entry_says_what_tables_need(key):
    metric = METRICS[key]
    assert metric.key == key and metric.title and format(0.1234, metric.style)
    assert metric.bounds[0] < metric.bounds[1]
    if metric.function is not None:
        doc = metric.function.__doc__
        for part in ("Args:", "probabilities (", "labels (", "Returns:", "Raises:", "Example:", ">>> "):
            assert part in doc
        assert ("n_bins (" in doc) == metric.binned
        assert ("lower is better" in doc) == metric.lower_is_better


def test_the_registry_is_in_the_order_of_tables():
    assert KEYS[:7] == ["accuracy", "nll", "brier", "ece", "mce", "adaptive_ece", "classwise_ece"]


def test_a_name_that_is_taken_or_none_is_refused():
    with pytest.raises(ValueError, match="There is a metric 'ece' already"):
        register_metric("ece", title="Mine")(second_guess)
    assert METRICS["ece"].title == "ECE"
    with pytest.raises(ValueError, match="must be an identifier, such as 'ece', got 'my metric'"):
        register_metric("my metric", title="Mine")(second_guess)


# ---- Scored ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [3, 200])
def test_scored_of_logits_knows_what_scored_of_probabilities_knows(k):
    logits, labels = draw(k=k)
    logits[:5] = 0  # ties
    of_logits = Scored.from_logits(logits.astype(np.float32), labels)
    plain = Scored(of_logits.probabilities, labels)
    for name in ("confidences", "correct", "true_probabilities", "brier", "labels"):
        np.testing.assert_array_equal(getattr(of_logits, name), getattr(plain, name))
    np.testing.assert_allclose(of_logits.nll, plain.nll, atol=1e-12)
    assert (len(of_logits), of_logits.num_labels) == (300, k)


def test_scored_of_logits_asks_for_each_block_once_and_holds_no_matrix():
    rows = []

    class Halved:
        def calibrated_logits(self, logits):
            rows.append(len(logits))
            return logits / 2

    logits, labels = draw(n=3000, k=1000)
    of_logits = Scored.from_logits(logits, labels, Halved())
    for metric in ("classwise_ece", "accuracy", "nll", "brier", "ece", "mce", "adaptive_ece"):
        METRICS[metric].value(of_logits, 15)
    assert sum(rows) == 3000 and max(rows) < 300
    kept = [
        value.nbytes for value in vars(of_logits).values() if isinstance(value, np.ndarray) and value is not logits
    ]
    assert sum(kept) < 50 * 3000
    np.testing.assert_allclose(of_logits.probabilities, softmax(logits / 2, axis=1), atol=1e-15)


def test_what_was_counted_is_counted_once():
    data = scored()
    assert data.bins(15) is data.bins(15) and data.bins(15, adaptive=True) is data.bins(15, adaptive=True)
    assert len({id(data.bins(*which)) for which in ((7,), (15,), (15, True))}) == 3


def test_a_metric_that_goes_through_all_probabilities_is_left_out_where_that_takes_minutes(monkeypatch):
    assert set(appraise(scored())[0]) == set(KEYS)
    monkeypatch.setattr("hf_focal.metrics.noise._MANY", 1000)
    assert set(appraise(scored())[0]) == set(KEYS) - {"classwise_ece", "top_two"}


# ---- What earlier versions gave -------------------------------------------------------------------------------------

# Percentile intervals of samples, and basic ones of groups of four.
INTERVALS = {
    "accuracy": ((0.2575, 0.4258333333333333), (0.21500000000000002, 0.4425)),
    "nll": ((1.6407626670880635, 2.486627689696025), (1.6770359343946426, 2.448047094699197)),
    "brier": ((0.8523500121105609, 1.1009342196077103), (0.7966778461557835, 1.1510493941903106)),
    "ece": ((0.33822947823197075, 0.5147341309405118), (0.2854943502824858, 0.5172133599202393)),
    "mce": ((0.6391201395812562, 0.9481555333998006), (0.46809571286141594, 0.7310732139246598)),
    "classwise_ece": ((0.3010125180015509, 0.3951561980724493), (0.20984103245818103, 0.36245264207377853)),
}


@pytest.mark.parametrize("key", INTERVALS)
def test_a_seed_gives_the_interval_that_it_always_gave(key):
    generator = np.random.default_rng(20)
    logits, labels = generator.normal(size=(60, 3)) * 2, generator.integers(0, 3, 60)
    probabilities = softmax(logits, axis=1).round(2)
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(axis=1)
    probabilities = np.abs(probabilities) + 1e-3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    samples, groups = INTERVALS[key]
    options = {"n_resamples": 50, "seed": 1}
    tight = {"rel": 1e-14, "abs": 0}  # another machine may round a sum the other way
    assert bootstrap_interval(key, probabilities, labels, **options) == pytest.approx(samples, **tight)
    options |= {"method": "basic", "groups": np.arange(60) // 4}
    assert bootstrap_interval(key, probabilities, labels, **options) == pytest.approx(groups, **tight)


def test_a_state_that_was_saved_before_metrics_were_registered_still_loads():
    for key in PLUGINS:
        METRICS.pop(key)
    cells = [0, 6849, 7873, 9921]

    def sums(values, dtype=float):
        array = np.zeros(14_017, dtype)
        array[cells] = values
        return array

    state = {
        "nll": np.array(1.114360645636249),
        "brier": np.array(0.65625),
        "counts": np.array([0, 1, 3]),
        "confidence_sums": np.array([0, 0.5, 2.625]),
        "correct_sums": np.array([0, 0, 3.0]),
        "classwise_gaps": np.array([[-0.125, -0.5, 0.25], [-0.25, 0.5, 0.125]]),
        "cell_counts": sums([1, 1, 1, 1], int),
        "cell_confidence_sums": sums([1, 0.875, 0.75, 0.5]),
        "cell_correct": sums([1, 1, 1, 0], int),
    }
    accumulator = CalibrationAccumulator(n_bins=3)
    accumulator.load_state_dict(state)
    assert accumulator.num_samples == 4 and accumulator.num_labels == 2
    expected = {"accuracy": 0.75, "nll": 0.27859016140906223, "brier": 0.1640625, "ece": 0.21875, "mce": 0.5}
    assert accumulator.compute() == {**expected, "adaptive_ece": 0.09375, "classwise_ece": 0.21875}
    again = CalibrationAccumulator(n_bins=3)
    again.update([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875], [1.0, 0.0]], [0, 1, 1, 0])
    assert again.state_dict().keys() == state.keys()
    for name, value in again.state_dict().items():
        np.testing.assert_allclose(value, state[name], atol=1e-15)
    for key, (value, details) in PLUGINS.items():
        register_metric(key, title=key.upper(), **details)(value)


def test_sums_of_other_metrics_are_not_mixed():
    without = CalibrationAccumulator()
    with_more = register_metric(
        "largest", title="Largest",
        running=lambda sums: float(sums.arrays["log_sum"]) / sums.num_samples,
        added=lambda data, n_bins: {"log_sum": np.log(data.confidences).sum()},
    )(lambda data, n_bins: float(np.log(data.confidences).mean()))  # fmt: skip
    try:
        other = CalibrationAccumulator()
        other.update([[0.5, 0.5]], [0])
        assert other.compute()["largest"] == close(math.log(0.5)) == with_more(Scored([[0.5, 0.5]], [0]), 15)
        with pytest.raises(ValueError, match="Only equal metrics can be merged"):
            without.merge(other)
        with pytest.raises(ValueError, match="not one of an accumulator of accuracy, nll"):
            without.load_state_dict(other.state_dict())
    finally:
        del METRICS["largest"]
