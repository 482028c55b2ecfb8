# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Memory and time of calibrating and reporting, against the number of samples; each figure is of a process of its own.

    python benchmarks/fits.py --sizes 12500 50000 200000 --before path/to/an/earlier/checkout
    python benchmarks/fits.py --sizes 1000000 --only calibrate card
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


WORK = {
    "nll": "fit of a temperature by the NLL",
    "ece": "fit of a temperature by the ECE",
    "vector": "fit of `vector`",
    "calibrate": "`trainer.calibrate`",
    "card": "`trainer.calibrate`, report and card",
    "evaluate": "`trainer.evaluate`",
    "best": "`KeepBestCallback.compare`, one model kept",
    "load": "`load_predictions`, and the NLL",
    "compare": "`compare_runs` of two runs",
}


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def logits_of(count: int, classes: int) -> tuple[Any, Any]:
    """Logits that want to be divided by 2, in memory."""
    generator = np.random.default_rng(0)
    logits, labels = np.empty((count, classes), np.float32), np.empty(count, np.int64)
    for start in range(0, count, 500):  # the peak is to be that of the fit
        rows = logits[start : start + 500]
        rows[:] = generator.normal(0, 2, rows.shape)
        labels[start : start + 500] = (rows / 2 + generator.gumbel(size=rows.shape)).argmax(axis=1)
    return logits, labels


def fit(method: str, criterion: str, count: int, classes: int) -> Callable[[], Any]:
    """To fit logits that are in memory."""
    from hf_focal import fit_calibrator

    logits, labels = logits_of(count, classes)
    fit_calibrator(logits[:500, :10], labels[:500] % 10, method, criterion)  # what is imported on the way
    return lambda: fit_calibrator(logits, labels, method, criterion).temperature


def trainer_of(count: int, classes: int) -> Any:
    """A trainer of a model that gives the logits batch by batch, with data to evaluate on."""
    import torch
    import transformers
    from transformers.modeling_outputs import SequenceClassifierOutput

    import hf_focal

    class Linear(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.classifier = torch.nn.Linear(16, config.num_labels)
            self.post_init()

        def forward(self, values: Any = None, labels: Any = None) -> SequenceClassifierOutput:
            return SequenceClassifierOutput(logits=self.classifier(values))

    class Data(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, row: int) -> dict[str, Any]:
            return {"values": values[row], "labels": int(labels[row])}

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, values = Linear(transformers.PretrainedConfig(num_labels=classes)), torch.randn(count, 16)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    labels = torch.empty(count, dtype=torch.long)
    with torch.no_grad():
        for start in range(0, count, 250):
            part = model(values[start : start + 250]).logits.div(2).softmax(-1)
            labels[start : start + 250] = torch.multinomial(part, 1)[:, 0]
    options: Any = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "per_device_eval_batch_size": 250}
    args = hf_focal.CalibrationTrainingArguments(tempfile.mkdtemp(), **options)
    return hf_focal.CalibrationTrainer(model=model, args=args, eval_dataset=Data())


def calibrate(count: int, classes: int, card: bool) -> Callable[[], Any]:
    """To calibrate a model and write its card."""
    trainer = trainer_of(count, classes)

    def work() -> float:
        found = trainer.calibrate(fold=False)
        if card:
            trainer.create_model_card()
        return found.temperature

    return work


def evaluate(count: int, classes: int) -> Callable[[], Any]:
    """To evaluate a model, which has no temperature."""
    trainer = trainer_of(count, classes)
    trainer.evaluate([trainer.eval_dataset[row] for row in range(500)])  # what is imported on the way
    return lambda: trainer.evaluate()["eval_nll"]


def best(count: int, classes: int) -> Callable[[], Any]:
    """To compare the last model with one that was kept; the temperature is that of the last."""
    import hf_focal

    trainer = trainer_of(count, classes)
    keeper = hf_focal.KeepBestCallback(trainer, ["nll"])
    keeper.best = {"nll": {"value": 1.0, "epoch": 1.0, "step": 1}}
    trainer.save_model(str(keeper.folder("nll")))
    trainer.evaluate([trainer.eval_dataset[row] for row in range(500)])
    return lambda: keeper.compare(trainer.eval_dataset, trainer.eval_dataset)["last"]["temperature"]


def saved(count: int, classes: int) -> Path:
    """Predictions of validation and test data in a file, written in a process of its own."""
    place = Path(tempfile.mkdtemp(), "run", "predictions.safetensors")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from fits import logits_of
from hf_focal import Predictions, save_predictions
place = Path({str(place)!r})
place.parent.mkdir()
part = Predictions(*logits_of({count}, {classes}))
save_predictions(place, {{"validation": part, "test": part}})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    return place


def load(count: int, classes: int) -> Callable[[], Any]:
    """To load predictions, and measure those of the test data."""
    from hf_focal import load_predictions
    from hf_focal.metrics import Scored

    place = saved(count, classes)

    def work() -> float:
        test = load_predictions(place)[0]["test"]
        return float(Scored.from_logits(test.logits, test.labels).nll.mean())

    return work


def compare(count: int, classes: int) -> Callable[[], Any]:
    """To compare two runs that kept their predictions, and have different temperatures."""
    import shutil

    from hf_focal import METRICS, compare_runs

    first = saved(count, classes).parent
    folders = [first, shutil.copytree(first, first.parent / "other")]
    for folder, temperature in zip(folders, (2.0, 2.2), strict=True):
        numbers = {f"test_{moment}_{key}": 0.5 for moment in ("before", "after") for key in METRICS}
        results = {**numbers, "temperature": temperature, "dataset": "noise", "loss": folder.name}
        (folder / "all_results.json").write_text(json.dumps(results))
        record = {"temperature": temperature, "folded": True, "method": "temperature"}
        (folder / "config.json").write_text(json.dumps({"calibration": record}))

    def work() -> float:
        compare_runs(folders)
        shutil.rmtree(first.parent)
        return math.nan

    return work


def measured(what: str, count: int, classes: int) -> dict[str, float]:
    """One figure, of this process."""
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "nll": lambda: fit("temperature", "nll", count, classes),
        "ece": lambda: fit("temperature", "ece", count, classes),
        "vector": lambda: fit("vector", "nll", count, classes),
        "calibrate": lambda: calibrate(count, classes, card=False),
        "card": lambda: calibrate(count, classes, card=True),
        "evaluate": lambda: evaluate(count, classes),
        "best": lambda: best(count, classes),
        "load": lambda: load(count, classes),
        "compare": lambda: compare(count, classes),
    }
    work = makers[what]()
    before, start = megabytes(), time.process_time()
    temperature = work()
    seconds = time.process_time() - start
    return {"temperature": temperature, "seconds": seconds, "before": before, "peak": megabytes()}


def in_process(what: str, count: int, classes: int, root: str) -> dict[str, float]:
    """The same of a fresh process, of the checkout in a folder."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", what, str(count), str(classes)]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": root}
    found = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(found.stderr)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[12_500, 50_000, 200_000])
    parser.add_argument("--num_labels", type=int, default=1_000)
    parser.add_argument("--only", nargs="+", choices=list(WORK), default=["nll", "ece", "calibrate", "card"])
    parser.add_argument("--before", help="A checkout of an earlier version, to be measured beside this one.")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, count, classes = args.child
        print(json.dumps(measured(what, int(count), int(classes))))
        return
    roots = {**({"before": args.before} if args.before else {}), "after": str(Path(__file__).resolve().parent.parent)}
    given = " ".join(word for word in sys.argv[1:] if word != args.before).replace("--before", "--before EARLIER")
    print(
        f"`python benchmarks/fits.py {given}`: Python {platform.python_version()}, numpy {np.__version__}; one thread."
    )
    print("\n| what | samples | logits, MB | version | peak above what was held, MB | CPU s | temperature, or NLL |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for what in args.only:
        for count in args.sizes:
            for version, root in roots.items():
                one = in_process(what, count, args.num_labels, root)
                size, rise = count * args.num_labels * 4 / 2**20, one["peak"] - one["before"]
                print(f"| {WORK[what]} | {count:,} | {size:,.0f} | {version} | {rise:,.0f} ", end="")
                value = "" if math.isnan(one["temperature"]) else f"{one['temperature']:.13g}"
                print(f"| {one['seconds']:.1f} | {value} |", flush=True)


if __name__ == "__main__":
    main()
