# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Images: reading JPEG files of 500 by 375 pixels for networks of 224, and training on small ones.

Reading (`--part reading`): what a data loader gives, cropped, flipped and normalised, as it was done before (a batch
is decoded, copied and processed, and then cropped as floats) and as it is done now, beside two loops of torchvision:
over Pillow's images (`torchvision.transforms.v2`), and the same transforms by `Dataset.with_transform`. Time is that
of the processor, so that other work on the machine changes little; all take turns.

Training (`--part training`): `CalibrationTrainer`, loading, cropping and flipping included, beside a bare loop of
PyTorch. The bare loop has its batches ready in memory, so it is what no loader can beat. Both train the same network
from the same weights with FLSD-53, SGD with momentum and the gradient clipped. They take turns, step by step, so that
whatever else the machine does slows both.

    python benchmarks/images.py --part reading --output benchmarks/results/images-reading.md
    python benchmarks/images.py --dataset_name path/to/cifar10 --output benchmarks/results/images.md
"""

import argparse
import copy
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import PrinterCallback, TrainerCallback, ViTImageProcessor, default_data_collator

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


def photos(count: int) -> Dataset:
    """JPEG files of 500 by 375 pixels, of the two photos that ship with scikit-learn."""
    sources, cells = [PILImage.fromarray(image) for image in load_sample_images().images], []
    for index in range(count):
        corner, file = index * 3 % 70, io.BytesIO()
        cut = sources[index % 2].crop((corner, corner, corner + 500, corner + 350))
        cut.resize((500, 375), PILImage.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        cells.append({"bytes": file.getvalue(), "path": None})
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": cells, "label": [0, 1] * (count // 2)}, features=features)


class Before(torch.utils.data.Dataset):
    """A batch is decoded, copied twice, processed, and cropped and flipped as floats."""

    def __init__(self, data, processor):
        self.data, self.processor = data, processor
        self.transform = hf_focal.ImageTransform(processor, "crop-flip")

    def __len__(self):
        return len(self.data)

    def __getitems__(self, indices):
        batch = self.data[indices]
        images = [image.copy().copy() for image in batch["image"]]
        pixels = self.processor(images, return_tensors="pt")["pixel_values"] - self.transform.offset
        pixels = self.transform.augment(pixels, np.random.default_rng(indices)) + self.transform.offset
        return [{"pixel_values": one, "labels": label} for one, label in zip(pixels, batch["label"], strict=True)]


class Loop(torch.utils.data.Dataset):
    """Pillow, and transforms of torchvision."""

    def __init__(self, files, transform):
        self.files, self.transform = files, transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = PILImage.open(io.BytesIO(self.files[index])).convert("RGB")
        return {"pixel_values": self.transform(image), "labels": index % 2}


def torchvision_transform(size, interpolation):
    """As the processors resize and normalise, on tensors, with the same augmentation."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return v2.Compose(
        [v2.PILToTensor(), v2.Resize(size, interpolation), v2.CenterCrop(224), v2.RandomCrop(224, padding=28)]
        + [v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    )


def reading(count: int, rounds: int) -> list[str]:
    """Rows of the table of what reading costs."""
    torch.set_num_threads(1)
    data, mode = photos(count), torchvision.transforms.InterpolationMode
    files = [cell["bytes"] for cell in data.cast_column("image", Image(decode=False))["image"]]
    timm = hf_focal.create_image_classifier("resnet50", ["a", "b"], from_scratch=True)[1]
    vit = ViTImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    cases = {"timm, bicubic by Pillow": (timm, 224, mode.BICUBIC)}
    cases["ViT of transformers, bilinear by torchvision"] = (vit, (224, 224), mode.BILINEAR)
    rows = []
    for name, (processor, size, how) in cases.items():
        transform = torchvision_transform(size, how)

        def of_batch(batch, transform=transform):
            pixels = [transform(image.convert("RGB")) for image in batch["image"]]
            return {"pixel_values": pixels, "labels": batch["label"]}

        made = lambda processor=processor, **options: hf_focal.create_image_inputs(  # noqa: E731
            {"train": data}, processor, "crop-flip", **options
        )["train"]
        arms = {"before": Before(data, processor), "loop": Loop(files, transform)}
        arms |= {"with_transform": data.with_transform(of_batch), "now": made(memory=0)}
        arms |= {"fast": made(memory=0, fast=True), "kept": made()}
        seconds = {arm: [] for arm in arms}
        for _ in range(rounds):
            for arm, inputs in arms.items():
                start = time.process_time()
                for _ in DataLoader(inputs, 64, collate_fn=default_data_collator):
                    pass
                seconds[arm].append(time.process_time() - start)
        speed = {arm: count / min(times) for arm, times in seconds.items()}
        faster = max(speed["loop"], speed["with_transform"])
        shares = [f"{speed[arm]:.0f} ({speed[arm] / faster:.2f})" for arm in ("now", "fast", "kept")]
        two = workers(arms["now"], rounds)
        before = [f"{speed[arm]:.0f}" for arm in ("before", "loop", "with_transform")]
        rows.append(f"| {name} | {' | '.join([*before, *shares])} | {two:.2f} |")
        print(rows[-1], flush=True)
    return rows


def workers(inputs, rounds: int) -> float:
    """How many times faster two worker processes read than one, by the clock; the best of pairs that take turns."""
    quotients = []
    for _ in range(rounds):
        times = []
        for number in (1, 2):
            batches = iter(DataLoader(inputs, 16, collate_fn=default_data_collator, num_workers=number))
            next(batches)  # they have started
            start = time.perf_counter()
            rest = sum(len(batch["labels"]) for batch in batches)
            times.append((time.perf_counter() - start) / rest)
        quotients.append(times[0] / times[1])
    return statistics.median(quotients)


def versions() -> str:
    settings = ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"transformers {transformers.__version__}, hf_focal {hf_focal.__version__}; {platform.machine()}, "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; {settings}."
    )


def write_reading(arguments) -> None:
    text = [
        "# Reading images on a CPU",
        "",
        versions(),
        "",
        f"Command: `python {' '.join(sys.argv)}`.",
        "",
        f"Images per second of one core, the best of {arguments.rounds} rounds over {arguments.images} JPEG files of "
        "500 by 375 pixels that take turns, in batches of 64, made 224 by 224, cropped and flipped; in brackets the "
        "share of the faster of both loops of torchvision. Aimed at: 1.0. These resize tensors: some pixels of the "
        "first row are a level away from what a pipeline sees; ours are the processor's own, except with "
        "`fast=True`. The last column: how many times faster two workers are than one, by the clock. Aimed at: 1.9.",
        "",
        "| processor | before | torchvision | with_transform | decoded anew | fast=True | kept | workers |",
        "|---" * 8 + "|",
    ]
    print("\n".join(text), flush=True)
    text += reading(arguments.images, arguments.rounds)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default=DIGITS, help="images; of CIFAR-10 for the table in results/")
    parser.add_argument("--networks", nargs="+", default=["cifar_resnet20", "cifar_resnet8"], help="timm names")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="steps of each, after the warm-up")
    parser.add_argument("--part", choices=["reading", "training"], default="training")
    parser.add_argument("--images", type=int, default=256, help="files to read")
    parser.add_argument("--rounds", type=int, default=5, help="times that each way reads them")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to")
    arguments = parser.parse_args()
    if arguments.part == "reading":
        write_reading(arguments)
        return
    text = [
        "# Training on images on a CPU, float32",
        "",
        versions(),
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
