# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: what it must not bury, what it goes on with, and what is left when a process dies."""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from small_models import build, flat
from transformers import AutoModelForImageClassification, TrainerState

import hf_focal
from hf_focal import prepare_output_dir
from hf_focal.results.folder import check_folder, put_in_place, refuse_own_input
from hf_focal.results.lock import hold, release
from hf_focal.results.replace import mend_folder, replacing


MODEL, CONFIG, RESULTS = "model.safetensors", "config.json", "all_results.json"


def arguments(folder, resume=None):
    return SimpleNamespace(output_dir=str(folder), resume_from_checkpoint=resume, should_save=True)


def checkpoint(folder, step=10):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    TrainerState().save_to_json(str(path / "trainer_state.json"))
    return path


def finished(folder, steps=(10,)):
    for step in steps:
        checkpoint(folder, step)
    folder.mkdir(exist_ok=True)
    (folder / RESULTS).write_text("{}")
    (folder / "notes.txt").write_text("mine")
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def in_child(work):
    """Exit status of a process that does some work, and that leaves nothing of its own behind."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


STEPS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def kill_at(step, work):
    """Kill a process just before its step of that number that changes a folder; false where there are fewer."""

    def killed():
        left = step

        def count(event, args):
            nonlocal left
            if event in STEPS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()

    status = in_child(killed)
    assert status in (0, -signal.SIGKILL)
    return status != 0


# ---- Not to bury another run ----------------------------------------------------------------------------------------


def test_a_finished_run_is_not_buried(tmp_path):
    assert prepare_output_dir(arguments(tmp_path / "new")) is None
    finished(tmp_path)
    with pytest.raises(ValueError, match="finished run.*--overwrite.*--resume_from_checkpoint"):
        prepare_output_dir(arguments(tmp_path))
    (tmp_path / RESULTS).unlink()
    with pytest.raises(ValueError, match="unfinished run.*checkpoint-10.*--overwrite.*--resume_from_checkpoint"):
        prepare_output_dir(arguments(tmp_path))
    # Nor by one that goes on from a checkpoint of another folder.
    elsewhere = str(checkpoint(tmp_path / "other"))
    with pytest.raises(ValueError, match=f"{tmp_path} holds an unfinished run"):
        prepare_output_dir(arguments(tmp_path, elsewhere))
    assert prepare_output_dir(arguments(tmp_path / "free", elsewhere)) == elsewhere


@pytest.mark.parametrize("name", [CONFIG, "pytorch.md", MODEL, "README.md", "tokenizer.json", "adapter_config.json"])
def test_files_of_somebody_else_are_not_written_over(tmp_path, name):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".git").mkdir()
    (tmp_path / name).write_text("precious")
    args = arguments(tmp_path)
    if name == "pytorch.md":  # which no run writes
        assert prepare_output_dir(args) is None
        return
    with pytest.raises(ValueError, match=rf"files that this run would write over \({name}\). Use --overwrite"):
        prepare_output_dir(args)
    assert prepare_output_dir(args, overwrite=True) is None
    assert files(tmp_path).items() >= {"notes.txt": "mine", name: "precious"}.items()


def test_overwriting_removes_a_run_only_once_there_is_another(tmp_path):
    finished(tmp_path, steps=(9, 10))
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-12.bak").mkdir()
    (tmp_path / "checkpoint-notes.txt").write_text("mine")
    (tmp_path / "best-ece").mkdir()
    (tmp_path / "best-ece" / "best.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("old")
    before, args = files(tmp_path), arguments(tmp_path)
    assert prepare_output_dir(args, overwrite=True) is None
    assert before.items() <= files(tmp_path).items()
    new = Path(args.output_dir)
    assert new.parent == tmp_path
    checkpoint(new, step=3)
    (new / RESULTS).write_text('{"new": 1}')
    put_in_place(args)
    assert args.output_dir == str(tmp_path)
    kept = {"checkpoint-best", "checkpoint-12.bak", "checkpoint-notes.txt", "notes.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "checkpoint-3", RESULTS}
    assert (tmp_path / RESULTS).read_text() == '{"new": 1}'


def test_what_overwriting_would_remove_is_no_model_to_start_from(tmp_path):
    finished(tmp_path)
    for model in (tmp_path / "checkpoint-10", tmp_path / "best-ece", tmp_path / "checkpoint-10" / "part"):
        model.mkdir(exist_ok=True)
        (model / "best.json").write_text("{}")
        with pytest.raises(ValueError, match=f"{model.name} lies in --output_dir .*Give another --output_dir"):
            refuse_own_input(tmp_path, model)
    with pytest.raises(ValueError, match="is the model itself"):
        refuse_own_input(tmp_path, f"{tmp_path}/../{tmp_path.name}")
    (tmp_path / "base").mkdir()
    for other in (tmp_path / "base", tmp_path / "none", "resnet18", tmp_path.parent):
        refuse_own_input(tmp_path, other)


def test_a_folder_that_cannot_be_one_is_refused_in_words(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    for folder, message in {
        tmp_path / "file": "--output_dir .*/file is a file, not a folder",
        tmp_path / "file" / "in" / "it": "lies in .*/file, which is a file, not a folder",
        tmp_path / "link": "link is a link to gone, which is not there",
        tmp_path / "link" / "in": "link is a link to gone, which is not there",
        "": "--output_dir is empty",
    }.items():
        with pytest.raises(OSError, match=message):
            prepare_output_dir(arguments(folder))
    with pytest.raises(OSError, match="--output_dir /proc/none cannot be written: No such file"):
        prepare_output_dir(arguments("/proc/none"))
    monkeypatch.chdir(tmp_path)
    check_folder(".")
    check_folder("new/one")


def test_a_run_that_does_not_start_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no such checkpoint"):
        prepare_output_dir(arguments(tmp_path / "new", "last"))
    assert not (tmp_path / "new").exists()
    # Nor one that fails later on, such as on a misspelt data set.
    prepare_output_dir(arguments(tmp_path / "new"))
    assert files(tmp_path / "new")
    release(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ---- One run a folder -----------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        prepare_output_dir(arguments(tmp_path))
        if worker := os.fork():  # which outlives it
            os.write(tell, str(worker).encode())
        signal.pause()
    worker = int(os.read(ready, 20))
    try:
        for attempt in (lambda: prepare_output_dir(arguments(tmp_path), overwrite=True), lambda: hold(tmp_path)):
            with pytest.raises(BlockingIOError, match=rf"is being written by another run \(process {child} on "):
                attempt()
        with pytest.raises(BlockingIOError), replacing(tmp_path, "files"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        assert (tmp_path / ".lock").is_file()  # which a dead process does not hold
        assert prepare_output_dir(arguments(tmp_path)) is None
    finally:
        os.kill(worker, signal.SIGKILL)
    assert prepare_output_dir(arguments(tmp_path)) is None  # the same process may ask again
    with pytest.raises(ValueError, match="no such checkpoint"):
        prepare_output_dir(arguments(tmp_path, "last"))
    assert in_child(lambda: hold(tmp_path)) == 1  # and what it forks is another one
    release(tmp_path)
    assert not files(tmp_path)
    assert in_child(lambda: hold(tmp_path)) == 0


# ---- Going on -------------------------------------------------------------------------------------------------------


def test_resuming_finds_the_newest_checkpoint(tmp_path):
    finished(tmp_path, steps=(9, 10))
    (tmp_path / "checkpoint-99.bak").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert Path(prepare_output_dir(arguments(tmp_path, "last"))).name == "checkpoint-10"
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-12" / "trainer_state.json").write_text('{"epoch": 1.')  # the run was killed meanwhile
    assert Path(prepare_output_dir(arguments(tmp_path, "last"))).name == "checkpoint-10"
    named = str(tmp_path / "checkpoint-9")
    assert prepare_output_dir(arguments(tmp_path, named)) == named
    for missing in (str(tmp_path / "checkpoint-11"), "last"):
        with pytest.raises(ValueError, match="no such checkpoint"):
            prepare_output_dir(arguments(tmp_path / "elsewhere", missing))
    with pytest.raises(ValueError, match="is no checkpoint, or was not written to its end: it holds no trainer_state"):
        prepare_output_dir(arguments(tmp_path, str(tmp_path)))


@pytest.mark.parametrize("name", [MODEL, "optimizer.pt", "rng_state_1.pth"])
def test_a_checkpoint_that_is_cut_off_is_passed_over(tmp_path, name):
    for step in (9, 10):
        path = checkpoint(tmp_path, step)
        save_file({"weight": torch.arange(1000.0)}, path / MODEL)
        torch.save({"state": torch.arange(1000.0)}, path / "optimizer.pt")
        torch.save({"cpu": torch.get_rng_state()}, path / "rng_state_1.pth")
    assert Path(prepare_output_dir(arguments(tmp_path, "last"))).name == "checkpoint-10"
    cut = tmp_path / "checkpoint-10" / name
    cut.write_bytes(cut.read_bytes()[:-100])
    assert Path(prepare_output_dir(arguments(tmp_path, "last"))).name == "checkpoint-9"
    with pytest.raises(ValueError, match=rf"checkpoint-10 was not written to its end \({name}: "):
        prepare_output_dir(arguments(tmp_path, str(tmp_path / "checkpoint-10")))


def test_a_checkpoint_that_was_half_copied_is_refused(tmp_path):
    """Resumed, it would start the optimizer anew."""
    path = checkpoint(tmp_path)
    torch.save({}, path / "scheduler.pt")
    with pytest.raises(ValueError, match="it holds no state of the optimizer"):
        prepare_output_dir(arguments(tmp_path, str(path)))
    torch.save({}, path / "optimizer.pt")
    assert prepare_output_dir(arguments(tmp_path, str(path))) == str(path)


def test_last_goes_on_with_the_run_that_is_to_replace_another(tmp_path):
    finished(tmp_path, steps=(10,))
    new = tmp_path / ".unfinished"
    new.mkdir()
    with pytest.raises(ValueError, match=r"stopped before its first checkpoint. Start .* --overwrite, or .*/checkpo"):
        prepare_output_dir(arguments(tmp_path, "last"))
    newer, args = checkpoint(new, 3), arguments(tmp_path, "last")
    with pytest.raises(ValueError, match=r"a finished run, and an unfinished one that is to replace it \(checkpoint-"):
        prepare_output_dir(arguments(tmp_path))
    assert prepare_output_dir(args) == str(newer) and args.output_dir == str(new)
    # The earlier run is gone on with by its name, and the other stays as long as there is anything to go on from.
    earlier, args = tmp_path / "checkpoint-10", arguments(tmp_path, str(tmp_path / "checkpoint-10"))
    assert prepare_output_dir(args) == str(earlier) and args.output_dir == str(tmp_path) and newer.is_dir()
    (newer / "trainer_state.json").unlink()
    assert prepare_output_dir(arguments(tmp_path, str(earlier))) == str(earlier) and not new.exists()


# ---- Killed at every step -------------------------------------------------------------------------------------------


def write_run(folder, version):
    """All that a run leaves, each file telling which run it is of."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, MODEL, "README.md", "reliability.png", "predictions.safetensors", RESULTS):
        (folder / name).write_text(version)


def of_one_run(folder):
    """Which run the folder passes for: `None` where stock loaders refuse it, for it has no config."""
    found = {name: (folder / name).read_text() for name in (CONFIG, MODEL, RESULTS) if (folder / name).is_file()}
    if CONFIG not in found:
        return None
    assert found[CONFIG] == found[MODEL]
    if RESULTS in found:  # the mark of a finished run
        names = (CONFIG, MODEL, "README.md", "reliability.png", "predictions.safetensors", RESULTS)
        assert {(folder / name).read_text() for name in names} == {found[CONFIG]}
    return found[CONFIG]


def replace_results(folder):
    with replacing(folder, "results") as staged:
        write_run(staged, "new")


def replace_run(folder):
    args = arguments(folder)
    prepare_output_dir(args, overwrite=True)
    new = Path(args.output_dir)
    for name in ("checkpoint-8", "best-nll", "plots"):
        (new / name).mkdir(parents=True)
        (new / name / "best.json").write_text("new")
    with replacing(new, "results") as staged:
        write_run(staged, "new")
    put_in_place(args)


@pytest.mark.parametrize("work", [replace_results, replace_run])
def test_a_kill_at_any_step_leaves_the_old_run_or_the_new_one(tmp_path, work):
    seen, step = set(), 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        write_run(folder, "old")
        (folder / "notes.txt").write_text("mine")
        (folder / "model.safetensors.index.json").write_text("old")
        for name in ("checkpoint-8", "checkpoint-16", "best-ece", "plots"):
            (folder / name).mkdir()
            (folder / name / "best.json").write_text("old")
        (folder / "plots" / "mine.png").write_text("mine")
        before = files(folder)
        killed = kill_at(step, lambda folder=folder: work(folder))
        first = of_one_run(folder)
        mend_folder(folder)
        after = of_one_run(folder)
        assert after in ("old", "new") and first in (None, "old", after)
        seen.add((first, after))
        # The next run removes what is half written, and nothing else.
        with pytest.raises(ValueError, match="holds a finished run"):
            prepare_output_dir(arguments(folder))
        final, now = of_one_run(folder), files(folder)
        hidden = [name for name in now if name.startswith(".") and not name.startswith(".unfinished")]
        assert final == after or (after, final) == ("old", "new")
        assert not hidden and now["notes.txt"] == now["plots/mine.png"] == "mine"
        if final == "old":
            assert before.items() <= now.items()
        else:
            assert "model.safetensors.index.json" not in now and "model.safetensors.index.json" in before
            if work is replace_run:
                assert set(now) == {*before, "best-nll/best.json"} - {
                    "model.safetensors.index.json", "checkpoint-16/best.json", "best-ece/best.json"
                }  # fmt: skip
                assert now["checkpoint-8/best.json"] == now["plots/best.json"] == "new"
        if not killed:
            break
    assert step > 20 and seen == {("old", "old"), ("old", "new"), (None, "new"), ("new", "new")}


def test_a_model_that_is_half_replaced_is_mended_by_loading_it(tmp_path):
    """A stock load meets no config; ours puts the new model in place."""
    old, new = build(seed=1), build(seed=2)
    step, mended = 0, 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        old.config.calibration, new.config.calibration = None, {"temperature": 0.5, "folded": True}
        old.save_pretrained(folder)

        def work(folder=folder):
            with replacing(folder, "model") as staged:
                new.save_pretrained(staged)

        killed = kill_at(step, work)
        half = not (folder / CONFIG).is_file()
        if half:
            with pytest.raises((OSError, ValueError)):
                AutoModelForImageClassification.from_pretrained(folder)
        if half or not killed:
            mended += half
            loaded = hf_focal.from_pretrained(folder)
            assert torch.equal(flat(loaded), flat(new)) and loaded.config.calibration == new.config.calibration
            assert json.loads((folder / CONFIG).read_text())["calibration"] == new.config.calibration
            assert {path.name for path in folder.iterdir()} <= {CONFIG, MODEL, ".lock"}
        if not killed:
            break
    assert mended >= 3


def test_an_error_while_files_are_written_replaces_none(tmp_path):
    write_run(tmp_path, "old")
    before = files(tmp_path)
    with pytest.raises(KeyError), replacing(tmp_path, "results") as staged:
        write_run(staged, "new")
        raise KeyError
    assert files(tmp_path) == before


def test_weights_can_be_read_by_those_who_can_read_the_rest(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a", "model") as staged:
            save_file({"weight": torch.ones(1)}, staged / MODEL)
            (staged / CONFIG).write_text("{}")
            (staged / MODEL).chmod(0o600)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()} == {0o640}
