# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A mistake of the user's ends a script with one line, which is the last on the terminal, and with exit code 2."""

import os
import pty
import runpy
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from datasets.exceptions import DatasetGenerationError
from launching import launch
from PIL import UnidentifiedImageError
from safetensors import SafetensorError
from tqdm import tqdm

from hf_focal.cli import script as door
from hf_focal.cli.script import run_script


class HTTPError(Exception):
    """As the client of the Hub has it, whichever that is."""


@pytest.fixture
def ended(monkeypatch, capsys):
    """Runs something through the door; returns its exit code and what it wrote to the standard error."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])

    def run(main):
        with pytest.raises(SystemExit) as end:
            run_script(main)
        return end.value.code, capsys.readouterr().err.removeprefix("\n")  # where a bar of another test is left

    return run


def raising(error, cause=None):
    def main():
        raise error from cause

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("gamma must be\n  at least 0."), "gamma must be at least 0."),
        (FileNotFoundError("There is no such folder: x."), "There is no such folder: x."),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ModuleNotFoundError("No module named 'peft'"), "No module named 'peft'"),
        (SyntaxError("invalid syntax", ("own.py", 3, 1, "x y")), "invalid syntax (own.py, line 3)"),
        (SafetensorError("header too small"), "header too small"),
        (type("ConnectError", (HTTPError,), {})("no route"), "no route"),
        (UnidentifiedImageError("cannot identify image file"), "cannot identify image file"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(ended, error, line):
    code, said = ended(raising(error))
    # This file counts as a library: what is raised in one tells how its traceback is had.
    assert code == 2 and said == f"train.py: error: {line} (HF_FOCAL_TRACEBACK=1 shows where.)\n"


def test_an_error_of_ours_needs_no_traceback(ended):
    from hf_focal import create_loss

    code, said = ended(lambda: create_loss("focla"))
    assert code == 2 and said.startswith("train.py: error: Unknown loss 'focla'. Did you mean 'focal'?")
    assert "HF_FOCAL_TRACEBACK" not in said


def test_broken_data_are_told_by_what_broke_them(ended):
    _, said = ended(raising(DatasetGenerationError("An error occurred"), ValueError("row 3 has 2 columns")))
    assert said.startswith("train.py: error: An error occurred: row 3 has 2 columns (HF_")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB. GPU 0 has ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory."),
        MemoryError(),
    ],
)
def test_where_memory_ends_smaller_batches_are_named(ended, error):
    code, said = ended(raising(error))
    assert code == 2 and "memory" in said and said.count("\n") == 1
    assert "Smaller batches need less: --per_device_train_batch_size, --per_device_eval_batch_size." in said


@pytest.mark.parametrize("kind", [TypeError, KeyError, AssertionError, RuntimeError, ZeroDivisionError])
def test_faults_of_the_program_keep_their_traceback(kind):
    with pytest.raises(kind):
        run_script(raising(kind("a fault")))


def test_the_environment_brings_the_traceback_back(monkeypatch):
    monkeypatch.setenv("HF_FOCAL_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a mistake"):
        run_script(raising(ValueError("a mistake")))


def test_an_interrupted_run_says_how_it_goes_on(ended):
    from hf_focal.cli.run import telling_how_to_go_on

    assert ended(raising(KeyboardInterrupt())) == (130, "train.py: interrupted.\n")
    code, said = ended(telling_how_to_go_on()(raising(KeyboardInterrupt())))
    assert code == 130 and "--resume_from_checkpoint last" in said and said.count("\n") == 1


def test_a_progress_bar_does_not_run_into_the_line(ended):
    bars = []

    def main():
        bars.append(tqdm(range(3), file=sys.stderr))
        raise ValueError("a mistake")

    _, said = ended(main)
    assert said.split("\n")[-2].startswith("train.py: error: a mistake")
    bars[0].close()


def test_another_process_speaks_only_where_the_main_one_lives_on(ended, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)  # meanwhile a launcher would end it
    monkeypatch.setenv("RANK", "0")
    assert ended(raising(ValueError("a mistake")))[0] == 2 and not waited
    monkeypatch.setenv("RANK", "1")
    code, said = ended(raising(ValueError("a mistake")))
    assert code == 2 and "a mistake" in said and sum(waited) > 10
    with pytest.raises(KeyError):
        run_script(raising(KeyError("a fault")))
    assert len(waited) == 2
    assert ended(raising(KeyboardInterrupt())) == (130, "")


# ---- Under a launcher -----------------------------------------------------------------------------------------------

CHILD = """
from hf_focal.cli.script import run_script
def main():
    raise ValueError("a mistake")
run_script(main)
"""
LAUNCHER = """
import subprocess, sys, time
done = subprocess.run([sys.executable, sys.argv[1]])
time.sleep({pause})
raise RuntimeError(f"exit code {{done.returncode}}")
"""
LINE = "child.py: error: a mistake"


def launched(tmp_path, name="torchrun", pause=0.0, **options):
    """What a child that is mistaken and the launcher of it, which reports that as an error of its own, write."""
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / name).write_text(LAUNCHER.format(pause=pause))
    command = [sys.executable, str(tmp_path / name), str(tmp_path / "child.py")]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60, **options).stderr


def test_the_line_is_said_again_once_the_launcher_is_gone(tmp_path):
    lines = launched(tmp_path, pause=0.5).splitlines()
    assert lines[0] == lines[-1] == LINE and lines[-2] == "RuntimeError: exit code 2"


def test_whoever_is_no_launcher_is_not_waited_for(tmp_path):
    lines = launched(tmp_path, name="own.py").splitlines()
    assert lines[0] == LINE and lines[-1] == "RuntimeError: exit code 2"


def missing(tmp_path):
    return str(ROOT / "scripts" / "compare_runs.py"), str(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "start", "name"),
    [
        (1, [str(ROOT / "scripts" / "compare_runs.py")], "compare_runs.py"),
        (2, [str(ROOT / "scripts" / "compare_runs.py")], "compare_runs.py"),
        (1, ["-m", "hf_focal.cli.compare_runs"], "compare_runs.py"),
        (2, ["-m", "hf_focal", "compare"], "hf-focal compare"),
    ],
)
def test_a_mistake_is_the_last_line_under_accelerate(tmp_path, processes, start, name):
    _, folder = missing(tmp_path)
    result = launch(*start, folder, processes=processes, check=False)
    line = f"{name}: error: There is no such folder: {folder}."
    assert result.returncode == 1 and result.stderr.splitlines()[-1] == line
    assert result.stderr.count(line) == 2  # by one process, before and after what the launcher says


@pytest.mark.slow
def test_on_a_terminal_the_line_is_there_while_the_launcher_still_is(tmp_path):
    script, folder = missing(tmp_path)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", script, folder]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT)
    os.close(theirs)
    shown, alive = "", False
    while "returned non-zero exit status 2" not in shown or "no such folder" not in shown.split("exit status 2")[1]:
        shown += os.read(ours, 4096).decode()
    alive = process.poll() is None
    process.wait()
    os.close(ours)
    assert alive and f"There is no such folder: {folder}." in shown


# ---- Flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("run_image.py", ["--learning_rat", "0.1"], "no flag --learning_rat. Did you mean '--learning_rate'?"),
        ("run_image.py", ["--learning-rat=1"], "There is no flag --learning-rat. Did you mean '--learning-rate'?"),
        ("run_image.py", ["-loss", "focal"], "There is no flag -loss. Did you mean '--loss'?"),
        ("run_image.py", ["digits"], "'digits' belongs to no flag."),
        ("run_image.py", ["--optim", "adamw_troch"], "there is no 'adamw_troch'. Did you mean 'adamw_torch'?"),
        ("run_image.py", ["--lr_scheduler_type", "cosin"], "there is no 'cosin'. Did you mean 'cosine'?"),
        ("run_image.py", ["--eval_strategy", "step"], "there is no 'step'. Did you mean 'steps'?"),
        ("run_image.py", ["--eval_strategy", "x"], "there is no 'x'. It is one of no, steps, epoch."),
        ("run_image.py", ["--loss", "crossentropy"], "Did you mean 'cross_entropy'?"),
        ("run_image.py", ["--loss", "focal", "--loss_kwargs", '{"gama": 2}'], "Did you mean 'gamma'?"),
        ("run_image.py", ["--calibrator", "temprature"], "Did you mean 'temperature'?"),
        ("run_image.py", ["--metric_for_best_model", "eval_adaptive_ec"], "Did you mean 'adaptive_ece'?"),
        ("run_image.py", ["--lr_scheduler_kwargs", '{"num_cycle": 2}'], "Did you mean 'num_cycles'?"),
        ("run_image.py", ["--lr_scheduler_kwargs", "2"], "--lr_scheduler_kwargs must be a JSON object, got '2'"),
        ("run_image.py", ["--loss_kwargs", '{"a": 1, "a": 2}'], "the key 'a' comes twice"),
        ("run_image.py", ["--loss", "flsc-531", "--loss_kwargs", '{"milestones": 3}'], "cannot take {'milestones': 3"),
        ("run_image.py", ["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps must be at least 1"),
        ("run_image.py", ["--num_train_epochs", "-1"], "num_train_epochs must be a number of at least 0, got -1.0"),
        ("run_image.py", ["--plugin", "none.py"], "--plugin none.py: there is no such file."),
        ("run_image.py", ["--config", "none.yaml"], "'none.yaml' is no file."),
        ("run_text.py", ["--vocab_size", "0"], "vocab_size must be at least 1, got 0"),
        ("run_text.py", ["--embedings", "x"], "There is no flag --embedings. Did you mean '--embeddings'?"),
        ("calibrate.py", ["--model_name_or_pth", "x"], "Did you mean '--model_name_or_path'?"),
        ("calibrate.py", [], "required: --model_name_or_path"),
        ("run_ood.py", ["--model_name_or_path", "x", "--corruption", "contrst"], "Did you mean 'contrast'?"),
        ("compare_runs.py", ["--hlep"], "There is no flag --hlep. Did you mean '--help'?"),
        ("compare_runs.py", ["outputs/none"], "There is no such folder: outputs/none."),
        ("plot_dynamics.py", ["x", "--averag"], "There is no flag --averag. Did you mean '--average'?"),
        ("plot_dynamics.py", ["none"], "There is no such folder: none."),
        ("linear_model.py", ["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
    ],
)  # fmt: skip
def test_what_is_misspelt_is_told_in_one_line(monkeypatch, capsys, tmp_path, script, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *flags])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert end.value.code == 2 and len(lines) == 1
    assert lines[0].startswith(f"{script}: error: ") and message in lines[0]
    assert not list(tmp_path.iterdir())


def test_the_launchers_that_are_known_are_those_that_there_are():
    import importlib.util

    for module in (name for name in door._LAUNCHERS if "." in name):
        assert importlib.util.find_spec(module) is not None
