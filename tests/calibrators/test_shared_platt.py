# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""One scale and one shift for all labels: the minimum of the NLL of all outputs, against SciPy and derivatives."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from hf_focal import calibrator_of, fit_calibrator
from hf_focal.calibrators import PlattScaling


def outputs(count, scale=0.7, shift=-1.5, centre=-8.0, labels=4, seed=0):
    """Scores z of some labels, and whether each holds, with the probability `sigmoid(scale * z + shift)`."""
    generator = np.random.default_rng(seed)
    z = centre + 3 * generator.normal(size=(count, labels)) + np.arange(labels)
    return z, (generator.random(z.shape) < expit(scale * z + shift)).astype(int)


def nll(numbers, z, holds, known):
    p = expit(numbers[0] * z + numbers[1])
    return -np.log(np.where(holds == 1, p, 1 - p))[known].mean()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("scale, shift, centre", [(0.7, 4.0, -8.0), (3.0, 0.5, 0.0), (0.2, -2.0, 20.0)])
def test_the_fit_is_the_minimum_of_the_nll_of_all_known_outputs(scale, shift, centre, dtype):
    logits, labels = outputs(1000, scale, shift, centre)
    labels[::7, 1] = -100
    known, logits = labels != -100, logits.astype(dtype)
    fit = fit_calibrator(logits, labels, method="platt", shared=True)
    found, z = fit.calibrator, logits.astype(np.float64)
    assert len({*found.scale}) == len({*found.shift}) == 1 and len(found.scale) == 4
    numbers = found.scale[0], found.shift[0]
    off = (expit(numbers[0] * z + numbers[1]) - labels)[known]
    assert abs(off.mean()) < 1e-11 and abs((off * z[known]).mean()) < 1e-10  # both derivatives
    options = {"xatol": 1e-9, "fatol": 1e-14}
    other = minimize(nll, (1.0, 0.0), args=(z, labels, known), method="Nelder-Mead", options=options)
    np.testing.assert_allclose(numbers, other.x, rtol=1e-5, atol=1e-6)
    assert fit.after["nll"] == pytest.approx(nll(numbers, z, labels, known), abs=1e-12) and fit.helped
    assert fit.n_samples == 1000 and fit.criterion == "nll"
    assert calibrator_of({"method": "platt", **found.to_record()}) == found
    words = f"All of its 4 logits are multiplied by {numbers[0]:.4g}, and {numbers[1]:+.3g} is added to each."
    assert found.words == words
    np.testing.assert_allclose(fit.probabilities(z), expit(numbers[0] * z + numbers[1]), rtol=1e-12)


def test_labels_that_differ_get_maps_of_their_own_only_where_these_are_not_shared():
    logits, labels = outputs(3000, centre=-2.0)
    labels[:, 0] = np.random.default_rng(1).random(3000) < expit(2.0 * logits[:, 0] + 2)
    assert len({*fit_calibrator(logits, labels, method="platt").calibrator.scale}) > 1
    assert len({*fit_calibrator(logits, labels, method="platt", shared=True).calibrator.scale}) == 1
    without = fit_calibrator(logits, labels, method="platt", shared=True, intercept=False).calibrator
    assert without.shift == () and len({*without.scale}) == 1


def test_scores_that_need_nothing_or_tell_nothing_are_left_alone():
    logits, labels = outputs(600, 1.0, 0.0, 0.0)
    fit = fit_calibrator(logits, labels, method="platt", shared=True)
    assert fit.unchanged and fit.calibrator == PlattScaling((1.0,) * 4, ())
    against = fit_calibrator(logits, 1 - labels, method="platt", shared=True)
    assert against.unchanged and "do not rise with the labels" in against.why


def test_the_option_is_for_this_method_and_is_true_or_false():
    logits, labels = outputs(300)
    with pytest.raises(ValueError, match="shared must be False, or True for one scale and one shift.* got 'yes'"):
        fit_calibrator(logits, labels, method="platt", shared="yes")
    for method in ("auto", "temperature"):
        with pytest.raises(ValueError, match="shared=True is for method='platt' alone"):
            fit_calibrator(logits, labels, method=method, shared=True)
