# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Saved predictions of every kind and format give what the rows in memory give, whatever the size of the blocks."""

import csv
import gzip
import json
import threading
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from scipy.special import softmax

from hf_focal import METRICS, Predictions, calibration_metrics_from_logits, fit_temperature, paired_bootstrap
from hf_focal.predictions import save_predictions
from hf_focal.results import evaluate_files
from hf_focal.results.evaluate_files import Share, evaluate_saved
from hf_focal.results.prediction_files import SavedPredictions
from hf_focal.results.table_files import Table, open_tables


N, K = 700, 4
TOP = ("accuracy", "ece", "mce", "adaptive_ece")


def draw(seed=0, sharpness=1.6):
    generator = np.random.default_rng(seed)
    logits = 2 * np.random.default_rng(0).normal(size=(N, K))
    labels = (logits + np.random.default_rng(1).gumbel(size=logits.shape)).argmax(axis=1)
    return (sharpness * logits + 0.5 * seed * generator.normal(size=logits.shape)).astype(np.float32), labels


def lists(values):
    offsets = np.arange(len(values) + 1) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values.ravel()))


@pytest.fixture
def small(monkeypatch):
    """Nothing is kept, and blocks are of 97 rows."""
    monkeypatch.setattr(evaluate_files, "_NUMBERS", 0)
    monkeypatch.setattr(evaluate_files, "_PAIRS", 0)
    monkeypatch.setattr(evaluate_files, "_BLOCK", 97 * K)
    monkeypatch.setattr(evaluate_files, "_MOST_ROWS", 97)


def saved(path, names=None, **options):
    return SavedPredictions(open_tables(str(path), **options), names)


def evaluate(path, names=None, **options):
    (measured,), _ = evaluate_saved({"model": saved(path, names)}, **options)
    return measured


def write_parquet(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=500)
    return path


def of_logits(path, seed=0, sharpness=1.6):
    logits, labels = draw(seed, sharpness)
    return write_parquet(path, logits=lists(logits), label=labels)


# ---- Formats and kinds ----------------------------------------------------------------------------------------------


def arrow_file(path, table):
    with pa.OSFile(str(path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=333)
    return path / "x.arrow"


def arrow_stream(path, table):
    with pa.OSFile(str(path / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=333)
    return path / "x.arrow"


def parquet(path, table):
    pq.write_table(table, path / "x.parquet", row_group_size=500)
    return path / "x.parquet"


def shards(path, table):
    for index in range(11):  # 10 comes after 9
        pq.write_table(table.slice(64 * index, 64 if index < 10 else None), path / f"part-{index}.parquet")
    (path / "_SUCCESS").write_text("")
    return path


def columns(table):
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def tensors(path, table):
    save_file(columns(table), path / "x.safetensors")
    return path / "x.safetensors"


def text(path, table, opened=open, name="x.csv"):
    with opened(path / name, "wt", newline="") as file:
        writer = csv.writer(file)
        names, rows = [], []
        for key, values in columns(table).items():
            wide = values.ndim == 2
            names += [f"{key}_{index}" for index in range(values.shape[1])] if wide else [key]
            rows += list(values.T) if wide else [values]
        writer.writerow(names)
        writer.writerows(zip(*(row.tolist() for row in rows), strict=True))
    return path / name


def text_of_lists(path, table):
    with open(path / "x.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        writer.writerows(zip(*(map(str, table[name].to_pylist()) for name in table.column_names), strict=True))
    return path / "x.csv"


def compressed(path, table):
    return text(path, table, gzip.open, "x.csv.gz")


def saved_to_disk(path, table):
    Dataset(table).save_to_disk(str(path / "data"))
    return path / "data"


FORMATS = [
    arrow_file, arrow_stream, parquet, shards, tensors, text, text_of_lists, compressed, saved_to_disk,
]  # fmt: skip


def table_of(kind, dtype=np.float64):
    logits, labels = draw()
    probabilities = softmax(logits.astype(np.float64), axis=1)
    order = np.argsort(-probabilities, axis=1)[:, :2]
    return {
        "logits": pa.table({"logits": lists(logits.astype(dtype)), "label": labels}),
        "probabilities": pa.table({"probabilities": lists(probabilities), "label": labels}),
        "topk": pa.table({
            "topk_probabilities": lists(np.take_along_axis(probabilities, order, 1)), "topk_classes": lists(order),
            "label": labels,
        }),
        "pairs": pa.table({"confidence": probabilities.max(axis=1), "correct": order[:, 0] == labels}),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["logits", "probabilities", "topk", "pairs"])
@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_every_format_gives_the_metrics_of_the_rows_in_memory(kind, write, tmp_path, small):
    measured = evaluate(write(tmp_path, table_of(kind)), temperature=False)
    expected = calibration_metrics_from_logits(*draw())
    assert measured.kind == kind and measured.plain.n_samples == N
    assert list(measured.plain.metrics) == (list(METRICS) if kind in ("logits", "probabilities") else list(TOP))
    bound = measured.plain.bounds["adaptive_ece"]
    for key, value in measured.plain.metrics.items():
        assert value == pytest.approx(expected[key], abs=bound if key == "adaptive_ece" else 1e-12), key


@pytest.mark.parametrize("kind", ["logits", "probabilities", "pairs"])
def test_what_fits_into_memory_is_exact_throughout(kind, tmp_path):
    measured = evaluate(parquet(tmp_path, table_of(kind)))
    expected = calibration_metrics_from_logits(*draw())
    assert not measured.plain.bounds
    for key, value in measured.plain.metrics.items():
        assert value == pytest.approx(expected[key], abs=1e-14), key
    if kind == "pairs":
        assert measured.temperature is None and measured.scaled is None
        return
    best = fit_temperature(*draw(), guard=False)
    assert measured.temperature == pytest.approx(best.temperature, rel=1e-10)
    for key, value in best.after.items():
        assert measured.scaled.metrics[key] == pytest.approx(value, abs=1e-10), key
    assert measured.plain.floors.keys() == {"ece", "mce", "adaptive_ece", "classwise_ece"}


def test_blocks_and_sums_tell_what_the_rows_tell(tmp_path, monkeypatch):
    path = of_logits(tmp_path / "x.parquet")
    exact = evaluate(path)
    for name, value in {"_NUMBERS": 0, "_PAIRS": 0, "_BLOCK": 97 * K}.items():
        monkeypatch.setattr(evaluate_files, name, value)
    found = evaluate(path)
    assert found.temperature == pytest.approx(exact.temperature, rel=1e-8)
    for one, other in ((found.plain, exact.plain), (found.scaled, exact.scaled)):
        assert one.headline == other.headline
        for key in ("accuracy", "nll", "brier", "ece", "mce", "classwise_ece"):
            assert one.metrics[key] == pytest.approx(other.metrics[key], abs=1e-7)
        for key in ("ece", "mce"):
            assert one.intervals[key] == pytest.approx(other.intervals[key], abs=1e-6)
            assert one.floors[key].high == pytest.approx(other.floors[key].high, abs=1e-6)
        assert one.intervals["adaptive_ece"] == pytest.approx(other.intervals["adaptive_ece"], abs=0.01)


def test_other_types_of_numbers(tmp_path, small):
    logits, labels = draw()
    half = torch.tensor(logits).bfloat16()
    save_tensors({"logits": half, "label": torch.tensor(labels)}, tmp_path / "b.safetensors")
    expected = calibration_metrics_from_logits(half.float().numpy(), labels)
    assert evaluate(tmp_path / "b.safetensors").plain.metrics["nll"] == pytest.approx(expected["nll"], abs=1e-12)
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float16).ravel()), K)
    path = write_parquet(tmp_path / "h.parquet", logits=narrow, label=pa.array(labels, pa.int8()))
    expected = calibration_metrics_from_logits(logits.astype(np.float16), labels)
    assert evaluate(path).plain.metrics["nll"] == pytest.approx(expected["nll"], abs=1e-12)
    pairs = table_of("pairs")
    wrong = {"confidence": pairs["confidence"], "correct": pairs["correct"].cast(pa.int64())}
    assert evaluate(write_parquet(tmp_path / "p.parquet", **wrong)).plain.metrics["accuracy"] == expected["accuracy"]


def test_a_run_of_ours_and_a_data_set_with_splits(tmp_path, small):
    logits, labels = draw()
    parts = {"validation": Predictions(logits[:9], labels[:9]), "test": Predictions(logits, labels)}
    save_predictions(tmp_path / "predictions.safetensors", parts)
    save_file({"weight": np.zeros(3)}, tmp_path / "model.safetensors")
    assert saved(tmp_path).num_rows == N and saved(tmp_path, split="validation").num_rows == 9
    with pytest.raises(ValueError, match="holds predictions of test, validation, none of 'dev'"):
        saved(tmp_path, split="dev")
    data = Dataset(table_of("logits"))
    DatasetDict(train=data.select(range(7)), test=data).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(ValueError, match="has the splits train, test: choose by --split"):
        saved(tmp_path / "data")
    with pytest.raises(ValueError, match="not 'tset'. Did you mean 'test'"):
        saved(tmp_path / "data", split="tset")
    assert saved(tmp_path / "data", split="test").num_rows == N
    shuffled = data.select([3, 1, 2])  # whose rows are told by indices
    shuffled.save_to_disk(str(tmp_path / "some"))
    (_, rows), *_ = saved(tmp_path / "some").blocks(9)
    assert rows["label"].tolist() == labels[[3, 1, 2]].tolist()
    folder = tmp_path / "hub"
    folder.mkdir()
    for split in ("train", "test"):
        write_parquet(folder / f"{split}-00000-of-00001.parquet", confidence=[0.5], correct=[split == "test"])
    with pytest.raises(ValueError, match="holds shards of test, train: choose by --split"):
        saved(folder)
    assert evaluate_saved({"x": saved(folder, split="test")})[0][0].plain.metrics["accuracy"] == 1


def test_names_of_columns_may_be_others_and_decide_the_kind(tmp_path, small):
    logits, labels = draw()
    pairs = table_of("pairs")
    path = write_parquet(
        tmp_path / "x.parquet", z=lists(logits), y=labels, score=pairs["confidence"], correct=pairs["correct"]
    )
    assert evaluate(path, {"logits": "z", "label": "y"}).kind == "logits"
    assert evaluate(path, {"confidence": "score"}).kind == "pairs"
    with pytest.raises(ValueError, match="has no column 'scores', but z, y, score, correct. Did you mean 'score'"):
        saved(path, {"confidence": "scores"})
    with pytest.raises(ValueError, match="has no column `label`, but z, y.*--label_column_name"):
        saved(path, {"logits": "z"})
    with pytest.raises(ValueError, match="has the columns z, y, score, correct. Needed are `logits`"):
        saved(path)


def test_ignored_labels_are_left_out_and_counted(tmp_path, small):
    logits, labels = draw()
    hidden = np.arange(N) % 3 == 0
    hidden[: 2 * 97] = True  # whole blocks
    path = write_parquet(tmp_path / "x.parquet", logits=lists(logits), label=np.where(hidden, -100, labels))
    measured = evaluate(path)
    expected = calibration_metrics_from_logits(logits[~hidden], labels[~hidden])
    assert measured.left_out == hidden.sum() and measured.plain.n_samples == N - hidden.sum()
    assert measured.plain.metrics["nll"] == pytest.approx(expected["nll"], abs=1e-12)
    assert f"{hidden.sum():,} rows with the label -100 are left out" in measured.text(200)
    write_parquet(path, logits=lists(logits), label=np.full(N, -100))
    with pytest.raises(ValueError, match="holds no rows with a label"):
        evaluate(path)


# ---- Comparison -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_two_models_are_compared_on_the_same_samples(tmp_path, kept, monkeypatch):
    if not kept:
        for name, value in {"_NUMBERS": 0, "_PAIRS": 0, "_BLOCK": 97 * K}.items():
            monkeypatch.setattr(evaluate_files, name, value)
    paths = [of_logits(tmp_path / f"{seed}.parquet", seed) for seed in (0, 1)]
    models, (compared,) = evaluate_saved({path.stem: saved(path) for path in paths})
    labels = draw()[1]
    probabilities = [softmax(draw(seed)[0].astype(np.float64), axis=1) for seed in (0, 1)]
    assert compared.same_samples and len(models) == 2
    for key in ("nll", "ece", "accuracy"):
        expected = paired_bootstrap(key, *probabilities, labels)
        found = compared.plain[key]
        assert found.difference == pytest.approx(expected.difference, abs=1e-12)
        slack = 1e-9 if kept else 0.1 * (expected.high - expected.low)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=slack)
        assert found.verdict == expected.verdict
    assert ("classwise_ece" in compared.plain) is kept and "nll" in compared.scaled
    assert "On the same samples" in compared.text() and "NLL, at their T" in compared.text()


def test_other_samples_are_compared_as_such(tmp_path, small):
    logits, labels = draw()
    one = of_logits(tmp_path / "a.parquet")
    turned = write_parquet(tmp_path / "b.parquet", logits=lists(logits[::-1]), label=labels[::-1])
    shorter = write_parquet(tmp_path / "c.parquet", logits=lists(logits[9:]), label=labels[9:])
    pairs = parquet(tmp_path, table_of("pairs"))
    for other in (turned, shorter, pairs):
        _, (compared,) = evaluate_saved({"a": saved(one), "b": saved(other)}, temperature=False)
        assert not compared.same_samples and "as if they were different ones" in compared.text(200)
        assert compared.plain["accuracy"].verdict == "undecided" and compared.plain["ece"].low <= 0
        assert ("nll" in compared.plain) is (other is not pairs)


# ---- Processes, and memory ------------------------------------------------------------------------------------------


def together(paths, world):
    """As processes would: each its share, and all wait for one another."""
    barrier, given, found = threading.Barrier(world), [None] * world, [None] * world

    def work(rank):
        def gathered(value):
            given[rank] = value
            barrier.wait(60)
            whole = list(given)
            barrier.wait(60)
            return whole

        try:
            found[rank] = evaluate_saved(
                {path.stem: saved(path) for path in paths}, share=Share(rank, world, gathered)
            )
        except ValueError as error:
            found[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def numbers(record):
    if isinstance(record, dict):
        record = list(record.values())
    return [one for part in record for one in numbers(part)] if isinstance(record, list) else [record]


@pytest.mark.parametrize(("world", "write"), [(2, parquet), (3, shards), (17, text)])
def test_several_processes_give_what_one_gives(tmp_path, world, write, small):
    paths = [write(tmp_path, table_of("logits")), of_logits(tmp_path / "other.parquet", 1)]
    if write is shards:
        (tmp_path / "a").mkdir()
        paths[0] = shards(tmp_path / "a", table_of("logits"))
    alone = evaluate_saved({path.stem: saved(path) for path in paths})
    found, *others = together(paths, world)
    assert others == [([], [])] * (world - 1)
    for one, other in zip(found, alone, strict=True):
        check_equal(one, other)


def check_equal(one, other):
    a, b = (numbers([part.to_record() for part in parts]) for parts in (one, other))
    assert len(a) == len(b) > 20
    for x, y in zip(a, b, strict=True):
        assert x == (y if isinstance(y, str | None) else pytest.approx(y, rel=1e-12, abs=1e-12))


def test_what_is_kept_comes_together_in_the_order_of_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_files, "_BLOCK", 97 * K)
    path = parquet(tmp_path, table_of("topk"))
    (found, _), *_ = together([path], 2)
    check_equal(found, evaluate_saved({"x": saved(path)})[0])
    assert not found[0].plain.bounds


def test_the_error_of_one_process_is_that_of_all(tmp_path, small):
    confidence = np.full(N, 0.5)
    confidence[650] = 2
    path = write_parquet(tmp_path / "x.parquet", confidence=confidence, correct=np.zeros(N, bool))
    for error in together([path], 3):
        assert "rows 582 to 678: confidence must lie in [0, 1]" in str(error)


class Endless(Table):
    """Rows made up as they are asked for."""

    name, columns = "endless", ("confidence", "correct")

    def __init__(self, rows):
        self.num_rows = rows

    def read(self, columns, start, stop, size):
        for place in range(start, stop, size):
            count = min(size, stop - place)
            yield {"confidence": np.linspace(0.3, 0.9, count), "correct": np.arange(count) % 3 > 0}


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    for name, value in {"_PAIRS": 0, "_NUMBERS": 0, "_MOST_ROWS": 1 << 15}.items():
        monkeypatch.setattr(evaluate_files, name, value)
    peaks = []
    for rows in (1 << 17, 1 << 17, 1 << 20):
        tracemalloc.start()
        evaluate_saved({"x": SavedPredictions([Endless(rows)])})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


# ---- Files that are not what they should be -------------------------------------------------------------------------


def bad(name, **columns):
    return lambda path: write_parquet(path / name, **columns)


def damaged(suffix, data):
    def write(path):
        (path / f"x{suffix}").write_bytes(data)
        return path / f"x{suffix}"

    return write


def cut(path):
    whole = parquet(path, table_of("pairs")).read_bytes()
    (path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    return path / "x.parquet"


def flipped(path):
    file = parquet(path, table_of("logits"))
    whole = bytearray(file.read_bytes())
    whole[100:4000] = b"\xff" * 3900
    file.write_bytes(whole)
    return file


def two_kinds(path):
    parquet(path, table_of("pairs")), text(path, table_of("pairs"))
    return path


def other_widths(path):
    for index in (2, 3):
        write_parquet(path / f"{index}.parquet", logits=lists(np.zeros((5, index))), label=[0] * 5)
    return path


def unequal_tensors(path):
    save_file({"confidence": np.zeros(3), "correct": np.zeros(2)}, path / "x.safetensors")
    return path / "x.safetensors"


HALF = [0.5, 0.5]
BAD = {
    "nulls": (bad("x.parquet", confidence=[0.5, None], correct=[1, 1]), "'confidence' has 1 rows without a value"),
    "no label": (bad("x.parquet", logits=[HALF, HALF], label=[0, None]), "'label' has 1 rows without a value"),
    "ragged": (bad("x.parquet", logits=[[1.0, 2], [1.0, 2, 3]], label=[0, 1]), "equally many numbers"),
    "ragged but even": (bad("x.parquet", logits=[[1.0], [1.0, 2, 3]], label=[0, 1]), "at least 2 classes|equally"),
    "texts": (bad("x.parquet", confidence=["a", "b"], correct=[1, 1]), "must hold numbers, or lists of numbers"),
    "deep": (bad("x.parquet", logits=[[HALF], [HALF]], label=[0, 1]), "equally many numbers in every row"),
    "one class": (bad("x.parquet", logits=[[0.1], [0.2]], label=[0, 0]), r"save \[1 - p, p\]"),
    "a number": (bad("x.parquet", probabilities=HALF, label=[0, 0]), r"save \[1 - p, p\]"),
    "no softmax": (bad("x.parquet", probabilities=[[2.0, -1]] * 2, label=[0, 0]), "rows 0 to 1: .*apply a softmax"),
    "range": (bad("x.parquet", logits=[HALF, [1.0, 2]], label=[0, 7]), r"labels must lie in \[0, 1\]"),
    "fraction": (bad("x.parquet", logits=[HALF, [1.0, 2]], label=[0, 0.5]), "labels must be whole numbers"),
    "NaN": (bad("x.parquet", logits=[HALF, [1.0, np.nan]], label=[0, 0]), "got NaN in row 1"),
    "label lists": (bad("x.parquet", logits=[HALF, [1.0, 2]], label=[[0, 1]] * 2), "`label` must hold one number"),
    "percent": (bad("x.parquet", confidence=[50.0, 99], correct=[1, 1]), "divide them by 100"),
    "outcome": (bad("x.parquet", confidence=HALF, correct=[1, 3]), "correct must be 0 or 1"),
    "top": (
        bad("x.parquet", topk_probabilities=[[0.9, 0.8]], topk_classes=[[1, 2]], label=[0]), "add up to at most 1",
    ),
    "top shapes": (
        bad("x.parquet", topk_probabilities=[[0.9, 0.1]], topk_classes=[[1]], label=[0]), "equally many numbers",
    ),
    "top classes": (
        bad("x.parquet", topk_probabilities=[[0.9, 0.1]], topk_classes=[[1.5, 0]], label=[0]), "whole numbers of at",
    ),
    "no rows": (bad("x.parquet", confidence=np.zeros(0), correct=np.zeros(0)), "holds no rows"),
    "no rows of lists": (
        bad("x.parquet", logits=pa.array([], pa.list_(pa.float32())), label=np.zeros(0, int)), "holds no rows",
    ),
    "empty": (damaged(".parquet", b""), "is empty"),
    "no parquet": (damaged(".parquet", b"PAR1" + b"x" * 99), "is damaged, or not what its name says"),
    "no arrow": (damaged(".arrow", b"\0" * 999), "is damaged, or not what its name says|holds"),
    "no safetensors": (damaged(".safetensors", b"\xff" * 99), "is damaged, or not what its name says"),
    "pickle": (damaged(".pkl", b"\x80\x04."), "is of no known kind: predictions are read from .parquet"),
    "csv": (damaged(".csv", b"confidence,correct\n0.5,1\n0.5\n"), "is damaged, or not what its name says"),
    "csv words": (damaged(".csv", b"confidence,correct\n0.5,1\nhigh,1\n"), "is damaged, or not what|must hold"),
    "csv gap": (damaged(".csv", b"confidence,correct\n0.5,1\n,1\n"), "without a value"),
    "csv lists": (damaged(".csv", b'logits,label\n"[1, 2]",0\n"[1, 2",0\n'), "or lists of equally many"),
    "csv code": (damaged(".csv", b'logits,label\n"[1,2]]+[[1",0\n'), "or lists of equally many"),
    "csv deep": (damaged(".csv", b'logits,label\n"' + b"[" * 99999 + b'",0\n'), "or lists of|is damaged"),
    "no csv": (damaged(".csv", b"\xff\xfe\x00confidence\n"), "is damaged|has the columns"),
    "cut": (cut, "is damaged, or not what its name says"),
    "flipped": (flipped, "is damaged, or not what its name says|must be finite|must lie in"),
    "kinds": (two_kinds, "files of several kinds"),
    "widths": (other_widths, "All rows must have equally many numbers"),
    "tensors": (unequal_tensors, "every tensor must have 3 rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_said_in_one_sentence(name, tmp_path):
    write, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        evaluate(write(tmp_path))
    assert str(tmp_path) in str(error.value) or name == "widths"
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


def test_lists_longer_than_memory_are_refused_before_they_are_unpacked(tmp_path):
    longest = pa.array([[0.5], [0.5] * 3_000_000], pa.list_(pa.float64()))
    path = write_parquet(tmp_path / "x.parquet", logits=longest, label=[0, 0])
    assert path.stat().st_size < 100_000  # for they are all alike
    tracemalloc.start()
    with pytest.raises(ValueError, match="'logits' must hold equally many numbers, at most 1,048,576"):
        saved(path)
    tracemalloc.stop()


def test_what_is_not_there_is_said(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="holds no predictions: no file in it ends in .parquet"):
        saved(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no such folder"):
        saved(tmp_path / "none.parquet")


def test_a_report_of_sums_tells_what_it_can(tmp_path):
    from hf_focal import EvaluationSums, report_of_sums

    logits, labels = draw()
    sums = EvaluationSums()
    sums.update_logits(logits, labels)
    report = report_of_sums(sums, "mine")
    assert "Over-confident" in report.text() and "The temperature of smallest NLL" in report.text()
    assert (
        "AdaECE to within 3.5e-05%; all other" in report.text(200)
        and json.loads(json.dumps(report.to_record()))["name"] == "mine"
    )
    report.diagram().savefig(tmp_path / "x.png")
    with pytest.raises(ValueError, match="No samples"):
        report_of_sums(EvaluationSums())
