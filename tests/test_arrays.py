# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Whatever people keep numbers in is read as the plain array that it stands for, or refused in one sentence."""

import datetime

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch

import hf_focal
from hf_focal.arrays import check_groups, leave_out_masked, to_numpy


ROWS = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.0, 0.375, 0.625], [0.25, 0.25, 0.5]])  # exact in bfloat16
NAMES = list("abc")


class Interface:
    """An array of another library, which speaks one protocol alone."""

    def __init__(self, array, **methods):
        self.array = array

    @classmethod
    def of(cls, *protocols):
        return type("Other", (cls,), {name: cls._forward(name) for name in protocols})(ROWS)

    @staticmethod
    def _forward(name):
        return lambda self, *args, **options: getattr(self.array, name)(*args, **options)


def as_dataset(kind=None):
    return datasets.Dataset.from_dict({"p": ROWS.tolist()}).with_format(kind)["p"]


KINDS = {
    "lists": lambda: ROWS.tolist(),
    "tuple of arrays": lambda: tuple(ROWS),
    "float16": lambda: ROWS.astype(np.float16),
    "long double": lambda: ROWS.astype(np.longdouble),
    "other byte order": lambda: ROWS.astype(">f4"),
    "array of arrays": lambda: _objects(ROWS),
    "bfloat16 tensor with gradient": lambda: torch.tensor(ROWS, requires_grad=True).bfloat16(),
    "float8 tensor": lambda: torch.tensor(ROWS).to(torch.float8_e4m3fn),
    "conjugate's imaginary part": lambda: -torch.tensor(1j * ROWS).conj().imag,
    "sparse tensor": lambda: torch.tensor(ROWS).to_sparse(),
    "nested tensor": lambda: torch.nested.nested_tensor(list(torch.tensor(ROWS)), layout=torch.jagged),
    "list of bfloat16": lambda: list(torch.tensor(ROWS).bfloat16()),
    "list of rows with gradients": lambda: list(torch.tensor(ROWS, requires_grad=True)),
    "lists of single tensors": lambda: [list(torch.tensor(row, requires_grad=True)) for row in ROWS],
    "sparse matrix": lambda: scipy.sparse.csr_matrix(ROWS),
    "__array__ alone": lambda: Interface.of("__array__"),
    "__dlpack__ alone": lambda: Interface.of("__dlpack__", "__dlpack_device__"),
    "DataFrame": lambda: pd.DataFrame(ROWS, columns=NAMES),
    "nullable DataFrame": lambda: pd.DataFrame(ROWS).astype("Float64"),
    "column of lists": lambda: pd.Series(ROWS.tolist(), index=[5, 4, 3, 2]),
    "DataFrame of one column of arrays": lambda: pd.DataFrame({"p": list(ROWS)}),
    "Arrow list column of pandas": lambda: pd.Series(
        pa.array(ROWS.tolist()), dtype=pd.ArrowDtype(pa.list_(pa.float64()))
    ),
    "Arrow lists": lambda: pa.array(ROWS.tolist()),
    "Arrow lists in chunks": lambda: pa.chunked_array([ROWS[:1].tolist(), ROWS[1:].tolist()]),
    "Arrow lists of one size": lambda: pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 3),
    "Arrow table": lambda: pa.table(dict(zip(NAMES, ROWS.T, strict=True))),
    "column of datasets": as_dataset,
    "column of datasets as torch": lambda: as_dataset("torch"),
    "mask that hides nothing": lambda: np.ma.masked_array(ROWS, mask=False),
}


def _objects(rows):
    array = np.empty(len(rows), dtype=object)
    array[:] = [*rows]
    return array


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_is_the_plain_array(kind):
    found = to_numpy("rows", KINDS[kind]())
    assert type(found) is np.ndarray and found.dtype.kind == "f"
    np.testing.assert_array_equal(found.astype(np.float64), ROWS)
    assert hf_focal.brier_score(KINDS[kind](), [0, 1, 2, 0]) == hf_focal.brier_score(ROWS, [0, 1, 2, 0])


def test_bfloat16_of_numpy():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for rows in (ROWS.astype(ml_dtypes.bfloat16), list(ROWS.astype(ml_dtypes.bfloat16))):
        np.testing.assert_array_equal(to_numpy("rows", rows), ROWS)


def test_every_float16_is_widened_to_its_own_value():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 2)
    wide = hf_focal.Scored.from_logits(halves, np.zeros(len(halves), int))
    expected = hf_focal.Scored.from_logits(halves.astype(np.float64), np.zeros(len(halves), int))
    np.testing.assert_array_equal(wide.nll, expected.nll)


LABELS = {
    "pandas integers": pd.Series([0, 1, 2, 0], index=[9, 8, 7, 6]),
    "nullable integers": pd.Series([0, 1, 2, 0], dtype="Int64"),
    "integers as objects": pd.Series([0, 1, 2, 0], dtype=object),
    "categories": pd.Series([0, 1, 2, 0]).astype("category"),
    "Arrow": pa.array([0, 1, 2, 0], pa.uint8()),
    "unsigned": np.array([0, 1, 2, 0], dtype=np.uint64),
    "bfloat16": torch.tensor([0, 1, 2, 0]).bfloat16(),
    "list of tensors": list(torch.tensor([0, 1, 2, 0])),
    "column of datasets": datasets.Dataset.from_dict({"y": [0, 1, 2, 0]})["y"],
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind(kind):
    assert hf_focal.Scored(ROWS, LABELS[kind]).labels.tolist() == [0, 1, 2, 0]


REFUSED = {
    "names": (["cat", "dog", "cat", "dog"], "labels must hold real numbers.*Turn names into class indices first"),
    "names in pandas": (pd.Series(["cat", "dog"] * 2), "labels must hold real numbers.*class indices first"),
    "one-hot": (np.eye(3)[[0, 1, 2, 0]], "not one-hot"),
    "missing in pandas": (pd.Series([None, 1, 2, 0], dtype="Int64"), "labels must"),
    "missing in Arrow": (pa.array([None, 1, 2, 0]), "labels must be whole numbers"),
    "missing": ([None, 1, 2, 0], "labels must hold real numbers"),
    "complex": (np.zeros(4, complex), "labels must hold real numbers, got an array of dtype complex128"),
    "beyond int64": (np.array([2**63, 0, 0, 0], np.uint64), "labels must lie in"),
    "beyond all": ([2**70, 0, 0, 0], "labels must hold real numbers"),
    "rounded to half precision": (
        torch.tensor([300, 0, 1, 2]).bfloat16(),
        "labels must be integers.*above 256, up to 300",
    ),
    "a single one": (np.array(3), "labels must have shape"),
    "batches": ([torch.zeros(3), torch.zeros(1)], "labels must be a rectangular array.*concatenate them first"),
    "a generator": ((label for label in [0, 1, 2, 0]), "labels must hold real numbers"),
    "without data": (torch.zeros(4, device="meta"), "labels cannot be read as an array from a Tensor: .*meta"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_are_no_labels_is_refused_in_a_sentence(kind):
    labels, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message) as caught:
        hf_focal.accuracy(ROWS, labels)
    assert "\n" not in str(caught.value)


# ---- Masks ----------------------------------------------------------------------------------------------------------


def make(num_samples=60, seed=0):
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(num_samples, 4))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    exponentials = np.exp(logits)
    return logits, exponentials / exponentials.sum(axis=1, keepdims=True), labels, np.arange(num_samples) // 3


def test_masked_labels_are_left_out_with_their_rows_and_groups():
    logits, probabilities, labels, groups = make()
    hidden = np.random.default_rng(1).random(60) < 0.4
    masked, kept = np.ma.masked_array(np.where(hidden, 0, labels), hidden), ~hidden
    options = {"level": 0.8, "seed": 3}
    for given, known in (
        ((probabilities, masked), (probabilities[kept], labels[kept])),
        ((probabilities.tolist(), list(masked)), (probabilities[kept], labels[kept])),
        (
            (np.ma.masked_array(probabilities, np.tile(hidden[:, None], 4)), labels),
            (probabilities[kept], labels[kept]),
        ),
        ((torch.tensor(probabilities), masked), (probabilities[kept], labels[kept])),
    ):
        assert hf_focal.calibration_metrics(*given) == hf_focal.calibration_metrics(*known)
        for interval in (hf_focal.bootstrap_interval, hf_focal.confidence_interval):
            for metric in ("nll", "ece"):
                found = interval(metric, *given, groups=groups, **options)
                assert found == interval(metric, *known, groups=groups[kept], **options)
        found = hf_focal.noise_floor("ece", given[0], labels=given[1], groups=groups)
        assert found == hf_focal.noise_floor("ece", known[0], labels=known[1], groups=groups[kept])
        assert hf_focal.calibration_p_value(*given, groups=groups) == hf_focal.calibration_p_value(
            *known, groups=groups[kept]
        )
    compared = hf_focal.paired_bootstrap("brier", probabilities, probabilities[:, ::-1], masked, groups=groups)
    assert compared == hf_focal.paired_bootstrap(
        "brier", probabilities[kept], probabilities[kept, ::-1], labels[kept], groups=groups[kept]
    )


def test_each_array_may_hide_rows_of_its_own():
    _, probabilities, labels, groups = make()
    rows = np.ma.masked_array(probabilities, np.arange(60)[:, None] % 7 + np.zeros(4) == 0)
    few, ids = np.ma.masked_array(labels, groups == 3), np.ma.masked_array(groups, groups == 5)
    kept = (np.arange(60) % 7 != 0) & (groups != 3) & (groups != 5)
    left = leave_out_masked(probabilities=rows, labels=few, groups=ids, others=None, names=[f"{i}" for i in range(60)])
    for found, array in zip(left, (probabilities, labels, groups), strict=False):
        np.testing.assert_array_equal(found, array[kept])
    assert left[3] is None and left[4] == [f"{i}" for i in np.flatnonzero(kept)]


def test_a_fit_and_a_report_leave_masked_samples_out():
    logits, _, labels, groups = make(400)
    masked, kept = np.ma.masked_array(labels, groups < 30), groups >= 30
    fit = hf_focal.fit_temperature(logits, masked)
    assert fit == hf_focal.fit_temperature(logits[kept], labels[kept]) and fit.n_samples == 310
    report = hf_focal.make_report(hf_focal.Predictions(logits, masked, groups), fit)
    expected = hf_focal.make_report(hf_focal.Predictions(logits[kept], labels[kept], groups[kept]), fit)
    assert report.before == expected.before and report.intervals == expected.intervals
    assert report.words == expected.words and report.n_samples == 310


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rows, labels: hf_focal.ood_scores(rows), "logits must have no masked values here, got some"),
        (lambda rows, labels: hf_focal.auroc(labels, [1.0]), "in_scores must have no masked values here"),
        (lambda rows, labels: hf_focal.accuracy(rows, labels[:5]), "must have the same length, got 60 and 5"),
        (lambda rows, labels: hf_focal.accuracy(np.ma.masked_less(rows, 0.3), labels), "mask whole rows only"),
        (lambda rows, labels: hf_focal.accuracy(rows, np.ma.masked_array(labels, True)), "at least one sample"),
    ],
)
def test_masks_that_cannot_be_heeded_are_refused(call, message):
    _, probabilities, labels, _ = make()
    hidden = np.arange(60) < 2
    with pytest.raises(ValueError, match=message):
        call(np.ma.masked_array(probabilities, np.tile(hidden[:, None], 4)), np.ma.masked_array(labels, hidden))


# ---- Groups ---------------------------------------------------------------------------------------------------------

NUMBERS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
TEXTS = [f"text {number}" for number in NUMBERS]
IDS = {
    "numbers": NUMBERS - 7,
    "large numbers": NUMBERS.astype(np.uint64) + np.uint64(2**63),
    "whole floats": NUMBERS.astype(float),
    "tensor": torch.tensor(NUMBERS),
    "texts": TEXTS,
    "texts of NumPy": np.array(TEXTS),
    "texts as objects": np.array(TEXTS, dtype=object),
    "texts of pandas": pd.Series(TEXTS, index=range(10, 0, -1)),
    "categories": pd.Series(TEXTS).astype("category"),
    "texts of Arrow": pa.array(TEXTS),
    "bytes": [text.encode() for text in TEXTS],
    "pairs": [(1, int(number)) for number in NUMBERS],
    "dates": [datetime.date(2020, 1, 1 + number) for number in NUMBERS],
    "dates of NumPy": np.datetime64("2020-01-01") + NUMBERS,
    "numbers and texts": [int(number) if number % 2 else f"{number}" for number in NUMBERS],  # no order
    "1 and '1'": [0, 0, 1, 1, "1", "1", 3, 3, "4", "4"],
}


@pytest.mark.parametrize("kind", IDS)
def test_groups_have_any_ids(kind):
    assert check_groups(IDS[kind], 10).tolist() == NUMBERS.tolist()
    rows, labels = np.array([[0.75, 0.25]] * 10), np.array([0, 0, 1, 0, 0, 0, 1, 1, 0, 0])
    found, expected = (
        hf_focal.bootstrap_interval("nll", rows, labels, n_resamples=20, groups=groups)
        for groups in (IDS[kind], NUMBERS)
    )
    assert found == expected


def test_groups_in_reports_words_and_files(tmp_path):
    logits, _, labels, groups = make(300)
    texts = [f"text {number:03}" for number in groups]
    fit = hf_focal.fit_temperature(logits, labels)
    by_text, by_number = hf_focal.Predictions(logits, labels, texts), hf_focal.Predictions(logits, labels, groups)
    assert hf_focal.make_report(by_text, fit).intervals == hf_focal.make_report(by_number, fit).intervals
    words = [hf_focal.describe_confidence(logits, labels, 1.5, one) for one in (texts, groups)]
    assert words[0] == words[1]
    hf_focal.save_predictions(tmp_path / "p.safetensors", {"test": by_text})
    stored = hf_focal.load_predictions(tmp_path / "p.safetensors")[0]["test"]
    np.testing.assert_array_equal(stored.groups, groups)


@pytest.mark.parametrize(
    "groups",
    [
        np.where(NUMBERS == 2, np.nan, NUMBERS),
        NUMBERS + 0.5,
        [None, *TEXTS[1:]],
        [float("nan"), *TEXTS[1:]],
        pd.Series([None, *TEXTS[1:]], dtype="string"),
        pd.Series([pd.NaT] * 10),
        NUMBERS[:, None],
        NUMBERS[:-1],
        TEXTS[0],
        [[0]] * 10,
        [{}] * 10,
        NUMBERS + 0j,
    ],
)
def test_missing_and_strange_groups_are_refused(groups):
    with pytest.raises(ValueError, match="groups must hold a whole number for each of the 10 samples, got"):
        check_groups(groups, 10)


def test_classes_of_a_diagram_of_any_kind():
    for classes in (np.array([2, 0]), range(2, -1, -2), torch.tensor([2, 0])):
        figure = hf_focal.classwise_reliability_diagram(ROWS, [0, 1, 2, 0], classes=classes)
        assert [axis.get_title().split(":")[0] for axis in figure.axes] == ["2", "0"]
    for classes in ([], np.array([], int), [3], [-1], [0.5], [True], 2):
        with pytest.raises(ValueError, match=r"classes must be indices in \[0, 2\]"):
            hf_focal.classwise_reliability_diagram(ROWS, [0, 1, 2, 0], classes=classes)
