# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Records of a stranger: one sentence each, before anything is made of what they claim."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from small_models import NUM_LABELS, bert

from hf_focal import calibrator_of, fold_calibrator, from_pretrained, unfold_calibrator
from hf_focal.calibrators import MatrixScaling, PriorShift, VectorScaling
from hf_focal.models.apply import apply_temperature
from hf_focal.models.record import calibration_record, check_record


K = NUM_LABELS
EYE = np.eye(K).tolist()
VECTOR = {"method": "vector", "temperature": 1.5, "scale": [1.0] * K, "shift": [0.0] * K}
MATRIX = {"method": "matrix", "temperature": 1.5, "matrix": EYE, "shift": [0.0] * K}
BIAS = {"method": "bias", "shift": [0.5] * K}
PRIOR = {"method": "prior", "source": [0.2] * K, "target": [0.1, 0.1, 0.1, 0.3, 0.4]}


def deep(levels):
    found = []
    for _ in range(levels):
        found = [found]
    return found


def nested(levels):
    found = dict(PRIOR)
    for _ in range(levels):
        found = {**PRIOR, "then": [found]}
    return found


MALFORMED = {
    "ragged": {**MATRIX, "matrix": [*EYE[:-1], EYE[0][:-1]]},
    "not square": {**MATRIX, "matrix": EYE[:-1]},
    "a row is a number": {**MATRIX, "matrix": [*EYE[:-1], 1.0]},
    "no rows": {**MATRIX, "matrix": []},
    "a number in a matrix's place": {**MATRIX, "matrix": 1.0},
    "a dict": {**MATRIX, "matrix": {"0": EYE[0]}},
    "NaN": {**MATRIX, "matrix": [*EYE[:-1], [math.nan] * K]},
    "infinite": {**BIAS, "shift": [math.inf] + [0.0] * (K - 1)},
    "too large for a float": {**BIAS, "shift": [10**400] + [0.0] * (K - 1)},
    "strings": {**VECTOR, "scale": ["1.0"] * K},
    "truth values": {**VECTOR, "scale": [True] * K},
    "null": {**VECTOR, "scale": [None] * K},
    "a matrix in a vector's place": {**VECTOR, "scale": EYE},
    "deep": {**VECTOR, "scale": deep(10_000)},
    "a million rows": {**MATRIX, "matrix": [[]] * 10**6},
    "scale and shift of two sizes": {**VECTOR, "shift": [0.0] * 4},
    "matrix and shift of two sizes": {**MATRIX, "shift": [0.0] * 6},
    "frequencies of two sizes": {**PRIOR, "target": [0.5, 0.5]},
    "no temperature": {**MATRIX, "temperature": 0},
    "an unknown field": {"method": "matrix"},
    "an unknown method": {"method": "x" * 10**6},
    "a method that is none": {"method": deep(10_000)},
    "a chain of nothing": {**BIAS, "then": []},
    "a chain that is none": {**BIAS, "then": {"0": PRIOR}},
    "a long chain": {**BIAS, "then": [PRIOR] * 10**5},
    "a nested chain": {**BIAS, "then": [{**PRIOR, "then": [PRIOR]}]},
    "a deeply nested chain": nested(10_000),
    "a chain of numbers": {**BIAS, "then": [1.0]},
    "an unknown method in a chain": {**BIAS, "then": [{"method": "magic"}]},
    "a malformed step": {**BIAS, "then": [{**PRIOR, "target": [0.1, "b"]}]},
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("folded", [True, False])
def test_a_malformed_record_is_refused_in_one_sentence(name, folded):
    record = {**MALFORMED[name], "folded": folded}
    if folded and "unknown method" in name or folded and name == "a method that is none":
        return  # what is folded needs nothing of us
    with pytest.raises(ValueError, match="config.calibration") as error:
        check_record(record)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


OTHERS = {
    "a vector": {**VECTOR, "scale": [1.0] * 4, "shift": [0.0] * 4},
    "a matrix": {**MATRIX, "matrix": np.eye(3).tolist(), "shift": [0.0] * 3},
    "a step": {**BIAS, "then": [{**PRIOR, "source": [0.5] * 2, "target": [0.5] * 2}]},
    "a step after what is not affine": {
        "method": "focal", "gamma": 1.0, "temperature": 1.5, "then": [{"method": "bias", "shift": [0.0] * 3}]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_record_for_other_classes_is_refused_or_forgotten(name, caplog):
    model = bert()
    model.config.calibration = {**OTHERS[name], "folded": False}
    with pytest.raises(ValueError, match="classes, and the model has 5"):
        apply_temperature(model)
    if "not affine" in name:
        return
    model.config.calibration = {**OTHERS[name], "folded": True}
    assert calibration_record(model) is None
    assert "classes, and the model has 5" in caplog.text


def test_nothing_is_made_of_the_number_of_classes_that_a_config_claims():
    model = bert()
    model.config.calibration = {**MATRIX, "folded": False}
    model.config.id2label = dict.fromkeys(range(10**6), "x")
    tracemalloc.start()
    with pytest.raises(ValueError, match="for 5 classes, and the model has 1000000"):
        calibration_record(model)
    with pytest.raises(ValueError, match="classes"):
        fold_calibrator(model, calibrator_of(MATRIX))
    assert tracemalloc.get_traced_memory()[1] < 5e7
    tracemalloc.stop()


@pytest.mark.parametrize(
    "calibrator",
    [
        MatrixScaling(1.0, ((1.0,) * K,) * K, (0.0,) * K),
        MatrixScaling(1.0, tuple(map(tuple, (np.ones((K, K)) + 1e-14 * np.eye(K)).tolist())), ()),
        VectorScaling(1.0, (1.0, 1.0, 0.0, 1.0, 1.0), ()),
        VectorScaling(1.0, (1.0, 1.0, 1e-300, 1.0, 1.0), ()),
        VectorScaling(1e-3, (1e306,) * K, ()),
    ],
)
def test_a_map_that_nobody_could_undo_is_not_folded(calibrator):
    model = bert()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="undone|finite") as error:
        fold_calibrator(model, calibrator)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert getattr(model.config, "calibration", None) is None


@pytest.mark.parametrize("value", ["[" * 10**5, "[" * 400 + "]" * 400])
def test_a_config_that_is_nested_without_end_is_refused(tmp_path, value):
    bert().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text().rstrip().removesuffix("}")
    (tmp_path / "config.json").write_text(f'{text}, "calibration": {value}}}')
    with pytest.raises(ValueError, match="nested too deep|must be a dict"):
        from_pretrained(tmp_path)


def test_a_prior_of_nothing_is_refused():
    model = bert()
    for source in ((0.0, 0.25, 0.25, 0.25, 0.25), (-0.2, 0.3, 0.3, 0.3, 0.3)):
        with np.errstate(all="ignore"), pytest.raises(ValueError):
            fold_calibrator(model, PriorShift(source, (0.2,) * K))
    with pytest.raises(ValueError, match="no folded"):
        unfold_calibrator(model)


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize(
    ("matrix", "said"),
    [(1e308 * np.eye(K), "at most"), (np.zeros((K, K)), "cannot be undone"), (np.ones((K, K)), "cannot be undone")],
    ids=["huge", "zero", "singular"],
)
def test_a_map_that_is_none_to_apply_is_refused_before_weights_are_read(matrix, said, folded, tmp_path):
    model = bert()
    model.config.calibration = {**MATRIX, "matrix": matrix.tolist(), "folded": folded}
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=f"config.json of .* is refused: config.calibration .*{said}") as refused:
        from_pretrained(tmp_path)
    assert len(str(refused.value)) < 500
    if not folded:
        with pytest.raises(ValueError, match=said):
            apply_temperature(model)


def test_a_vector_without_end_is_refused():
    with pytest.raises(ValueError, match="at most 100000 numbers, got 1000000"):
        check_record({**BIAS, "shift": [1.0] * 10**6, "folded": False})
