# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Losses of sigmoid heads against PyTorch's and torchvision's: forward and backward on a CPU, in float32, of 28 labels.

Each row first asserts that loss and gradient equal those of the peer, then times the two in alternation and reports
the least CPU time of each. Memory is what a fresh process of one step takes at its peak, in copies of the logits.

    python benchmarks/sigmoid_losses.py --output benchmarks/results/sigmoid-losses.md
"""

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torchvision.ops import sigmoid_focal_loss

import hf_focal


LABELS, SAMPLES, LARGE = 28, (64, 2048, 100_000), 500_000
PAIRS = {
    "cross-entropy": (hf_focal.cross_entropy_loss, F.binary_cross_entropy_with_logits),
    "focal, gamma 2, alpha 0.25": (
        lambda z, y: hf_focal.focal_loss(z, y, gamma=2.0, alpha=0.25),
        lambda z, y: sigmoid_focal_loss(z, y, 0.25, 2.0, "mean"),
    ),
}


def batch(samples):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(samples, LABELS, generator=generator)
    return logits.requires_grad_(), (torch.rand(samples, LABELS, generator=generator) < 0.05).float()


def times(name, samples, repeats=9):
    """The least seconds of CPU time of ours and of the peer."""
    logits, labels = batch(samples)
    slopes = []
    for loss in PAIRS[name]:
        slopes.append(torch.autograd.grad(loss(logits, labels), logits)[0])
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-9)
    found = [[], []]
    for _ in range(repeats):
        for own, loss in zip(found, PAIRS[name], strict=True):
            start = time.process_time()
            torch.autograd.grad(loss(logits, labels), logits)
            own.append(time.process_time() - start)
    return [min(own) for own in found]


def copies(name, which):
    """Peak memory of one step beyond what the batch takes, in copies of the logits."""
    logits, labels = batch(LARGE)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten (Linux)
    before = _kilobytes("VmRSS")
    PAIRS[name][which](logits, labels).backward()
    return (_kilobytes("VmHWM") - before) * 1024 / (4 * LARGE * LABELS)


def _kilobytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory", nargs=2, metavar=("NAME", "WHICH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory:
        print(copies(args.memory[0], int(args.memory[1])))
        return
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    lines = [
        "# Losses of sigmoid heads", "", f"`python {' '.join(sys.argv)}`: {versions}, one thread; CPU time.", "",
        f"| loss | samples x {LABELS} | ours, ms | peer, ms | ours / peer |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name in PAIRS:
        for samples in SAMPLES:
            ours, peer = times(name, samples)
            lines.append(f"| {name} | {samples:,} | {1e3 * ours:.2f} | {1e3 * peer:.2f} | {ours / peer:.2f} |")
    lines += ["", f"| loss, of {LARGE:,} x {LABELS} | ours, copies of the logits | peer |", "| --- | --- | --- |"]
    for name in PAIRS:
        command = [sys.executable, __file__, "--memory", name]
        found = [float(subprocess.check_output([*command, which])) for which in ("0", "1")]
        lines.append(f"| {name} | {found[0]:.1f} | {found[1]:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
