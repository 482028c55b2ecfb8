# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Training on images: `CalibrationTrainer`, loading, cropping and flipping included, beside a bare loop of PyTorch.

The bare loop has its batches ready in memory, so it is what no loader can beat. Both train the same network from the
same weights with FLSD-53, SGD with momentum and the gradient clipped. They take turns, step by step, so that whatever
else the machine does slows both.

    python benchmarks/images.py --dataset_name path/to/cifar10 --output benchmarks/results/images.md
"""

import argparse
import copy
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import PrinterCallback, TrainerCallback, default_data_collator

import hf_focal
from hf_focal.tasks.embedded import DIGITS


LEARNING_RATE, CLIP, WARM_UP = 0.01, 2.0, 3
TARGET = 0.95


class BareLoop(TrainerCallback):
    """A step of plain PyTorch after each step of the trainer. Keeps the seconds of both."""

    def __init__(self, model, batches):
        self.model, self.batches = model.train(), batches
        self.loss = hf_focal.create_loss("flsd-53")
        self.optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
        self.bare, self.trainer = [], []
        self.left = None

    def on_step_end(self, args, state, control, **kwargs):
        start = time.perf_counter()
        batch = self.batches[state.global_step - 1]
        loss = self.loss(self.model(pixel_values=batch["pixel_values"]), batch["labels"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = time.perf_counter()
        if state.global_step > WARM_UP:
            self.trainer.append(start - self.left)
            self.bare.append(end - start)
        self.left = end


def measure(model, images, batches) -> tuple[float, float, float]:
    """Medians of the seconds of a bare step, of one of the trainer, and of the quotient of the two."""
    with tempfile.TemporaryDirectory() as folder:
        args = hf_focal.CalibrationTrainingArguments(
            folder, loss="flsd-53", per_device_train_batch_size=len(batches[0]["labels"]), num_train_epochs=1,
            optim="sgd", optim_args="momentum=0.9", learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
            max_grad_norm=CLIP, use_cpu=True, report_to="none", disable_tqdm=True, logging_strategy="no",
            dataloader_pin_memory=False, save_strategy="no",
        )  # fmt: skip
        loop = BareLoop(copy.deepcopy(model), batches)
        trainer = hf_focal.CalibrationTrainer(model=model, args=args, train_dataset=images, callbacks=[loop])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    quotients = [bare / ours for bare, ours in zip(loop.bare, loop.trainer, strict=True)]
    return statistics.median(loop.bare), statistics.median(loop.trainer), statistics.median(quotients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default=DIGITS, help="images; of CIFAR-10 for the table in results/")
    parser.add_argument("--networks", nargs="+", default=["cifar_resnet20", "cifar_resnet8"], help="timm names")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="steps of each, after the warm-up")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to")
    arguments = parser.parse_args()
    settings = ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    text = [
        "# Training on images on a CPU, float32",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"hf_focal {hf_focal.__version__}; {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"threads; {settings}.",
        "",
        f"Command: `python {' '.join(sys.argv)}`.",
        "",
        f"Images per second in steps of {arguments.batch_size}, medians of {arguments.steps} steps taken in turns; "
        f"the share is the median over pairs. Aimed at: {TARGET}.",
        "",
        "| network | memory format | bare loop | CalibrationTrainer | share | |",
        "|---" * 6 + "|",
    ]
    print("\n".join(text), flush=True)
    dataset = hf_focal.load_image_dataset(arguments.dataset_name)
    count = (arguments.steps + WARM_UP) * arguments.batch_size
    labels = dataset["train"].features["label"].names
    for network in arguments.networks:
        torch.manual_seed(0)
        model, processor = hf_focal.create_image_classifier(network, labels, from_scratch=True)
        rows = [index % len(dataset["train"]) for index in range(count)]
        train = {"train": dataset["train"].select(rows)}
        images = hf_focal.create_image_inputs(train, processor, "crop-flip")["train"]
        parts = torch.arange(count).split(arguments.batch_size)
        batches = [default_data_collator(images.__getitems__(part.tolist())) for part in parts]
        for layout in (torch.contiguous_format, torch.channels_last):
            start = copy.deepcopy(model).to(memory_format=layout)
            bare, ours, share = measure(start, images, batches)
            speeds = [f"{arguments.batch_size / seconds:.0f}" for seconds in (bare, ours)]
            verdict = "reached" if share >= TARGET else "missed"
            name = str(layout).removeprefix("torch.")
            row = f"| {network} | {name} | {' | '.join(speeds)} | {share:.3f} | {verdict} |"
            print(row, flush=True)
            text.append(row)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
