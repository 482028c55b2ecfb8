# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What one process and several do alike, for test_processes.py: started by `accelerate launch`, or called."""

import json
import os
import sys
import warnings
from pathlib import Path


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    if os.environ.get("ACCELERATE_USE_FSDP"):  # which accelerate leaves aside, without a word, where there is no GPU
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        from accelerate import PartialState
        from accelerate.utils import DistributedType

        PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)

import numpy as np
import torch
from safetensors.torch import save_file
from small_models import arguments, build, data, flat

from hf_focal import LOSSES, CalibrationTrainer
from hf_focal.training import sharing


MMCE = {
    f"{name}-{normalization}": {"loss": name, "loss_kwargs": {"gather": True, "normalization": normalization}}
    for name in ("mmce", "mmce-unweighted")
    for normalization in ("definition", "released")
}
RUNS = {
    **{name: {"loss": name} for name in LOSSES},
    **MMCE,
    "mmce-ragged": {"loss": "mmce", "loss_kwargs": {"gather": True}, "ignored": True},
    "mmce-accumulated": {"loss": "mmce", "loss_kwargs": {"gather": True}, "gradient_accumulation_steps": 2},
    "focal-ragged": {"loss": "focal", "ignored": True},
    "sum": {"loss": "focal", "loss_reduction": "sum", "learning_rate": 1e-3},
    "labels": {"loss": "focal", "several": True},
    "labels-accumulated": {"loss": "brier", "several": True, "gradient_accumulation_steps": 2},
    "labels-mmce": {"loss": "mmce", "loss_kwargs": {"gather": True}, "several": True},
}
COUNTS = (40, 37, 33, 3)  # of samples to evaluate, in batches of 5


def rank():
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def several_labels(samples):
    """The samples with 0 and 1 for each of five labels, one in seven of which is not known, by either mark."""
    for row, sample in enumerate(samples):
        values = [float((row + sample["labels"] * label) % 3 == 0) for label in range(5)]
        unknown = [(5 * row + label) % 7 == 0 for label in range(5)]
        sample["labels"] = [
            (-100.0 if row % 2 else float("nan")) if hidden else value
            for value, hidden in zip(values, unknown, strict=True)
        ]
    return samples


def train(folder, world, ignored=False, several=False, **options):
    """A model in float64 that saw the same batches of 16 samples, whatever the number of processes."""
    batch = 16 // world // options.get("gradient_accumulation_steps", 1)
    more = {"eval_strategy": "epoch"} if LOSSES[options["loss"]]().learns_from_validation else {}
    options = {"num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.1, **more, **options}
    samples = data("bert", 48)
    if ignored:
        for row in samples[::3]:
            row["labels"] = -100
    model = build("bert").double()
    if several:
        samples, model.config.problem_type = several_labels(samples), "multi_label_classification"
    args = arguments(folder, per_device_train_batch_size=batch, per_device_eval_batch_size=5, **options)
    made = CalibrationTrainer(model=model, args=args, train_dataset=samples, eval_dataset=data("bert", 37, seed=1))
    made.train()
    return made


def measure(trainer, count):
    """What evaluation, prediction and calibration give of so many samples."""
    samples = data("bert", count, seed=2)
    with torch.no_grad():
        answers = trainer.model.eval()(torch.stack([row["input_ids"] for row in samples])).logits.argmax(1).tolist()
    for index, (row, answer) in enumerate(zip(samples, answers, strict=True)):  # two of three are right
        row["labels"] = (answer + (index % 3 == 0)) % 5
    metrics = trainer.evaluate(samples)
    output = trainer.predict(samples)
    fit = trainer.calibrate(samples, predictions=output, guard=False, fold=False)
    trainer.forget_temperature("The next one", samples)
    kept = {key: value for key, value in metrics.items() if not key.endswith(("runtime", "per_second", "epoch"))}
    return kept | {"temperature": fit.calibrator.temperature}, torch.from_numpy(np.asarray(output.predictions))


def run(folder, world):
    """Weights after every run, and measurements; the files and pushes of each process are counted."""
    folder = Path(folder)
    written, pushed = watched(folder / "out"), []
    sharing.upload_run = lambda *args, **kwargs: pushed.append(str(args[0]))
    warnings.simplefilter("ignore")  # that so few samples fit little
    weights, measured, predictions = {}, {}, {}
    for name, options in RUNS.items():
        trainer = train(folder / "out", world, **options)
        weights[name] = flat(trainer.model)
        if name == "focal":
            with torch.no_grad():
                trainer.model.classifier.weight.mul_(30)
            for count in COUNTS:
                measured[count], predictions[str(count)] = measure(trainer, count)
            trainer.calibrate(guard=False)
            trainer.hub_model_id = "user/model"
            trainer.save_model()
            trainer.push_to_hub()
    facts = {"measured": measured, "written": sorted(written), "pushed": pushed, "world": world}
    (folder / f"facts-{rank()}.json").write_text(json.dumps(facts))
    if rank() == 0:
        save_file(weights, folder / "weights.safetensors")
        save_file(predictions, folder / "predictions.safetensors")


def watched(folder):
    """The files below a folder that this process writes, moves or removes from now on."""
    found = set()

    def hook(event, args):
        if event == "open" and isinstance(args[1], str) and not set(args[1]) & set("wax+"):
            return
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.copyfile"):
            if isinstance(args[0], str | bytes | os.PathLike) and os.fsdecode(args[0]).startswith(str(folder)):
                found.add(f"{event} {os.fsdecode(args[0])}")

    sys.addaudithook(hook)
    return found


def run_sharded(folder, kind):
    """Calibrated and folded while FSDP2 has the weights in parts; each process says what it found."""
    warnings.simplefilter("ignore")
    folder, samples = Path(folder), data(kind, 203, seed=1)
    args = arguments(folder / "out", loss="focal", max_steps=4, use_cpu=False, per_device_eval_batch_size=20)
    trainer = CalibrationTrainer(model=build(kind), args=args, train_dataset=data(kind, 100), eval_dataset=samples)
    trainer.train()
    before = trainer.predict(samples).predictions
    vector = trainer.calibrate(samples, method="vector", guard=False)
    by_vector = trainer.predict(samples).predictions
    trainer.forget_temperature("The next one", samples)
    undone = trainer.predict(samples).predictions
    fit = trainer.calibrate(samples, guard=False)
    after = trainer.predict(samples).predictions
    trainer.save_model()
    facts = {
        "sharded": type(next(trainer.model.parameters())).__name__,
        "record": trainer.model.config.calibration,
        "temperature": float(np.abs(after - fit.calibrator.calibrated_logits(before)).max()),
        "vector": float(np.abs(by_vector - vector.calibrator.calibrated_logits(before)).max()),
        "undone": float(np.abs(undone - before).max()),
    }
    trainer.calibrate(samples, guard=False, fold=False)
    trainer.save_model(str(folder / "unfolded"))
    (folder / f"sharded-{rank()}.json").write_text(json.dumps(facts))
    if rank() == 0:
        save_file({"after": torch.from_numpy(after)}, folder / "sharded.safetensors")


def run_zero3(folder, kind):
    """Trained, measured, calibrated and saved, with every weight in parts where DeepSpeed was asked for."""
    warnings.simplefilter("ignore")
    folder, samples = Path(folder), data(kind, 37, seed=1)
    options = {"num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.1, "per_device_eval_batch_size": 5}
    args = arguments(folder / "out", loss="focal", **options)
    args.per_device_train_batch_size //= args.world_size
    if args.deepspeed_plugin is not None:  # whose weights of fewer numbers than 100,000 would stay whole
        args.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    trainer = CalibrationTrainer(model=build(kind), args=args, train_dataset=data(kind, 48), eval_dataset=samples)
    trainer.train()
    measured = {key: value for key, value in trainer.evaluate().items() if "second" not in key and "time" not in key}
    predictions = trainer.predict(samples).predictions
    fit = trainer.calibrate(samples, guard=False, fold=None if args.deepspeed_plugin else False)
    trainer.save_model()
    shapes = sorted({tuple(one.shape) for one in trainer.model.parameters()})
    facts = {"measured": measured, "temperature": fit.calibrator.temperature, "shapes": shapes}
    facts |= {"world": args.world_size, "record": trainer.model.config.calibration}
    (folder / f"zero3-{rank()}.json").write_text(json.dumps(facts))
    if rank() == 0:
        save_file({"logits": torch.from_numpy(np.asarray(predictions))}, folder / "zero3.safetensors")


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        run_zero3(*sys.argv[1:])
    elif os.environ.get("ACCELERATE_USE_FSDP"):
        run_sharded(*sys.argv[1:])
    else:
        run(sys.argv[1], world=int(os.environ["WORLD_SIZE"]))
