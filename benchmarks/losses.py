# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Losses against their peers: forward and backward on a CPU, in float32.

Each row first asserts that loss and gradient equal those of the peer (cross-entropy, which has other values, is
compared with our cross-entropy), then times the two in alternation and reports the medians.

    python benchmarks/losses.py --threads 1 2 --output benchmarks/results/losses.md

How fast cross-entropy is depends on the heap. Where the process has not freed large blocks yet, the C library returns
each buffer to the system and every step pays for page faults, most where most buffers are taken; once it has, as any
training does soon, buffers are reused. Both states are measured, each in a process of its own.

    python benchmarks/losses.py --forms --output benchmarks/results/losses-forms.md

compares label smoothing and dual focal loss with the differentiable operations that they were before they had their
gradients in closed form, and half precision widened at once with half precision widened block by block; by CPU time.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import hf_focal


Loss = Callable[[Tensor, Tensor], Tensor]
TARGETS = {
    ("focal", 128, 10): 1 / 2.5, ("flsd-53", 128, 10): 1 / 2.5,
    ("focal", 128, 1000): 1 / 1.5, ("flsd-53", 128, 1000): 1 / 1.5,
    ("focal", 1024, 1000): 1.0, ("flsd-53", 1024, 1000): 1.0, ("brier", 1024, 1000): 1.7,
    ("focal", 4096, 32000): 0.75, ("flsd-53", 4096, 32000): 0.75,
}  # fmt: skip


def flsd_by_loop(logits: Tensor, labels: Tensor) -> Tensor:
    """FLSD-53 as it is commonly released: gamma chosen sample by sample in Python."""
    log_p = F.log_softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    p = log_p.exp()
    gammas = torch.tensor([5.0 if value.item() < 0.2 else 3.0 for value in p])
    return (-((1 - p) ** gammas) * log_p).mean()


def mmce_by_pairs(logits: Tensor, labels: Tensor, weighted: bool = True) -> Tensor:
    """Cross-entropy plus twice MMCE, by the kernel of all pairs."""
    confidence, prediction = F.softmax(logits.double(), dim=1).max(1)
    correct = prediction == labels
    if weighted:
        right, wrong = correct * (1 - confidence), ~correct * confidence
        weights = right / correct.sum().clamp(min=1) - wrong / (~correct).sum().clamp(min=1)
    else:
        weights = (correct.double() - confidence) / len(labels)
    kernel = torch.exp(-(confidence.unsqueeze(0) - confidence.unsqueeze(1)).abs() / 0.4)
    return F.cross_entropy(logits, labels) + 2 * (weights @ kernel @ weights).sqrt().float()


def kernel_form_by_pairs(confidence: Tensor, weights: Tensor) -> Tensor:
    kernel = torch.exp(-(confidence.unsqueeze(0) - confidence.unsqueeze(1)).abs() / 0.4)
    return weights @ kernel @ weights


def gradient(loss: Loss, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    first.grad = None
    value = loss(first, second)
    value.backward()
    assert first.grad is not None
    return value.detach(), first.grad


def seconds(loss: Loss, first: Tensor, second: Tensor, clock: Callable[[], float] = time.perf_counter) -> float:
    first.grad = None
    start = clock()
    loss(first, second).backward()
    return clock() - start


def compare(
    ours: Loss, peer: Loss, first: Tensor, second: Tensor, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Medians of alternating runs, after one run of each that is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(repeats + 1):
        pair = (seconds(ours, first, second, clock), seconds(peer, first, second, clock))
        if run:
            for kept, taken in zip(times, pair, strict=True):
                kept.append(taken)
    return statistics.median(times[0]), statistics.median(times[1])


def assert_equal(ours: Loss, peer: Loss, first: Tensor, second: Tensor) -> None:
    (value, slope), (expected, expected_slope) = gradient(ours, first, second), gradient(peer, first, second)
    torch.testing.assert_close(value, expected, rtol=2e-6, atol=2e-6)
    rtol = 1e-4 if first.dtype not in (torch.float16, torch.bfloat16) else 1e-2  # one rounding
    torch.testing.assert_close(slope, expected_slope, rtol=rtol, atol=2e-6 * max(1, expected_slope.abs().max().item()))


def report(name: str, peer: str, shape: str, ours: float, theirs: float, target: float | None) -> str:
    ratio = theirs / ours
    verdict = "" if target is None else f"{target:.2f}, {'reached' if ratio >= target else 'missed'}"
    row = f"| {name} | {shape} | {peer} | {ours * 1e3:.3f} | {theirs * 1e3:.3f} | {ratio:.2f} | {verdict} |"
    print(row, flush=True)
    return row


def rows(quick: bool, heap: str) -> list[str]:
    torch.manual_seed(0)
    if heap == "grown":
        for megabytes in (1, 2, 4, 8, 16, 30):
            torch.empty(megabytes * 2**18).fill_(1.0)
    large = heap == "grown" and not quick
    table = []
    losses: dict[str, Loss] = {
        "cross_entropy": hf_focal.cross_entropy_loss,
        "focal": hf_focal.focal_loss,
        "flsd-53": hf_focal.sample_dependent_focal_loss,
        "brier": hf_focal.brier_loss,
    }
    shapes = [(128, 10, 400), (128, 1000, 200), (1024, 1000, 100)] + ([(4096, 32000, 3)] if large else [])
    for n, k, repeats in shapes:
        logits, labels = torch.randn(n, k, requires_grad=True), torch.randint(0, k, (n,))
        assert_equal(hf_focal.cross_entropy_loss, F.cross_entropy, logits, labels)
        for name, loss in losses.items():
            ours, theirs = compare(loss, F.cross_entropy, logits, labels, repeats // 10 if quick else repeats)
            table.append(report(name, "F.cross_entropy", f"({n}, {k})", ours, theirs, TARGETS.get((name, n, k))))
        if k == 32000:
            continue
        peers: list[tuple[str, Loss, str, Loss]] = [("flsd-53", losses["flsd-53"], "loop over samples", flsd_by_loop)]
        if importlib.util.find_spec("kornia"):
            from kornia.losses import focal_loss

            def kornia(logits: Tensor, labels: Tensor) -> Tensor:  # its mean would divide by N * K
                return focal_loss(logits, labels, alpha=None, gamma=3.0, reduction="sum") / len(labels)

            peers.append(("focal", losses["focal"], "kornia", kornia))
        for name, ours_loss, peer, peer_loss in peers:
            assert_equal(ours_loss, peer_loss, logits, labels)
            ours, theirs = compare(ours_loss, peer_loss, logits, labels, 5 if quick else repeats // 4)
            table.append(report(name, peer, f"({n}, {k})", ours, theirs, None))

    if heap == "fresh":
        return table

    from hf_focal.losses.mmce import _kernel_forms

    size = 1024 if quick else 4096
    confidence = torch.rand(size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(size, dtype=torch.float64) / size

    def kernel_form(first: Tensor, second: Tensor) -> Tensor:
        return _kernel_forms(first, second.unsqueeze(0))[0, 0]

    (value, slope), (expected, expected_slope) = (
        gradient(form, confidence, weights) for form in (kernel_form, kernel_form_by_pairs)
    )
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, expected_slope, rtol=0, atol=1e-12)
    ours, theirs = compare(kernel_form, kernel_form_by_pairs, confidence, weights, 5)
    table.append(report("MMCE kernel", "all pairs", f"B = {size}", ours, theirs, None if quick else 300))
    logits, labels = torch.randn(size, 10, requires_grad=True), torch.randint(0, 10, (size,))
    for weighted in (True, False):
        mine = partial(hf_focal.mmce_loss, weighted=weighted)
        pairs = partial(mmce_by_pairs, weighted=weighted)
        assert_equal(mine, pairs, logits, labels)
        ours, theirs = compare(mine, pairs, logits, labels, 5)
        name = "mmce" if weighted else "mmce-unweighted"
        table.append(report(name, "all pairs", f"({size}, 10)", ours, theirs, None if quick else 300))
    if not quick:
        logits, labels = torch.randn(1_000_000, 10, requires_grad=True), torch.randint(0, 10, (1_000_000,))
        row = f"| mmce | (1000000, 10) | none | {seconds(hf_focal.mmce_loss, logits, labels) * 1e3:.0f} | | | runs |"
        print(row)
        table.append(row)
    return table


def forms(quick: bool) -> list[str]:
    """Closed forms against the operations that they replace, and half precision in single against that in blocks."""
    from hf_focal.losses import dual_focal, label_smoothing, rows

    torch.manual_seed(0)
    torch.set_num_threads(1)
    plain = {
        "label_smoothing": label_smoothing._Smoothed(0.05, rows.highest_mask(torch.float32)).plain,
        "dual-focal": dual_focal._Dual(5.0).plain,
    }

    def in_blocks(loss: Loss) -> Loss:
        def called(logits: Tensor, labels: Tensor) -> Tensor:
            most, rows.HALF_KEPT_UP_TO = rows.HALF_KEPT_UP_TO, 0
            try:
                return loss(logits, labels)
            finally:
                rows.HALF_KEPT_UP_TO = most

        return called

    cases: list[tuple[str, str, Loss, str, Loss, tuple[int, int], int]] = []
    large = [] if quick else [(4096, 32000, 3)]
    for n, k, repeats in [(128, 10, 200), (1024, 1000, 15), *large]:
        for name, form in plain.items():
            peer: Loss = lambda logits, labels, form=form: form(logits, labels, -100).mean()  # noqa: E731
            cases.append((name, "float32", hf_focal.create_loss(name), "operations", peer, (n, k), repeats))
    for dtype in ("bfloat16", "float16"):
        for n, k, repeats in [(128, 10, 200), (128, 1000, 60), (512, 1000, 20), (1024, 1000, 15), (32, 32000, 15)]:
            for name in ("cross_entropy", "flsd-53"):
                loss = hf_focal.create_loss(name)
                cases.append((name, dtype, loss, "in blocks", in_blocks(loss), (n, k), repeats))
    table = []
    for name, dtype, loss, said, peer, shape, repeats in cases:
        logits = torch.randn(shape).to(getattr(torch, dtype)).requires_grad_()
        labels = torch.randint(0, shape[1], shape[:1])
        assert_equal(loss, peer, logits, labels)
        repeats = max(2, repeats // 10) if quick else repeats
        pair = compare(loss, peer, logits, labels, repeats, time.process_time)
        table.append(report(f"{name}, {dtype}", said, str(shape), *pair, None))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to measure with")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats, to see that it runs")
    parser.add_argument("--heap", choices=("grown", "fresh"), help="measure this state alone, and print bare rows")
    parser.add_argument("--forms", action="store_true", help="compare forms with those that they replaced, instead")
    parser.add_argument("--output", type=Path, help="Markdown file to write the tables to")
    arguments = parser.parse_args()
    kornia = importlib.util.find_spec("kornia")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, hf_focal {hf_focal.__version__}"
    if kornia:
        versions += f", kornia {importlib.import_module('kornia').__version__}"
    if arguments.heap:
        torch.set_num_threads(arguments.threads[0])
        rows(arguments.quick, arguments.heap)
        return
    settings = ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    text = [
        "# Losses: forward and backward on a CPU, float32",
        "",
        f"{versions}; {platform.machine()}, {os.cpu_count()} cores; {settings}.",
        "",
        f"Command: `python {' '.join(sys.argv)}`.",
        "",
        "Medians of alternating pairs. Speed is the peer's time over ours: above 1 ours is faster.",
    ]
    header = ["| loss | shape | peer | ours, ms | peer, ms | speed | speed aimed at |", "|---" * 7 + "|"]
    if arguments.forms:
        text[0] = "# Losses: forward and backward on a CPU, beside the forms that they had before"
        text += ["", "One thread; milliseconds are CPU time.", "", *header]
        print("\n".join(text), flush=True)
        text += forms(arguments.quick)
    else:
        print("\n".join(text))
    for heap in () if arguments.forms else ("grown", "fresh"):
        for threads in arguments.threads:
            above = ["", f"## Heap {heap}, {threads} thread{'s' if threads > 1 else ''}", "", *header]
            print("\n".join(above), flush=True)
            command = [sys.executable, __file__, "--threads", str(threads), "--heap", heap]
            run = subprocess.run(
                command + ["--quick"] * arguments.quick, stdout=subprocess.PIPE, text=True, check=True
            )
            print(run.stdout, end="", flush=True)
            text += above + run.stdout.splitlines()
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
