# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Cells in processes of their own: run once, resumed, kept; two grids in one folder; and real ones that are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from conftest import ROOT

from hf_focal import Predictions
from hf_focal.cli import reproduce
from hf_focal.predictions import save_predictions
from hf_focal.reproduction import runner
from hf_focal.results.dynamics_file import DYNAMICS, NUMBERS, read_rows, write_rows
from hf_focal.results.lock import release_all


# Stands for a script of ours: notes that it was started, and leaves what a run leaves.
FAKE = """
import json, os, shutil, sys, time
words = sys.argv[1:]
def flag(name, default=None):
    return words[words.index(name) + 1] if name in words else default
home, loss, resume = flag("--output_dir"), flag("--loss"), flag("--resume_from_checkpoint")
with open("started.txt", "a") as log:
    log.write(f"{loss} {flag('--seed')} {resume}\\n")
if loss == "slow" and resume is None:
    os.makedirs(home + "/checkpoint-1")
    open(home + "/checkpoint-1/trainer_state.json", "w").write("{}")
    time.sleep(900)
time.sleep(float(flag("--pause", 0)))
if loss == "broken" and not os.path.exists("mended"):
    sys.exit("the disk is full")
shutil.copy("predictions.safetensors", home)
results = {"loss": loss, "seed": int(flag("--seed")), "temperature": 1.5, "n_bins": 15,
           "dataset": os.path.abspath("data/sst"), "model_id": os.path.abspath(home)}
json.dump(results, open(home + "/all_results.json", "w"))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with a script that trains nothing, and a way to write the grid that runs it."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    (tmp_path / "scripts" / "run_text.py").write_text(FAKE)
    (tmp_path / "scripts" / "reproduce.py").touch()
    logits = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    parts = {name: Predictions(logits, np.arange(60) % 3) for name in ("validation", "test")}
    save_predictions(tmp_path / "predictions.safetensors", parts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "LAUNCH", (sys.executable,))
    monkeypatch.setattr(runner, "_PAUSE", 0.05)
    monkeypatch.setattr(reproduce, "_write_pages", lambda options: None)
    return tmp_path


def grid(folder, *losses, seeds=(1,), **flags):
    table = {"script": "run_text", "models": ["m"], "losses": list(losses), "seeds": list(seeds), "flags": flags}
    (folder / "configs" / "grid" / "cpu.yaml").write_text(yaml.safe_dump({"t": table}))


def started(folder):
    file = folder / "started.txt"
    return file.read_text().splitlines() if file.exists() else []


def reproduce_main(monkeypatch, *flags):
    """Its exit code."""
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--preset", "cpu", *flags])
    try:
        with pytest.raises(SystemExit) as end:
            reproduce.main()
    finally:
        release_all()
    return end.value.code


def test_finished_cells_are_kept_and_a_second_start_trains_nothing(checkout, monkeypatch, capsys):
    grid(checkout, "a", "b", seeds=(1, 2))
    assert reproduce_main(monkeypatch, "--jobs", "2") == 0
    assert sorted(started(checkout)) == ["a 1 None", "a 2 None", "b 1 None", "b 2 None"]
    assert "4 of 4 cells finished" in capsys.readouterr().out
    assert reproduce_main(monkeypatch) == 0 and len(started(checkout)) == 4
    assert "All 4 cells are finished." in capsys.readouterr().out
    # What is kept is enough: the folders of the runs may go.
    shutil.rmtree(checkout / "outputs")
    assert reproduce_main(monkeypatch) == 0 and len(started(checkout)) == 4


def test_what_is_kept_says_how_it_was_made_and_names_no_folder_of_the_machine(checkout, monkeypatch):
    grid(checkout, "a", dataset_name={"folder": "sst"}, learning_rate=0.1)
    (checkout / "data" / "sst").mkdir(parents=True)
    root, runs = str(checkout / "data"), str(checkout / "runs")
    assert reproduce_main(monkeypatch, "--data_root", root, "--output_dir", runs) == 0
    kept = checkout / "results" / "runs" / "cpu" / "t" / "m-a-seed1"
    facts = json.loads((kept / "cell.json").read_text())
    command = "accelerate launch --num_processes 1 scripts/run_text.py --model_name_or_path m --loss a"
    command += " --learning_rate 0.1 --seed 1 --dataset_name path/to/data/sst --output_dir path/to/runs/t/m-a-seed1"
    assert " ".join(facts["starts"][0]["command"]) == f"{command} --disable_tqdm true"
    assert facts["versions"]["torch"] and facts["starts"][0]["seconds"] > 0 and facts["starts"][0]["code"] == 0
    assert str(checkout) not in (kept / "all_results.json").read_text() + (kept / "cell.json").read_text()


def test_gradients_of_test_samples_are_not_kept(checkout, monkeypatch):
    grid(checkout, "a")
    home = checkout / "outputs" / "grid" / "cpu" / "t" / "m-a-seed1"
    row = {"epoch": 1.0, "step": 3, "loss": "a", "n_samples": 2, **dict.fromkeys(NUMBERS, 0.5)}
    rows = [{**row, "split": split, "gradient_norms": [0.25, 2.0]} for split in ("train", "test")]
    write_rows(home / DYNAMICS, rows)
    assert reproduce_main(monkeypatch) == 0
    kept = read_rows(checkout / "results" / "runs" / "cpu" / "t" / "m-a-seed1" / DYNAMICS)
    assert kept == [rows[0], {**rows[1], "gradient_norms": None}]


def test_a_cell_that_fails_does_not_stop_the_others_and_is_run_again(checkout, monkeypatch, capsys):
    grid(checkout, "broken", "a")
    assert reproduce_main(monkeypatch) == 1
    out = capsys.readouterr().out
    assert "t/m-broken-seed1 FAILED: the disk is full" in out and "1 cells failed: t/m-broken-seed1" in out
    (checkout / "mended").touch()
    assert reproduce_main(monkeypatch) == 0
    assert started(checkout) == ["broken 1 None", "a 1 None", "broken 1 None"]


def test_a_run_with_other_flags_is_not_taken_for_the_cell(checkout, monkeypatch):
    grid(checkout, "a", learning_rate=0.1)
    assert reproduce_main(monkeypatch) == 0
    grid(checkout, "a", learning_rate=0.2)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--preset", "cpu"])
    with pytest.raises(ValueError, match=r"other flags \(learning_rate 0.1, now 0.2\)"):
        reproduce.main()


def test_a_cell_whose_run_outlived_its_grid_is_waited_for(checkout, monkeypatch):
    """Its process is noted, and may not have locked its folder yet."""
    grid(checkout, "a")
    home = checkout / "outputs" / "grid" / "cpu" / "t" / "m-a-seed1"
    home.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        cells = reproduce.read_grid("configs/grid/cpu.yaml")[0].cells
        place = runner.Place(checkout / "outputs" / "grid" / "cpu", checkout / "results" / "runs" / "cpu")
        start = {"process": other.pid, "created": runner.psutil.Process(other.pid).create_time()}
        facts = {"flags": cells[0].flags, "starts": [{**start, "host": runner.platform.node()}]}
        (home / "cell.json").write_text(json.dumps(facts))
        assert runner.take(cells[0], place, 1) is None
    job = runner.take(cells[0], place, 1)  # the process has ended
    assert job is not None
    while not job.ended():
        time.sleep(0.02)
    assert job.code == 0 and started(checkout) == ["a 1 None"]


def test_dry_run_tells_what_is_left_and_how_long_it_takes(checkout, monkeypatch, capsys):
    grid(checkout, "a", "b")
    assert reproduce_main(monkeypatch, "--only", "m-a") == 0
    capsys.readouterr()
    file = checkout / "configs" / "grid" / "cpu.yaml"
    tables = yaml.safe_load(file.read_text())
    tables["t"]["losses"].append("c")
    tables["other"] = {**tables["t"], "measured": {"samples": 640, "step": 0.9, "rest": 60}}
    file.write_text(yaml.safe_dump(tables, sort_keys=False))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--preset", "cpu", "--dry_run", "--only", "*-a-*", "other/"])
    reproduce.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["t/m-a-seed1", "finished"]
    # 20 epochs of 10 steps: 60 + 180 seconds, three times.
    assert lines[2].split() == ["other/m-a-seed1", "to", "be", "run", "4", "min"]
    assert lines[-1] == "4 cells, 3 of them to be run: about 12 min."
    assert len(started(checkout)) == 1
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--preset", "cpu", "--only", "x"])
    with pytest.raises(ValueError, match="--only x: no cell of the grid has a name like this"):
        reproduce.main()


def test_data_that_are_not_there_are_named_before_anything_is_run(checkout, monkeypatch):
    grid(checkout, "a", dataset_name={"folder": "sst"})
    for flags, missing in ((["--data_root", "data"], str(checkout / "data" / "sst")), ([], "--dataset_name of t")):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", "--preset", "cpu", *flags])
        with pytest.raises(ValueError, match=f"These data are not there: {missing}. Give --data_root"):
            reproduce.main()
    assert started(checkout) == []


# ---- In processes of their own --------------------------------------------------------------------------------------

GRID = "import sys\nfrom hf_focal.cli import reproduce\nfrom hf_focal.reproduction import runner\n"
GRID += "runner.LAUNCH = (sys.executable,)\nreproduce._write_pages = lambda options: None\nreproduce.main()\n"


def start_grid(folder, *flags, code=GRID):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "--preset", "cpu", *flags]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_two_grids_in_one_folder_run_no_cell_twice(checkout):
    losses = [f"loss{index}" for index in range(6)]
    grid(checkout, *losses, pause=0.3)
    grids = [start_grid(checkout, "--jobs", "2") for _ in range(2)]
    told = [one.communicate(timeout=300)[0] for one in grids]
    assert [one.returncode for one in grids] == [0, 0]
    assert sorted(started(checkout)) == [f"{loss} 1 None" for loss in losses]
    assert sum(text.count("begins") for text in told) == 6


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_a_grid_that_is_killed_goes_on_with_its_cell_from_the_checkpoint(checkout, whole):
    """Whether its run is killed with it, or goes on alone and is waited for."""
    grid(checkout, "a", "slow", "b")
    first = start_grid(checkout)
    home = checkout / "outputs" / "grid" / "cpu" / "t" / "m-slow-seed1"
    wait_for(lambda: (home / "checkpoint-1" / "trainer_state.json").is_file())
    first.kill()
    first.communicate()
    run = json.loads((home / "cell.json").read_text())["starts"][0]["process"]
    second = None
    if not whole:
        second = start_grid(checkout)
        wait_for(lambda: "b 1 None" in started(checkout))  # goes on with others meanwhile
        assert second.poll() is None
    os.kill(run, signal.SIGKILL)
    second = second or start_grid(checkout)
    told, _ = second.communicate(timeout=300)
    assert second.returncode == 0 and "t/m-slow-seed1 goes on from its checkpoint." in told
    assert sorted(started(checkout)) == ["a 1 None", "b 1 None", "slow 1 None", "slow 1 last"]


@pytest.mark.slow
def test_an_interruption_ends_the_runs_and_says_how_to_go_on(checkout):
    grid(checkout, "slow")
    code = "from hf_focal.cli.script import run_script\n" + GRID.replace(
        "reproduce.main()", "run_script(reproduce.main)"
    )
    one = subprocess.Popen(
        [sys.executable, "-c", code, "--preset", "cpu"], cwd=checkout, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    home = checkout / "outputs" / "grid" / "cpu" / "t" / "m-slow-seed1"
    wait_for(lambda: (home / "checkpoint-1" / "trainer_state.json").is_file())
    one.send_signal(signal.SIGTERM)
    _, said = one.communicate(timeout=60)
    assert one.returncode == 130 and "The same command goes on where this one stopped." in said
    (start,) = json.loads((home / "cell.json").read_text())["starts"]
    assert start["code"] != 0 and not runner.psutil.pid_exists(start["process"])


@pytest.mark.slow
def test_a_real_grid_killed_in_a_cell_trains_no_epoch_twice(tmp_path):
    """Two digits' cells by run_image.py, each in `accelerate launch`; all processes of the grid are killed at once."""
    flags = {"dataset_name": "digits", "train_from_scratch": True, "max_train_samples": 200, "num_train_epochs": 6}
    table = {"script": "run_image", "models": ["cifar_resnet8"], "losses": ["cross_entropy", "flsd-53"], "seeds": [1]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"digits": {**table, "flags": flags}}))
    command = [sys.executable, "scripts/reproduce.py", "--grid", str(tmp_path / "mine.yaml")]
    command += ["--output_dir", str(tmp_path / "runs"), "--results_dir", str(tmp_path / "results")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    first = subprocess.Popen(command, cwd=ROOT, env=environment)
    home = tmp_path / "runs" / "digits" / "cifar_resnet8-flsd-53-seed1"
    wait_for(lambda: len(list(home.glob("checkpoint-*/trainer_state.json"))) == 1, 400)
    children = runner.psutil.Process(first.pid).children(recursive=True)
    for process in (first, *children):
        process.kill()
    first.wait()
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "flsd-53-seed1 goes on from its checkpoint." in result.stdout and "cross_entropy" not in result.stdout
    starts = json.loads((home / "cell.json").read_text())["starts"]
    assert len(starts) == 2 and starts[1]["command"][-2:] == ["--resume_from_checkpoint", "last"]
    epochs = [line for line in (home / "cell.log").read_text().splitlines() if line.startswith("{'loss'")]
    assert 6 <= len(epochs) <= 7  # the epoch that was under way may come twice
    for name in ("table1.md", "table1.csv", "table2.md", "table3.md", "README.md"):
        assert (tmp_path / "results" / name).is_file()
    assert "`mine/digits`" in (tmp_path / "results" / "table1.md").read_text()


@pytest.mark.slow
def test_the_preset_smoke_runs_offline_and_writes_all_pages(tmp_path):
    command = [sys.executable, "scripts/reproduce.py", "--preset", "smoke", "--output_dir", str(tmp_path / "runs")]
    command += ["--results_dir", str(tmp_path / "results")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    for finished in ("3 of 3 cells finished", "All 3 cells are finished."):
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0 and finished in result.stdout, result.stdout + result.stderr
    pages = {path.name for path in (tmp_path / "results").iterdir()}
    assert {f"table{index}.{end}" for index in (1, 2, 3) for end in ("md", "csv")} | {"README.md"} <= pages
    pictures = tmp_path / "results" / "figures" / "smoke-digits-cifar_resnet8"
    assert {path.stem for path in pictures.iterdir()} == {f"figure{name}" for name in ("1", "2", "3", "4", "5", "A1")}
