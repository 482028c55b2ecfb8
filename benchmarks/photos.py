# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Large and many images: the memory that photos of 12 megapixels take (`--part photos`), and how long it is from a data
set to the end of the first training step (`--part start`). Each figure is of a process of its own.

    python benchmarks/photos.py --part photos --before EARLIER --output benchmarks/results/images-photos.md
    python benchmarks/photos.py --part start --before EARLIER --dataset_name path/to/tiny_imagenet_64 \
        --output benchmarks/results/images-start.md

EARLIER is a checkout of an earlier version, to be measured beside this one. Files are made once, and linked.
"""

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from transformers import (
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    default_data_collator,
)

import hf_focal


SIZES = {"photos": (4000, 3000), "large": (1280, 960), "middle": (500, 375)}
KINDS = 8  # different images of a size; the other files are links to them
AIM = 600  # MB for 512 photos


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def files(folder: Path, kind: str, count: int) -> list[str]:
    """JPEG files of a size: parts of the two photos that ship with scikit-learn, enlarged, with noise."""
    place, size = folder / kind, SIZES[kind]
    place.mkdir(exist_ok=True)
    sources, generator = [PILImage.fromarray(image) for image in load_sample_images().images], np.random.default_rng(0)
    for index in range(count):
        file = place / f"{index:05d}.jpg"
        if file.exists():
            continue
        if index >= KINDS:
            os.link(place / f"{index % KINDS:05d}.jpg", file)
            continue
        corner, stream = index * 9, io.BytesIO()
        pixels = np.asarray(
            sources[index % 2].crop((corner, corner, corner + 480, corner + 360)).resize(size), np.int16
        )
        noisy = pixels + generator.integers(-6, 7, pixels.shape, np.int16)
        PILImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        file.write_bytes(stream.getvalue())
    return [str(place / f"{index:05d}.jpg") for index in range(count)]


def images(folder: Path, kind: str, count: int) -> Dataset:
    """A data set of such files, or of the first rows of one that is given by its path."""
    if kind not in SIZES:
        return hf_focal.load_image_dataset(kind)["train"].select(range(count))
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": files(folder, kind, count), "label": [0, 1] * (count // 2)}, features=features)


def memory(folder: Path, kind: str, count: int, options: dict) -> dict[str, float]:
    """Make inputs of images and read them once in batches of 64."""
    data, processor = images(folder, kind, count), ViTImageProcessor()
    held, start = megabytes(), time.process_time()
    inputs = hf_focal.create_image_inputs({"train": data}, processor, "crop-flip", **options)["train"]
    for _ in DataLoader(inputs, 64, collate_fn=default_data_collator):
        pass
    return {"held": held, "peak": megabytes(), "cpu": time.process_time() - start}


class Clock(TrainerCallback):
    """Ends a training with its first step."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


def train(data: Dataset, options: dict) -> None:
    """Make inputs and train a small network for one step of 16 images."""
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    names = data.features["label"].names
    model = ViTForImageClassification(ViTConfig(patch_size=32, num_labels=len(names), **config))
    args = hf_focal.CalibrationTrainingArguments(
        tempfile.mkdtemp(), loss="flsd-53", per_device_train_batch_size=16, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    inputs = hf_focal.create_image_inputs({"train": data}, ViTImageProcessor(), "crop-flip", **options)["train"]
    trainer = hf_focal.CalibrationTrainer(model=model, args=args, train_dataset=inputs, callbacks=[Clock()])
    trainer.train()


def start(folder: Path, kind: str, count: int, options: dict) -> dict[str, float]:
    """From a data set that is there to the end of the first step; the kinds and their numbers are in the options."""
    train(images(folder, "middle", 16), {})  # what is imported on the way
    found: dict[str, float] = {}
    for name, (kind, count, arms) in options.items():
        data = images(folder, kind, count)
        for arm, given in arms.items():
            cpu, clock = time.process_time(), time.perf_counter()
            train(data, given)
            found[f"{name} {arm}"] = time.process_time() - cpu
            found[f"{name} {arm}, by the clock"] = time.perf_counter() - clock
    return found


def make(folder: Path, kind: str, count: int, options: dict) -> None:
    """The files alone, in a process of its own: others would inherit the most memory that this one has had."""
    files(folder, kind, count)


PARTS = {"photos": memory, "start": start, "files": make}


def in_process(part: str, folder: str, kind: str, count: int, options: dict, root: str) -> dict[str, float]:
    """A figure of a fresh process, of the checkout in a folder."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", part, "--child"]
    command += [folder, kind, str(count), json.dumps(options)]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "HF_HOME": f"{folder}/home", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(found.stderr)
    return json.loads(found.stdout.splitlines()[-1])


def told(options: dict) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in options.items()) or "by default"


def photos_table(folder: str, roots: dict[str, str], arguments: argparse.Namespace) -> list[str]:
    few, many = arguments.photos
    in_process("files", folder, "photos", max(few, many), {}, roots["now"])
    rows = [("before", few, {}), ("now", few, {}), ("now", few, {"check_images": "all"})]
    rows += [("now", many, {}), ("now", many, {"check_images": "all"}), ("now", many, {"memory": 0})]
    lines = [
        "Photos of 4000 by 3000 pixels, made 224 by 224, cropped and flipped: inputs are made and read once, in "
        "batches of 64. The peak is above what the process held before (Python, torch, transformers). Aimed at: 512 "
        f"photos within {AIM} MB.",
        "",
        "| version | photos | images looked at | peak above what was held, MB | held before, MB | CPU s a photo | |",
        "|---" * 7 + "|",
    ]
    print("\n".join(lines), flush=True)
    for version, count, options in rows:
        if version not in roots:
            continue
        found = in_process("photos", folder, "photos", count, options, roots[version])
        rise = found["peak"] - found["held"]
        verdict = ("reached" if rise <= AIM else "missed") if count == many else ""
        numbers = f"{rise:,.0f} | {found['held']:,.0f} | {found['cpu'] / count:.3f}"
        lines.append(f"| {version} | {count} | {told(options)} | {numbers} | {verdict} |")
        print(lines[-1], flush=True)
    return lines


def start_table(folder: str, roots: dict[str, str], arguments: argparse.Namespace) -> list[str]:
    data = {"200 files of 1280 by 960": ("large", 200), "6,000 files of 500 by 375": ("middle", 6000)}
    if arguments.dataset_name:
        data = {f"4,000 images of `{Path(arguments.dataset_name).name}`": (arguments.dataset_name, 4000), **data}
    for kind, count in [*data.values(), ("photos", 512)]:
        if kind in SIZES:
            in_process("files", folder, kind, count, {}, roots["now"])
    lines = [
        "Seconds of the processor (all threads) from a data set to the end of the first training step of 16 images; "
        "in brackets those of the clock, which other work on the machine lengthens. Before, all images are decoded "
        "first; now all of small data, and a sample of large. Once more: what was found is remembered. Each version "
        "is one process.",
        "",
        "| images | before | now | now, once more | now, `check_images='none'` |",
        "|---" * 5 + "|",
    ]
    print("\n".join(lines), flush=True)
    arms = {"first": {}, "again": {}, "none": {"check_images": "none"}}
    wanted = {
        "before": {name: [*what, {"first": {}}] for name, what in data.items()},
        "now": {name: [*what, arms] for name, what in {**data, "512 files of 4000 by 3000": ("photos", 512)}.items()},
    }
    with ThreadPoolExecutor() as pool:  # they wait for the processes
        runs = {
            version: pool.submit(in_process, "start", folder, "", 0, wanted[version], root)
            for version, root in roots.items()
        }
    found = {version: run.result() for version, run in runs.items()}
    for name in wanted["now"]:
        cells = []
        for version, arm in (("before", "first"), ("now", "first"), ("now", "again"), ("now", "none")):
            numbers = found.get(version, {})
            key = f"{name} {arm}"
            cells.append(f"{numbers[key]:.1f} ({numbers[f'{key}, by the clock']:.1f})" if key in numbers else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), required=True)
    parser.add_argument("--before", help="a checkout of an earlier version")
    parser.add_argument("--photos", type=int, nargs=2, default=[20, 512], help="few and many of them")
    parser.add_argument("--dataset_name", help="small images, such as Tiny-ImageNet, for the start")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        torch.set_num_threads(1)
        folder, kind, count, options = arguments.child
        print(json.dumps(PARTS[arguments.part](Path(folder), kind, int(count), json.loads(options))))
        return
    roots = {"now": str(Path(__file__).resolve().parent.parent)}
    roots |= {"before": arguments.before} if arguments.before else {}
    words = {arguments.before: "EARLIER", arguments.dataset_name: "path/to/tiny_imagenet_64"}
    title = {"photos": "Memory that photos take", "start": "From a data set to the first step"}[arguments.part]
    text = [
        f"# {title}",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"hf_focal {hf_focal.__version__}; {platform.machine()}, {os.cpu_count()} cores; one thread of torch.",
        "",
        f"Command: `python {' '.join(words.get(word, word) for word in sys.argv)}`.",
        "",
    ]
    print("\n".join(text), flush=True)
    table = photos_table if arguments.part == "photos" else start_table
    with tempfile.TemporaryDirectory() as folder:
        text += table(folder, roots, arguments)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
