# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Metrics added up batch by batch are those of the whole, AdaECE within its stated bound, in a Trainer too."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from small_models import arguments, build, samples
from transformers import EvalPrediction, Trainer, TrainingArguments

from hf_focal import (
    BatchMetrics,
    CalibrationAccumulator,
    CalibrationTrainer,
    adaptive_calibration_error,
    calibration_metrics,
    calibration_metrics_from_logits,
    compute_metrics,
)
from hf_focal.metrics import METRICS
from hf_focal.metrics.adaptive_ece import _N_CELLS, _cell_indices, _cell_widths


EXACT = [key for key in METRICS if key != "adaptive_ece"]


def draw(seed, n=500, k=4, sharpness=2.0):
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(n, k))
    return logits, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


def check(accumulator, expected, slack=1e-12):
    actual = accumulator.compute(error_bound=True)
    bound = actual.pop("adaptive_ece_error_bound")
    assert list(actual) == list(METRICS)
    for key in EXACT:
        assert actual[key] == pytest.approx(expected[key], abs=slack)
    assert abs(actual["adaptive_ece"] - expected["adaptive_ece"]) <= bound + slack
    return bound


# ---- Adding up ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sharpness", [0.1, 2.0, 30.0])
@pytest.mark.parametrize("n_bins", [1, 7, 15])
def test_batches_give_the_metrics_of_the_whole(n_bins, sharpness, dtype):
    logits, labels = draw(0, sharpness=sharpness)
    probabilities = softmax(logits, axis=1).astype(dtype)
    probabilities[:, 0] += np.float32(1e-7)  # no zero
    accumulator = CalibrationAccumulator(n_bins=n_bins)
    for start in range(0, 500, 64):
        accumulator.update(probabilities[start : start + 64], labels[start : start + 64])
    check(accumulator, calibration_metrics(probabilities, labels, n_bins))
    assert accumulator.num_samples == 500


@pytest.mark.parametrize(("temperature", "gamma"), [(1.0, 0.0), (2.5, 0.0), (1.5, 2.0)])
def test_batches_of_logits_give_the_metrics_of_the_whole(temperature, gamma):
    logits, labels = draw(1, sharpness=400.0)
    accumulator = CalibrationAccumulator()
    for rows in np.array_split(np.arange(500), 7):
        accumulator.update_logits(torch.tensor(logits[rows]), torch.tensor(labels[rows]), temperature, gamma)
    expected = calibration_metrics_from_logits(logits, labels, temperature=temperature, gamma=gamma)
    check(accumulator, expected, slack=1e-9)
    assert np.isfinite(expected["nll"])


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.integers(2, 5), st.integers(1, 20),
    st.sampled_from([None, 1, 2]),
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_merging_two_halves_equals_the_whole(seed, n_first, n_second, k, n_bins, digits):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(k), n_first + n_second)
    if digits is not None:  # ties, edges, zeros and ones
        probabilities = probabilities.round(digits)
        probabilities[:, 0] = 1 - probabilities[:, 1:].sum(axis=1)
        probabilities = np.abs(probabilities)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = generator.integers(0, k, n_first + n_second)
    whole, first, second = (CalibrationAccumulator(n_bins=n_bins) for _ in range(3))
    whole.update(probabilities, labels)
    first.update(probabilities[:n_first], labels[:n_first])
    second.update(probabilities[n_first:], labels[n_first:])
    untouched = second.compute()
    first.merge(second)
    merged, expected = first.compute(error_bound=True), whole.compute(error_bound=True)
    assert merged == pytest.approx(expected, abs=1e-12)
    assert second.compute() == untouched
    check(first, calibration_metrics(probabilities, labels, n_bins))


def test_memory_does_not_grow_with_the_samples():
    accumulator = CalibrationAccumulator()
    sizes = []
    for seed in range(3):
        logits, labels = draw(seed, n=1000)
        accumulator.update_logits(logits, labels)
        sizes.append(sum(value.nbytes for value in accumulator.state_dict().values()))
    assert sizes[0] == sizes[1] == sizes[2] < 500_000


def test_reset_forgets_and_a_state_goes_on_elsewhere():
    logits, labels = draw(2)
    accumulator = CalibrationAccumulator()
    accumulator.update_logits(logits[:300], labels[:300])
    other = CalibrationAccumulator()
    other.load_state_dict(accumulator.state_dict())
    other.update_logits(logits[300:], labels[300:])
    check(other, calibration_metrics_from_logits(logits, labels))
    assert accumulator.num_samples == 300  # the state was a copy
    accumulator.reset()
    accumulator.update_logits(*draw(3, k=7))  # another number of classes
    check(accumulator, calibration_metrics_from_logits(*draw(3, k=7)))


# ---- The bound of AdaECE --------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=200)
def test_cells_hold_what_their_width_says_in_order(seed):
    generator = np.random.default_rng(seed)
    u = np.concatenate([generator.uniform(0, 1, 300), 2.0 ** -generator.uniform(0, 60, 300), [0.0, 2.0**-7, 2.0**-53]])
    confidences = np.sort(1 - u[u < 1])
    cells = _cell_indices(confidences)
    assert (np.diff(cells) <= 0).all() and cells.min() >= 0 and cells.max() < _N_CELLS
    for cell in np.unique(cells):
        inside = confidences[cells == cell]
        assert inside.max() - inside.min() <= _cell_widths()[cell]


def two_classes(confidences, correct):
    return np.stack([confidences, 1 - confidences], axis=1), 1 - np.asarray(correct, dtype=int)


ORDERS = {
    "right first": lambda c: np.sort(c)[::-1],
    "wrong first": np.sort,
    "shuffled": np.random.default_rng(0).permutation,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("low", [0.6, 0.9921875, 0.99999])
@pytest.mark.parametrize("n_bins", [1, 2, 15])
def test_bound_holds_where_all_confidences_lie_inside_one_cell(n_bins, low, share, order):
    """The worst that the histogram can meet: it cannot see which of the samples are right."""
    confidences = low + np.linspace(1e-3, 0.9, 1000) * 2.0**-25
    assert len(np.unique(_cell_indices(confidences))) == 1
    correct = ORDERS[order](np.arange(1000) < 1000 * share)
    probabilities, labels = two_classes(confidences, correct)
    accumulator = CalibrationAccumulator(n_bins=n_bins)
    accumulator.update(probabilities, labels)
    bound = check(accumulator, calibration_metrics(probabilities, labels, n_bins))
    if n_bins == 1 or share in (0.0, 1.0):
        assert bound <= (2.0**-13 if n_bins > 1 else 0.0)  # whether right or wrong is not hidden then
    exact = adaptive_calibration_error(probabilities, labels, n_bins)
    error = abs(accumulator.compute()["adaptive_ece"] - exact)
    if order != "shuffled" and n_bins > 1 and share == 0.5 and low == 0.6:
        assert error > 0.1 * bound > 0.01  # the bound is not met by being useless


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 20), st.integers(1, 4))
@settings(deadline=None, max_examples=200)
def test_bound_holds_for_any_confidences(seed, n, n_bins, n_cells):
    generator = np.random.default_rng(seed)
    base = generator.choice([0.5, 0.7, 0.75 - 2.0**-13, 0.99, 0.9999, 1 - 2.0**-20], n_cells)
    confidences = np.minimum(generator.choice(base, n) + generator.uniform(0, 2.0**-13, n), 1.0)
    probabilities, labels = two_classes(confidences, generator.uniform(size=n) < generator.uniform())
    accumulator = CalibrationAccumulator(n_bins=n_bins)
    accumulator.update(probabilities, labels)
    check(accumulator, calibration_metrics(probabilities, labels, n_bins))


def test_bound_holds_for_rows_that_sum_to_a_little_more_than_one():
    confidences = 1 + np.linspace(0, 9e-4, 100)
    probabilities, labels = np.stack([confidences, np.zeros(100)], axis=1), np.arange(100) // 50
    accumulator = CalibrationAccumulator()
    accumulator.update(probabilities, labels)
    with np.errstate(divide="ignore"):
        check(accumulator, {**calibration_metrics(probabilities, labels), "nll": np.inf})


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 20.0])
def test_bound_is_small_on_ordinary_predictions(sharpness):
    logits, labels = draw(4, n=20_000, k=10, sharpness=sharpness)
    accumulator = CalibrationAccumulator()
    accumulator.update_logits(logits, labels)
    assert check(accumulator, calibration_metrics_from_logits(logits, labels)) < 0.004


# ---- Bad input ------------------------------------------------------------------------------------------------------


def test_nothing_seen_is_said():
    with pytest.raises(ValueError, match="No samples"):
        CalibrationAccumulator().compute()
    with pytest.raises(ValueError, match="No samples"):
        CalibrationAccumulator(num_labels=3).compute()


def test_another_number_of_classes_or_bins_is_refused_and_nothing_added():
    accumulator = CalibrationAccumulator(num_labels=3)
    with pytest.raises(ValueError, match="3 so far, now 2"):
        accumulator.update([[0.5, 0.5]], [0])
    accumulator.update([[0.5, 0.5, 0.0]], [0])
    other = CalibrationAccumulator()
    other.update([[0.5, 0.5]], [0])
    with pytest.raises(ValueError, match="3 so far, now 2"):
        accumulator.merge(other)
    with pytest.raises(ValueError, match="15 here, 3 there"):
        accumulator.merge(CalibrationAccumulator(n_bins=3))
    with pytest.raises(ValueError, match="n_bins=3"):
        CalibrationAccumulator(n_bins=3).load_state_dict(accumulator.state_dict())
    assert accumulator.num_samples == 1


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[2.0, -1.0]], [0], "If these are logits, apply a softmax"),
        ([[0.5, 0.5]], [2], "labels must lie in"),
        ([[np.nan, 0.5]], [0], "finite"),
        (np.zeros((0, 2)), [], "at least one sample"),
    ],
)
def test_bad_batches_are_refused_and_not_added(probabilities, labels, message):
    accumulator = CalibrationAccumulator()
    with pytest.raises(ValueError, match=message):
        accumulator.update(probabilities, labels)
    assert accumulator.num_samples == 0
    for kwargs, name in (({"temperature": 0.0}, "temperature"), ({"gamma": -1.0}, "gamma")):
        with pytest.raises(ValueError, match=name):
            accumulator.update_logits([[0.0, 1.0]], [0], **kwargs)
    for kwargs, error in (({"n_bins": 0}, ValueError), ({"n_bins": 2.5}, TypeError), ({"num_labels": 0}, ValueError)):
        with pytest.raises(error):
            CalibrationAccumulator(**kwargs)


# ---- In a Trainer ---------------------------------------------------------------------------------------------------


def evaluations(folder, make, **kwargs):
    data = samples("vit", 50)
    values = []
    for batch in (False, True):
        args = {"per_device_eval_batch_size": 8, "batch_eval_metrics": batch, **kwargs}  # the last batch has 2
        trainer = make(data, folder, args)
        first = trainer.evaluate()
        assert trainer.evaluate()["eval_nll"] == first["eval_nll"]  # nothing is left over
        values.append({key: first[f"eval_{key}"] for key in METRICS})
    return values


def ours(data, folder, args):
    return CalibrationTrainer(model=build(), args=arguments(folder, n_bins=7, **args), eval_dataset=data)


def plain(data, folder, args):
    return Trainer(
        model=build(), args=arguments(folder, TrainingArguments, **args), eval_dataset=data,
        compute_metrics=functools.partial(compute_metrics, n_bins=7),
    )  # fmt: skip


@pytest.mark.parametrize("make", [ours, plain])
def test_trainer_evaluates_in_batches_to_the_same_metrics(tmp_path, make):
    whole, batches = evaluations(tmp_path, make)
    assert set(batches) == set(METRICS)
    for key in EXACT:
        assert batches[key] == pytest.approx(whole[key], abs=1e-6)
    assert batches["adaptive_ece"] == pytest.approx(whole["adaptive_ece"], abs=0.05)


def test_evaluation_in_batches_holds_one_batch_of_logits(tmp_path, monkeypatch):
    seen = []
    update = CalibrationAccumulator.update_logits
    monkeypatch.setattr(
        CalibrationAccumulator,
        "update_logits",
        lambda self, logits, *rest, **scaling: (seen.append(len(logits)), update(self, logits, *rest, **scaling)),
    )
    args = arguments(tmp_path, batch_eval_metrics=True, per_device_eval_batch_size=8)
    CalibrationTrainer(model=build(), args=args, eval_dataset=samples("vit", 50)).evaluate()
    assert seen == [8] * 6 + [2]


def test_unfolded_temperature_counts_in_batches_too(tmp_path, overconfident):  # noqa: F811
    model, data = overconfident
    args = arguments(tmp_path, batch_eval_metrics=True, per_device_eval_batch_size=64)
    trainer = CalibrationTrainer(model=model, args=args, eval_dataset=data)
    fit = trainer.calibrate(data, criterion="nll", fold=False)
    assert trainer.evaluate()["eval_nll"] == pytest.approx(fit.after["nll"], rel=1e-6)
    assert fit.after["nll"] < fit.before["nll"]


def test_an_evaluation_that_was_broken_off_leaves_nothing_behind(tmp_path):
    args = arguments(tmp_path, batch_eval_metrics=True, per_device_eval_batch_size=8)
    data = samples("vit", 50)
    trainer = CalibrationTrainer(model=build(), args=args, eval_dataset=data)
    expected = trainer.evaluate()["eval_nll"]
    broken = samples("vit", 20, seed=1) + [{"pixel_values": torch.zeros(1), "labels": 0}]
    with pytest.raises(Exception):  # noqa: B017  (whatever the collator says)
        trainer.evaluate(broken)
    assert trainer.evaluate()["eval_nll"] == expected


def test_ignored_labels_and_tokens_are_left_out_of_batches():
    generator = np.random.default_rng(5)
    logits = torch.tensor(generator.normal(size=(3, 4, 6, 5)))
    labels = torch.tensor(generator.integers(0, 5, (3, 4, 6)))
    labels[0, :, 3:] = -100
    labels[1] = -100  # a whole batch
    for metrics in (BatchMetrics(), compute_metrics):
        results = [
            metrics(EvalPrediction(predictions=(z, None), label_ids=y), compute_result=step == 2)
            for step, (z, y) in enumerate(zip(logits, labels, strict=True))
        ]
        assert results[:2] == [{}, {}]
        whole = EvalPrediction(predictions=logits.numpy().reshape(12, 6, 5), label_ids=labels.numpy().reshape(12, 6))
        for key, value in compute_metrics(whole).items():
            assert results[2][key] == pytest.approx(value, abs=1e-12 if key != "adaptive_ece" else 0.05)


def test_a_bad_batch_drops_what_compute_metrics_has_seen():
    good = EvalPrediction(predictions=torch.zeros(4, 3), label_ids=torch.zeros(4, dtype=torch.long))
    compute_metrics(good, compute_result=False)
    with pytest.raises(ValueError, match="label_ids"):
        compute_metrics(EvalPrediction(predictions=torch.zeros(4, 3), label_ids=torch.zeros(3)), compute_result=False)
    assert compute_metrics.batches == {}
