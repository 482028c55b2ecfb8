# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A disk that is full, cannot be written or is not ours: one sentence, and what was there is as it was."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_models import arguments, build, flat, samples

import hf_focal
from hf_focal import CalibrationTrainer, Predictions, load_predictions, save_predictions
from hf_focal.results.dynamics_file import DYNAMICS, NUMBERS, read_rows, write_rows
from hf_focal.results.folder import prepare_output_dir
from hf_focal.results.lock import hold, release
from hf_focal.results.replace import replacing


FULL = r"The disk is full: .* could not be written\. Make room, and "


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory, of 1 MB and 300 files; only root may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=300", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder, left):
    """Take all room but so many bytes."""
    free = shutil.disk_usage(folder).free
    (folder / "filling").write_bytes(bytes(max(free - left, 0)))


def many(count):
    return {"test": Predictions(np.zeros((count, 50), np.float32), np.zeros(count, np.int64))}


def dynamics(count):
    row = dict.fromkeys(NUMBERS, 0.5) | {"step": 1, "split": "validation", "loss": "focal", "n_samples": 1}
    norms = np.random.default_rng(0).normal(size=count).tolist()
    return [{**row, "epoch": 1.0, "gradient_norms": norms}]


# ---- Full -----------------------------------------------------------------------------------------------------------


def test_predictions_and_dynamics_that_do_not_fit(small_disk):
    write_rows(small_disk / DYNAMICS, dynamics(10))
    fill(small_disk, 100_000)
    with pytest.raises(OSError, match=FULL + "do it again"):
        save_predictions(small_disk / "predictions.safetensors", many(2000))
    if (small_disk / "predictions.safetensors").exists():  # as of older versions of safetensors
        with pytest.raises(ValueError, match="is damaged"):
            load_predictions(small_disk / "predictions.safetensors")
        (small_disk / "predictions.safetensors").unlink()
    with pytest.raises(OSError, match=FULL):
        write_rows(small_disk / DYNAMICS, dynamics(100_000))
    assert [len(row["gradient_norms"]) for row in read_rows(small_disk / DYNAMICS)] == [10]
    assert {path.name for path in small_disk.iterdir()} == {DYNAMICS, "filling"}


WRITERS = {
    "safetensors": lambda folder: save_file({"weight": torch.zeros(500_000)}, folder / "model.safetensors"),
    "torch": lambda folder: torch.save(torch.zeros(500_000), folder / "training_args.bin"),
    "text": lambda folder: (folder / "README.md").write_text("x" * 2_000_000),
    "folder": lambda folder: [(folder / str(number)).mkdir() for number in range(1000)],
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_was_there_stays_whatever_does_not_fit_beside_it(small_disk, writer):
    model = build()
    with replacing(small_disk, "model") as staged:
        model.save_pretrained(staged)
    fill(small_disk, 50_000)
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    with pytest.raises(OSError, match=FULL), replacing(small_disk, "model") as staged:
        (staged / "config.json").write_text("new")
        WRITERS[writer](staged)
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before
    assert torch.equal(flat(hf_focal.from_pretrained(small_disk)), flat(model))


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_to_go_on_from(small_disk):
    data = samples("vit", 16)

    def trainer(**more):
        args = arguments(small_disk / "out", save_strategy="steps", save_steps=1, max_steps=4, **more)
        return CalibrationTrainer(model=build(), args=args, train_dataset=data)

    first = trainer()
    save = first._save_checkpoint

    def then_fill(*args):
        save(*args)
        if first.state.global_step == 2:
            fill(small_disk, 30_000)

    first._save_checkpoint = then_fill
    with pytest.raises(OSError, match=FULL + "go on from the checkpoint before, by --resume_from_checkpoint last"):
        first.train()
    assert {path.name for path in (small_disk / "out").iterdir()} == {"checkpoint-1", "checkpoint-2"}
    (small_disk / "filling").unlink()
    second = trainer(save_total_limit=1)
    assert second.train(resume_from_checkpoint=True).global_step == 4
    assert (small_disk / "out" / "checkpoint-4").is_dir()


# ---- At every change of a folder ------------------------------------------------------------------------------------

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
failing = {"at": 0, "made": 0, "code": errno.ENOSPC, "below": None}


def hook(event, args):
    if failing["below"] is None or not args or not str(args[0]).startswith(failing["below"]):
        return
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in CHANGES or writes:
        failing["made"] += 1
        if failing["made"] == failing["at"]:
            raise OSError(failing["code"], os.strerror(failing["code"]), str(args[0]))


@contextmanager
def failing_at(number, code, below):
    """The change of that number below a folder is refused by the system."""
    if not failing.get("there"):  # there is no taking it back
        sys.addaudithook(hook)
    failing.update(at=number, made=0, code=code, below=str(below), there=True)
    try:
        yield
    finally:
        failing["below"] = None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_an_error_of_the_system_at_any_change_leaves_the_old_files_or_the_new_ones(tmp_path, code):
    step, seen = 0, set()
    while True:
        step += 1
        folder = tmp_path / str(step)
        for name in ("config.json", "model.safetensors", "all_results.json", "notes.txt"):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text("old")
        failed = None
        try:
            with failing_at(step, code, folder), replacing(folder, "results") as staged:
                for name in ("config.json", "model.safetensors", "all_results.json", "README.md"):
                    (staged / name).write_text("new")
        except OSError as error:
            failed = error
        if failing["made"] < step:
            break
        assert failed is None or str(folder) in str(failed)
        if code == errno.ENOSPC and failed is not None:
            assert str(failed).startswith("The disk is full: ")
        hold(folder)  # nobody holds it any more
        release(folder)
        hf_focal.results.replace.mend_folder(folder)
        texts = {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}
        assert texts.pop("notes.txt") == "old"
        assert {*texts.values()} in ({"old"}, {"new"}), (step, texts)
        assert len(texts) == (4 if "new" in texts.values() else 3)
        seen.add(texts["config.json"])
    assert step > 10 and seen == {"old", "new"}


# ---- Not to be written ----------------------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_done(tmp_path, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    args = arguments(small_disk / "out")
    with pytest.raises(OSError, match="--output_dir .*out cannot be written: Read-only file system"):
        prepare_output_dir(args)
    with pytest.raises(OSError, match="Read-only file system"):
        CalibrationTrainer(model=build(), args=args, train_dataset=samples("vit", 4)).save_model()
    assert not any(small_disk.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="root alone can become somebody else")
def test_a_folder_of_somebody_else_is_refused_before_anything_is_done():
    with tempfile.TemporaryDirectory() as folder:  # that of pytest lies in folders that nobody else may look into
        os.chmod(folder, 0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(OSError, match="cannot be written: Permission denied"):
                prepare_output_dir(arguments(folder))
        finally:
            os.seteuid(0)
        assert not os.listdir(folder)


def test_a_folder_that_was_removed_after_an_error_can_be_written_again(tmp_path):
    args = arguments(tmp_path / "out")
    prepare_output_dir(args)
    shutil.rmtree(tmp_path / "out")
    prepare_output_dir(args)
    assert (tmp_path / "out" / ".lock").is_file()
    release(tmp_path / "out")
