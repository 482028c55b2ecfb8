# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Rows that do not fit into memory: a file without a name, read as the array that it holds."""

import os
import tempfile

import numpy as np
import pytest

from hf_focal import spill
from hf_focal.checks import check_logits, row_blocks
from hf_focal.spill import Rows, forget, taken


generator = np.random.default_rng(0)
PARTS = [generator.normal(size=(count, 7)).astype(np.float32) for count in (3, 0, 50, 1, 200)]


def rows_of(parts):
    rows = Rows()
    for part in parts:
        rows.add(part)
    return rows


def mapped(array):
    """The same in a file, whatever its size."""
    with tempfile.TemporaryFile() as file:
        file.write(array.tobytes())
        file.flush()
        return np.memmap(file, array.dtype, "r+", shape=array.shape)


@pytest.mark.parametrize("most", [0, 1000, 1 << 26])
def test_rows_are_one_array_in_memory_or_in_a_file(most, monkeypatch, tmp_path):
    monkeypatch.setattr(spill, "IN_MEMORY", most)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = rows_of(PARTS)
    found = rows.array()
    assert isinstance(found, np.memmap) is (most < 1 << 26) and len(rows) == 254
    assert found.dtype == np.float32 and np.array_equal(found, np.concatenate(PARTS))
    assert not os.listdir(tmp_path)  # a process that is killed leaves nothing


def test_rows_are_not_those_of_a_batch_that_changes_later():
    batch = np.ones((2, 3))
    rows = rows_of([batch])
    batch[:] = 0
    assert rows.array().sum() == 6


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
@pytest.mark.parametrize("count", [2, 100_000])  # found when the file is flushed, and when it is written
def test_a_full_disk_is_told_with_the_way_out(count, monkeypatch):
    monkeypatch.setattr(spill, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "w+b"))
    with pytest.raises(OSError, match=f"{count} rows of logits.*No space left on device. Set .*TMPDIR to a folder"):
        rows_of([np.zeros((count, 4))]).array()


@pytest.mark.parametrize("most", [0, 1 << 26])
def test_rows_that_are_taken_are_those_of_the_index(most, monkeypatch):
    whole, which = np.concatenate(PARTS), np.flatnonzero(generator.random(254) < 0.4)
    monkeypatch.setattr(spill, "IN_MEMORY", most)
    monkeypatch.setattr(spill, "_COPIED", 300)
    for array in (whole, mapped(whole)):
        found = taken(array, which)
        assert np.array_equal(found, whole[which]) and isinstance(found, np.memmap) is (most == 0)


def test_what_is_forgotten_is_read_again_and_nothing_is_lost():
    whole = np.concatenate(PARTS)
    shared = mapped(whole)
    shared[3] = 9
    for array in (np.asarray(shared)[2:], whole, None):  # a view of it; of what is no file nothing is done
        forget(array)
    assert (shared[3] == 9).all() and np.array_equal(shared[4:], whole[4:])


def test_a_copy_on_write_keeps_what_was_changed(tmp_path):
    np.save(tmp_path / "rows.npy", np.concatenate(PARTS))
    array = np.load(tmp_path / "rows.npy", mmap_mode="c")
    array[0] = 5
    for _ in row_blocks(array, np.float64):
        pass
    forget(array)
    assert (array[0] == 5).all()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_blocks_of_a_mapped_file_do_not_pile_up_in_memory(monkeypatch):
    def held():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    monkeypatch.setattr("hf_focal.checks._MAPPED", 1 << 22)
    array, most = mapped(np.zeros((1 << 14, 1 << 10), np.float32)), 0.0  # 64 MB
    before = held()
    for _, values, _ in row_blocks(array, np.float64):
        values.sum()
        most = max(most, held() - before)
    assert most < 24
    array.sum()  # which goes through all of them at once
    assert held() - before > 48


MASKED = np.where(generator.random((300, 5)) < 0.2, np.finfo(np.float32).min, generator.normal(size=(300, 5)))
MASKED[:, 0] = 1.0


def test_masks_of_a_mapped_file_are_those_of_an_array(monkeypatch):
    monkeypatch.setattr(spill, "IN_MEMORY", 0)
    monkeypatch.setattr("hf_focal.checks.LARGE_BLOCK", 64)
    array = MASKED.astype(np.float32)
    found, _ = check_logits(mapped(array))
    assert np.array_equal(found, np.where(array < -1e38, -np.inf, array)) and found.dtype == np.float32
    array[250, 2] = np.nan
    with pytest.raises(ValueError, match="got NaN in row 250"):
        check_logits(mapped(array))
