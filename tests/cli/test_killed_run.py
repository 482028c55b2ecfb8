# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A run that is killed (`kill -9`) and resumed ends where one that was never stopped does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from launching import launch
from safetensors.torch import load_file


SCRIPT = str(ROOT / "scripts" / "run_image.py")
# 8 steps an epoch and a checkpoint every 3: the run is resumed in the middle of an epoch.
FLAGS = "--model_name_or_path cifar_resnet8 --train_from_scratch --image_size 16 --use_cpu true".split()
FLAGS += "--augmentation crop-flip --max_train_samples 128 --per_device_train_batch_size 16".split()
FLAGS += "--num_train_epochs 5 --save_strategy steps --save_steps 3 --save_total_limit 2".split()
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def start(folder, *flags):
    command = [sys.executable, SCRIPT, *FLAGS, "--output_dir", str(folder), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output[-4000:]
    return output


def kill_after(folder, step, process):
    """Kill the process as soon as the checkpoint of that step is there."""
    state = folder / f"checkpoint-{step}" / "trainer_state.json"
    while not state.is_file():
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "all_results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--loss", "flsc-531", "--lr_scheduler_type", "constant", "--lr_milestones", "2", "4"],
        ["--loss", "adafocal"],
        ["--loss", "flsd-53"],
    ],
    ids=lambda flags: flags[1],
)
def test_a_killed_run_resumes_to_the_result_of_one_that_was_not(tmp_path, flags):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, *flags))
    kill_after(killed, 12, start(killed, *flags))
    # As if it had been killed while it wrote the next one.
    partial = killed / "checkpoint-39"
    partial.mkdir()
    (partial / "trainer_state.json").write_text('{"epoch": 4')
    output = finish(start(killed, *flags, "--resume_from_checkpoint", "last"))
    assert "checkpoint-39 was not written to its end and is passed over" in output
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    first, second = (json.loads((folder / "all_results.json").read_text()) for folder in (whole, killed))
    for key in ("test_after_nll", "test_after_ece", "test_before_accuracy", "temperature"):
        assert second[key] == pytest.approx(first[key], abs=1e-6), key


@pytest.mark.slow
def test_forty_kills_leave_what_was_there_or_what_was_to_be(tmp_path, capsys):
    """See killing.py. A run that is killed ten times and gone on with ends in the predictions of one undisturbed."""
    command = [sys.executable, str(ROOT / "tests" / "killing.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    tally = [line for line in done.stdout.splitlines() if " kills: " in line]
    assert len(tally) == 4 and all("10 kills" in line for line in tally)
    with capsys.disabled():
        print("", *tally, sep="\n")


@pytest.mark.slow
def test_two_processes_decide_alike(tmp_path):
    (tmp_path / "all_results.json").write_text("{}")
    (tmp_path / "checkpoint-9").mkdir()
    flags = [*FLAGS, "--num_train_epochs", "1", "--output_dir", str(tmp_path), "--disable_tqdm", "true"]
    refused = launch(SCRIPT, *flags, processes=2, check=False)
    assert refused.returncode != 0 and f"{tmp_path} holds a finished run. Use --overwrite" in refused.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"all_results.json", "checkpoint-9"}
    done = launch(SCRIPT, *flags, "--overwrite", processes=2)
    assert "in 2 process(es)" in done.stdout and done.stdout.count("is replaced once this run is complete") == 1
    left = {"config.json", "model.safetensors", "all_results.json", "README.md"}
    left |= {"predictions.safetensors", "reliability.png", ".head_before_calibration.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} - left == {"checkpoint-3", "checkpoint-4"}
    assert len(list((tmp_path / "checkpoint-4").glob("rng_state_*.pth"))) == 2
