# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Losses on a GPU, forward and backward, beside `F.cross_entropy` and Liger's; and steps of the paper's ResNet-50.

A loss has to read the logits once and to write their gradient once, and that is what a copy of the logits does. So the
share of the memory bandwidth is the time that a copy needs at the bandwidth of a large copy on the same card, over the
time of the loss.

    python benchmarks/gpu_losses.py --output benchmarks/results/gpu-losses.md
    python benchmarks/gpu_losses.py --device cpu --shapes 64x100 --batch_sizes 4 --eager     # to see that it runs
"""

import argparse
import importlib.metadata
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import hf_focal
import hf_focal.networks


Loss = Callable[[Tensor, Tensor], Tensor]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHARE, BUFFERS = 0.8, 1.0  # aimed at
CHECKED = 64  # rows whose gradient is compared with one in float64
FEWEST, MOST = 5, 50  # repeats
LEARNING_RATE, CLIP = 0.01, 2.0


class Device:
    """Times what runs on a device, and the memory that it takes."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self.is_gpu = name.startswith("cuda")

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, step: Callable[[], object]) -> float:
        """Median of as many runs as `seconds` has room for, after three that are not counted."""
        for _ in range(3):
            self.wait()
            start = time.perf_counter()
            step()
            self.wait()
            once = time.perf_counter() - start
        repeats = max(FEWEST, min(MOST, round(self.seconds / once)))
        if not self.is_gpu:
            return statistics.median(self._by_clock(step) for _ in range(repeats))
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for before, after in marks:
            before.record()
            step()
            after.record()
        self.wait()
        return statistics.median(before.elapsed_time(after) for before, after in marks)

    @staticmethod
    def _by_clock(step: Callable[[], object]) -> float:
        start = time.perf_counter()
        step()
        return (time.perf_counter() - start) * 1e3

    def peak(self, step: Callable[[], object]) -> int | None:
        """Bytes that a run takes at most, beyond what is there before it."""
        if not self.is_gpu:
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        there = torch.cuda.memory_allocated()
        step()
        self.wait()
        return torch.cuda.max_memory_allocated() - there

    def free(self) -> None:
        if self.is_gpu:
            torch.cuda.empty_cache()

    def describe(self) -> str:
        if not self.is_gpu:
            return platform.machine()
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


class Report:
    """Lines that are printed as they come, and kept in a file."""

    def __init__(self, output: Path | None) -> None:
        self.output = output
        self.lines: list[str] = []

    def add(self, *lines: str) -> None:
        self.lines += lines
        print("\n".join(lines), flush=True)
        if self.output:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text("\n".join(self.lines) + "\n")


def copying(device: Device, tensor: Tensor) -> float:
    """Milliseconds that a copy of a tensor takes."""
    target = torch.empty_like(tensor)
    return device.milliseconds(lambda: target.copy_(tensor))


def ours(name: str) -> Loss:
    loss = hf_focal.create_loss(name)
    if hasattr(loss, "set_progress"):
        loss.set_progress(fraction=0.0, epoch=0.0)
    return loss


def losses(eager: bool, compiled: list[str]) -> dict[str, Loss | str]:
    """By name, or why there is none."""

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    found: dict[str, Loss | str] = {"F.cross_entropy": cross_entropy}
    if not eager:
        found["F.cross_entropy, compiled"] = torch.compile(cross_entropy, dynamic=False)
    # Liger's writes the gradient over the logits.
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerCrossEntropyLoss

        found["Liger, in place"] = LigerCrossEntropyLoss()
    else:
        found["Liger, in place"] = "liger_kernel is not installed"
    found |= {name: ours(name) for name in hf_focal.LOSSES}
    if not eager:
        found |= {f"{name}, compiled": torch.compile(ours(name), dynamic=False) for name in compiled}
    return found


def slope(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient in the logits, as the layer before them would get it: added to nothing."""
    return torch.autograd.grad(loss(logits, labels), logits)[0]


def error(name: str, loss: Loss, logits: Tensor, labels: Tensor) -> float:
    """Of the gradient of the last rows, relative to that in float64 on the CPU."""
    rows, chosen = logits.detach()[-CHECKED:].clone(), labels[-CHECKED:]
    name = name.split(",")[0]
    reference = ours(name) if name in hf_focal.LOSSES else F.cross_entropy
    expected = slope(reference, rows.cpu().double().requires_grad_(), chosen.cpu())
    if "mmce" in name:  # pairs the samples of a batch
        found = slope(loss, rows.requires_grad_(), chosen)
    else:
        found = slope(loss, logits, labels)[-CHECKED:].cpu() * (len(labels) / len(rows))
    return ((found.cpu().double() - expected).norm() / expected.norm()).item()


def table_of_losses(
    report: Report, device: Device, shape: tuple[int, int], dtype: str, bandwidth: float, arguments: argparse.Namespace
) -> None:
    report.add("", f"## Losses at {shape}, {dtype}", "")
    report.add("| loss | ms | speed | share of bandwidth | buffers | error of the gradient | aims |", "|---" * 7 + "|")
    generator = torch.Generator(device.name).manual_seed(0)
    labels = torch.randint(0, shape[1], (shape[0],), device=device.name, generator=generator)
    logits = torch.randn(shape, device=device.name, dtype=DTYPES[dtype], generator=generator)
    size = logits.numel() * logits.element_size()
    took = copying(device, logits)
    report.add(f"| copy of the logits | {took:.3f} | | {2 * size / took / 1e6 / bandwidth:.0%} | | | |")
    base = None
    for name, loss in losses(arguments.eager, arguments.compiled).items():
        if isinstance(loss, str):
            report.add(f"| {name} | {loss} | | | | | |")
            continue
        torch.compiler.reset()
        logits.normal_(generator=generator).requires_grad_()  # Liger's may have written into it
        device.free()
        try:
            found = error(name, loss, logits, labels)
            took = device.milliseconds(lambda: slope(loss, logits, labels))  # noqa: B023
            peak = device.peak(lambda: slope(loss, logits, labels))  # noqa: B023
        except RuntimeError as failure:
            report.add(f"| {name} | {type(failure).__name__} | | | | | |")
            print(failure, flush=True)
            continue
        finally:
            logits = logits.detach()
        base = took if base is None else base
        share = 2 * size / took / 1e6 / bandwidth
        buffers = None if peak is None else peak / size
        verdict = ""
        if name.split(",")[0] in hf_focal.LOSSES:
            missed = [] if share >= SHARE else ["bandwidth"]
            if buffers is not None and round(buffers, 1) > BUFFERS:
                missed.append("buffers")
            verdict = f"missed: {', '.join(missed)}" if missed else "reached"
        shown = "" if buffers is None else f"{buffers:.2f}"
        report.add(f"| {name} | {took:.3f} | {base / took:.2f} | {share:.0%} | {shown} | {found:.0e} | {verdict} |")


def table_of_steps(report: Report, device: Device, arguments: argparse.Namespace) -> None:
    report.add("", "## Training steps of cifar_resnet50", "")
    report.add("| batch | | images per second | ms | memory, GiB |", "|---" * 5 + "|")
    for batch in arguments.batch_sizes:
        for compiled in (False,) if arguments.eager else (False, True):
            torch.compiler.reset()
            device.free()
            torch.manual_seed(0)
            network = timm.create_model("cifar_resnet50").to(device.name, memory_format=torch.channels_last).train()
            forward = torch.compile(network, dynamic=False) if compiled else network
            loss = hf_focal.create_loss("flsd-53", reduction="sum")
            optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
            images = torch.randn(batch, 3, 32, 32, device=device.name).to(memory_format=torch.channels_last)
            labels = torch.randint(0, 10, (batch,), device=device.name)

            def step() -> None:
                with torch.autocast(device.name, torch.bfloat16):
                    logits = forward(images)  # noqa: B023
                loss(logits, labels).backward()  # noqa: B023
                torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)  # noqa: B023
                optimizer.step()  # noqa: B023
                optimizer.zero_grad()  # noqa: B023

            name = "compiled" if compiled else "eager"
            try:
                took = device.milliseconds(step)
                peak = device.peak(step)
            except RuntimeError as failure:
                report.add(f"| {batch} | {name} | {type(failure).__name__} | | |")
                print(failure, flush=True)
                continue
            memory = "" if peak is None else f"{peak / 2**30:.1f}"
            report.add(f"| {batch} | {name} | {batch / took * 1e3:.0f} | {took:.2f} | {memory} |")


def shape_of(text: str) -> tuple[int, int]:
    rows, classes = text.split("x")
    return int(rows), int(classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is there for a try")
    parser.add_argument("--shapes", nargs="*", type=shape_of, default=[(8192, 128256), (65536, 1000)], metavar="NxK")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    parser.add_argument(
        "--compiled", nargs="*", choices=tuple(hf_focal.LOSSES), default=["brier", "flsd-53"],
        help="losses of ours to compile too",
    )  # fmt: skip
    parser.add_argument("--batch_sizes", nargs="*", type=int, default=[128, 1024], help="of the network")
    parser.add_argument("--eager", action="store_true", help="leave out what torch.compile has to do")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement, about")
    parser.add_argument("--output", type=Path, help="Markdown file to write the tables to")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu with small --shapes tries the script out")
    device, report = Device(arguments.device, arguments.seconds), Report(arguments.output)
    liger = ""
    if importlib.util.find_spec("liger_kernel"):
        liger = f", liger_kernel {importlib.metadata.version('liger_kernel')}"
    large = 2**30 if device.is_gpu else 2**22
    bandwidth = 2 * 4 * large / copying(device, torch.ones(large, device=device.name)) / 1e6
    device.free()
    report.add(
        f"# Losses and training steps on {'a GPU' if device.is_gpu else 'a CPU'}",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}{liger}, hf_focal "
        f"{hf_focal.__version__}; {device.describe()}.",
        "",
        f"Command: `python {' '.join(sys.argv)}`.",
        "",
        f"A large copy moves {bandwidth:.0f} GB/s, read and written; shares of bandwidth are of that, counting the "
        "logits read once and the gradient written once. Medians of forward and backward. Speed is the time of "
        "`F.cross_entropy` over that of the row: above 1 the row is faster. Buffers are what is taken at most beside "
        "the logits, the gradient included, in tensors of the size of the logits. The error is that of the gradient "
        f"of {CHECKED} rows against float64, relative to its norm. Aimed at: {SHARE:.0%} and one buffer.",
    )
    for shape in arguments.shapes:
        for dtype in arguments.dtypes:
            table_of_losses(report, device, shape, dtype, bandwidth, arguments)
            device.free()
    if arguments.batch_sizes:
        table_of_steps(report, device, arguments)
        report.add(
            "",
            "Steps: forward in bf16 (autocast, channels_last), FLSD-53 summed, backward, the norm of the gradient "
            "clipped to 2, SGD with momentum; 3x32x32, the images on the device.",
        )


if __name__ == "__main__":
    main()
