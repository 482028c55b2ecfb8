# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Kills scripts 40 times, half of them at a random moment and half at a random change of a folder (half of these among
its last 40), over training, finishing, calibrating and overwriting; looks at what each kill leaves, and prints the
tally. Its argument is a folder to work in. The scripts are children of this process, so that what they import is
imported once.
"""

import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import timm  # noqa: F401
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import hf_focal.cli.run
from hf_focal.results.folder import last_complete_checkpoint
from hf_focal.results.replace import mend_folder


SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
FLAGS = (
    "--model_name_or_path cifar_resnet8 --train_from_scratch --image_size 16 --use_cpu true --max_train_samples 64 "
)
FLAGS += "--per_device_train_batch_size 16 --num_train_epochs 3 --save_strategy steps --save_steps 3 "
FLAGS += "--save_total_limit 2 --max_eval_samples 240 --disable_tqdm true"
LEFT = {"config.json", "model.safetensors", "all_results.json", "README.md", "predictions.safetensors"}
LEFT |= {"reliability.png"}
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
tally, draw = Counter(), random.Random(0)


def start(script, flags, report, at_change=None):
    """The process of a script, killed just before its change of that number; else it tells how many it made."""
    if child := os.fork():
        return child
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    made = 0

    def count(event, args):
        nonlocal made
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            made += 1
            if made == at_change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    sys.argv = [script, *flags.split()]
    try:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    except BaseException as error:
        report.write_text(repr(error))
        os._exit(1)
    report.write_text(str(made))
    os._exit(0)


def run(script, flags, report):
    """Let it end; how many changes it made, and its seconds."""
    begun = time.monotonic()
    _, status = os.waitpid(start(script, flags, report), 0)
    assert status == 0, report.read_text()
    return int(report.read_text()), time.monotonic() - begun


def kill(script, flags, report, whole):
    """Kill it at random; whether it lived to see that."""
    changes, seconds = whole
    if draw.random() < 0.5:
        last = draw.random() < 0.5  # of them, when results are put in place
        child = start(script, flags, report, at_change=draw.randint(max(1, changes - 40) if last else 1, changes))
    else:
        child = start(script, flags, report)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)  # a child that has ended is still there to be waited for
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), report.read_text()
    return status != 0


def state(folder, known):
    """Which run the folder passes for, and its record; `None` where stock loaders find no config."""
    finished = (folder / "all_results.json").is_file()
    if not (folder / "config.json").is_file():
        assert not finished
        return None
    record = json.loads((folder / "config.json").read_text())["calibration"]
    weights = load_file(folder / "model.safetensors")
    heads = [name for name in weights if name.split(".")[-2] in ("fc", "classifier", "head")]
    body = [name for name in weights if name not in heads]
    (of,) = [one for one, other in known.items() if all(torch.equal(weights[name], other[name]) for name in body)]
    assert len(heads) == 2
    for name in heads:
        scale = record["temperature"] if record["folded"] else 1.0
        torch.testing.assert_close(weights[name] * scale, known[of][name], rtol=1e-4, atol=1e-6)
    if finished:
        assert {path.name for path in folder.iterdir()} >= LEFT
        results = json.loads((folder / "all_results.json").read_text())
        assert results["temperature"] == record["temperature"]
        assert results["temperature_criterion"] == record["criterion"]
        with safe_open(folder / "predictions.safetensors", "pt") as stored:
            assert float(stored.metadata()["temperature"]) == record["temperature"]
        told = {one.metric_type: one.metric_value for one in ModelCard.load(folder / "README.md").data.eval_results}
        assert told["nll"] == results["test_after_nll"]
        with Image.open(folder / "reliability.png") as picture:
            picture.load()
    return of, record["criterion"], record["folded"], finished


def look(phase, folder, known, allowed):
    """Check what a kill left, before it is mended and after, and count it."""
    first = state(folder, known)
    mend_folder(folder)
    then = state(folder, known)
    assert then in allowed, (phase, first, then)
    unmarked = [(*one[:3], False) for one in allowed if one]  # a whole model, whose mark goes first and comes last
    assert first in (None, then, allowed[0], *unmarked), (phase, first, then)
    moment = "as it was" if first == then == allowed[0] else "wholly new" if first == then else "mended by loading it"
    tally[phase, moment] += 1
    return then


def tidy(folder):
    """Nothing but what a run leaves."""
    names = {path.name for path in folder.iterdir()} - {f"checkpoint-{step}" for step in range(100)}
    assert names == LEFT, names ^ LEFT


def predictions(folder):
    return load_file(folder / "predictions.safetensors")


def main(work, kills=10):
    report, known, wholes = work / "report", {}, {}
    for seed in (1, 2):
        wholes[seed] = run("run_image.py", f"{FLAGS} --seed {seed} --output_dir {work / str(seed)}", report)
        known[seed] = load_file(last_complete_checkpoint(work / str(seed)) / "model.safetensors")
        tidy(work / str(seed))
    first, second = (state(work / str(seed), known) for seed in (1, 2))

    def train(phase, folder, seed, allowed):
        """Kill, and go on or start anew, until it was killed often enough; then let it end as one undisturbed."""

        def command(fresh):
            newer = folder / ".unfinished"
            place = newer if newer.is_dir() or allowed[0] else folder  # of the run that is not complete
            resumed = place.is_dir() and last_complete_checkpoint(place) and draw.random() >= fresh
            how = "--resume_from_checkpoint last" if resumed else "--overwrite"
            return f"{FLAGS} --seed {seed} --output_dir {folder} {how}"

        killed = 0
        while killed < kills:
            died = kill("run_image.py", command(fresh=0.2), report, wholes[seed])
            killed += died
            if not folder.is_dir():
                tally[phase, "as it was"] += died
            elif (look(phase, folder, known, allowed) if died else state(folder, known)) == allowed[1]:
                prepare(folder)
        while not folder.is_dir() or state(folder, known) != allowed[1]:
            run("run_image.py", command(fresh=0), report)
        tidy(folder)
        ours, theirs = predictions(folder), predictions(work / str(seed))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def prepare(folder):
        shutil.rmtree(folder, ignore_errors=True)
        if folder.name == "overwriting":
            shutil.copytree(work / "1", folder)

    folder = work / "training"
    train("training", folder, 1, (None, first))
    folder = work / "overwriting"
    prepare(folder)
    train("overwriting", folder, 2, (first, second))

    folder = work / "finishing"
    shutil.copytree(work / "1", folder)
    base = f"{FLAGS} --seed 1 --output_dir {folder} --resume_from_checkpoint last --temperature_guard false"
    ways = {
        (1, "nll", True, True): "--criterion nll",
        (1, "ece", False, True): "--criterion ece --fold_temperature false",
    }
    replaced("finishing", folder, known, "run_image.py", base, ways, report, kills)

    folder = work / "calibrating"
    base = (
        f"--model_name_or_path {last_complete_checkpoint(work / '1')} --dataset_name {work / 'digits'} --use_cpu true "
    )
    base += f"--output_dir {folder} --overwrite --disable_tqdm true --temperature_guard false"
    digits = hf_focal.load_image_dataset("digits")
    digits.save_to_disk(work / "digits")
    replaced("calibrating", folder, known, "calibrate.py", base, ways, report, kills)

    for phase in ("training", "finishing", "calibrating", "overwriting"):
        counts = {moment: tally[phase, moment] for moment in ("as it was", "wholly new", "mended by loading it")}
        assert sum(counts.values()) == kills
        print(f"{phase}: {kills} kills:", ", ".join(f"{count} {moment}" for moment, count in counts.items()))


def replaced(phase, folder, known, script, base, ways, report, kills):
    """Kill what writes results anew, in one way and another by turns."""
    whole = run(script, f"{base} {next(iter(ways.values()))}", report)
    before, killed = state(folder, known), 0
    while killed < kills:
        target = next(way for way in ways if way != before)
        died = kill(script, f"{base} {ways[target]}", report, whole)
        killed += died
        before = look(phase, folder, known, (before, target)) if died else state(folder, known)
    target = next(way for way in ways if way != before)
    run(script, f"{base} {ways[target]}", report)
    assert state(folder, known) == target
    tidy(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
