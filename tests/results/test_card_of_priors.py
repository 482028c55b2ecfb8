# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a card says of priors and class weights, which are known and not fitted."""

import pytest

from hf_focal import About, create_model_card


PRIOR = {"method": "prior", "source": [0.5, 0.5], "target": [0.1, 0.9]}
WEIGHTS = {"method": "class_weights", "weights": [1.0, 4.0]}
FITTED = {"temperature": 1.7, "folded": True, "criterion": "nll", "split": "validation", "n_samples": 400}
TOLD = "The prior turns probabilities for the class frequencies 0.5, 0.5 into those for 0.1, 0.9."


def card_of(record):
    return str(create_model_card(About(model_name="m", task="text-classification", calibration=record)))


def test_the_card_tells_of_a_prior_on_top_of_what_was_fitted():
    card = card_of({**FITTED, "then": [PRIOR]})
    assert "80% of the time (T = 1.7, then prior of other class frequencies)." in card
    assert TOLD in card and "was fitted by `nll` on 400 samples" in card


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("known", [PRIOR, WEIGHTS], ids=["prior", "class_weights"])
def test_what_is_known_is_not_called_fitted_or_calibrated(known, folded):
    card = card_of({**known, "folded": folded})
    assert "nothing is known of how well its probabilities are calibrated" in card
    assert "was fitted" not in card and "calibrated probabilities" not in card
    assert (TOLD if known is PRIOR else "What the class weights 1, 4 of its training did") in card
    assert ("from hf_focal import pipeline" in card) is not folded


@pytest.mark.parametrize("first", [{**FITTED, "temperature": 1.0, "helped": False, "why": "So."}, {"method": "none"}])
def test_a_prior_on_top_of_what_was_left_alone_is_applied(first):
    card = card_of({**first, "folded": False, "then": [PRIOR]})
    assert TOLD in card and "from hf_focal import pipeline" in card
    assert "plain softmax" not in card
