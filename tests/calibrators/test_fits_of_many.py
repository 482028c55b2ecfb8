# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Fits to logits that are not copied: the same numbers as by hand, whatever is kept from step to step."""

import tempfile
import tracemalloc

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from hf_focal import expected_calibration_error, fit_calibrator, spill
from hf_focal.calibrators import focal, temperature
from hf_focal.calibrators.threshold import promise_after


def drawn(count, classes, factor, seed=0):
    """Float32 logits that are to be divided by a factor, with labels."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, classes)).astype(np.float32)
    return logits, (logits / factor + generator.gumbel(size=logits.shape)).argmax(axis=1)


def mapped(array):
    with tempfile.TemporaryFile() as file:
        file.write(array.tobytes())
        file.flush()
        return np.memmap(file, array.dtype, "r+", shape=array.shape)


SHAPES = [(400, 2, 1.5), (600, 20, 0.4), (500, 300, 3.0), (900, 10, 25.0)]


@pytest.mark.parametrize("kept", [1 << 22, 300])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_temperature_is_where_the_slope_of_the_nll_is_0(shape, kept, monkeypatch):
    monkeypatch.setattr(temperature, "_KEPT", kept)
    logits, labels = drawn(*shape)
    wide = logits.astype(np.float64)

    def slope(log_inverse):
        expected = (softmax(np.exp(log_inverse) * wide, axis=1) * wide).sum(axis=1)
        return (expected - wide[np.arange(len(labels)), labels]).sum()

    right = np.exp(-brentq(slope, np.log(0.01), np.log(100), xtol=1e-14, rtol=1e-14))
    assert temperature.best_temperature(mapped(logits), labels) == pytest.approx(right, rel=1e-11)


@pytest.mark.parametrize("start", [0.011, 0.3, 4.0, 95.0])
def test_the_temperature_does_not_depend_on_where_the_search_begins(start):
    logits, labels = drawn(*SHAPES[1])
    blocks = temperature._Margins(logits)  # noqa: SLF001
    found = temperature._fit_nll(blocks, labels, start)  # noqa: SLF001
    assert found == pytest.approx(temperature.best_temperature(logits, labels), rel=1e-12)


@pytest.mark.parametrize("kept", [1 << 22, 300])
@pytest.mark.parametrize("end", [0.01, 100.0])
def test_ends_of_the_range_are_found_without_copies_too(end, kept, monkeypatch):
    monkeypatch.setattr(temperature, "_KEPT", kept)
    logits, _ = drawn(300, 4, 1.0)
    labels = logits.argmax(axis=1) if end < 1 else logits.argmin(axis=1)
    assert temperature.best_temperature(logits, labels) == end


@pytest.mark.parametrize("kept", [1 << 22, 300])
@pytest.mark.parametrize("shape", [*SHAPES, (300, 3, 0.15)])
def test_the_ece_takes_the_temperature_of_the_plain_loop(shape, kept, monkeypatch):
    monkeypatch.setattr(temperature, "_KEPT", kept)
    logits, labels = drawn(*shape)
    grid = np.arange(1, 101) / 10
    errors = [expected_calibration_error(softmax(logits.astype(float) / one, axis=1), labels) for one in grid]
    right = grid[np.argmin(np.array(errors) > min(errors) + 1e-13)]
    assert fit_calibrator(mapped(logits), labels, "temperature", "ece").calibrator.temperature == right


@pytest.mark.parametrize("method", ["temperature", "bias", "vector", "auto", "focal"])
def test_fits_to_a_file_are_those_to_an_array(method, monkeypatch):
    logits, labels = drawn(400, 3, 2.0)
    logits[:, 1] += 1
    options = {"gamma": 2.0} if method == "focal" else {}
    in_memory = fit_calibrator(logits, labels, method, **options)
    for module, name in ((spill, "IN_MEMORY"), (spill, "_COPIED"), (focal, "LARGE_BLOCK")):
        monkeypatch.setattr(module, name, 500)
    of_file = fit_calibrator(mapped(logits), labels, method, **options)
    assert of_file.method == in_memory.method and of_file.helped
    for moment in ("before", "after"):
        assert getattr(of_file, moment) == pytest.approx(getattr(in_memory, moment), rel=1e-12)
    rows = logits[:20].astype(float)
    assert np.abs(of_file.probabilities(rows) - in_memory.probabilities(rows)).max() < 1e-12
    promises = [promise_after(of_file, one, labels, 0.6, **options) for one in (mapped(logits), logits)]
    assert promises[0].threshold == pytest.approx(promises[1].threshold, abs=1e-12)


@pytest.mark.parametrize("criterion", ["nll", "ece"])
def test_a_fit_holds_no_copy_of_the_logits(criterion, monkeypatch):
    monkeypatch.setattr(temperature, "_KEPT", 1 << 18)  # 2 MB in float64
    logits, labels = drawn(10_000, 500, 2.0)
    logits = mapped(logits)  # 19 MB, and twice that in float64
    fit_calibrator(logits[:200, :2], labels[:200] % 2, "temperature")  # what is imported on the way
    tracemalloc.start()
    try:
        fit = fit_calibrator(logits, labels, "temperature", criterion)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 14 * 2**20 and fit.temperature == pytest.approx(2, rel=0.1)


def test_masked_classes_tell_on_nothing_in_a_file(monkeypatch):
    monkeypatch.setattr(temperature, "_KEPT", 300)
    logits, labels = drawn(500, 6, 2.0)
    masked = np.concatenate([logits, np.full((500, 2), -np.inf, np.float32)], axis=1)
    plain = fit_calibrator(logits, labels, "temperature", guard=False)
    found = fit_calibrator(mapped(masked), labels, "temperature", guard=False)
    assert found.temperature == pytest.approx(plain.temperature, rel=1e-12)
    nll = -log_softmax(logits.astype(float) / plain.temperature, axis=1)[np.arange(500), labels].mean()
    assert found.after["nll"] == pytest.approx(nll, rel=1e-12)
