# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The batched Tree-LSTM against a recursion from node to node: forward and backward on a CPU, in float32, batch 25.

Peers are a recursion with the very cell, one matrix-vector product a node, and one with a layer for each gate and
child, as most published code has it. Each is first compared with ours in value and gradient; then they are timed in
turn, and medians over batches reported. Word vectors are looked up once a tree by all three.

    python benchmarks/trees.py path/to/sst --threads 1 2 --output benchmarks/results/trees.md
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from torch import Tensor
from transformers import DataCollatorWithPadding

import hf_focal


BATCH, HIDDEN, TARGET = 25, 150, 20
Tree = dict[str, Any]
State = tuple[Tensor, Tensor]


def recursion(model: Any, trees: Sequence[Tree], compose: Callable[[State, State], State]) -> Tensor:
    """Logits of the roots, one node after the other."""
    cell = model.cell

    def leaf(vector: Tensor) -> State:
        output, enter, candidate = cell.leaf(vector).chunk(3)
        memory = enter.sigmoid() * candidate.tanh()
        return output.sigmoid() * memory.tanh(), memory

    def state(tree: Tree, vectors: Sequence[Tensor], node: int) -> State:
        if tree["heights"][node] == 1:
            return leaf(vectors[node])
        left, right = tree["children"][node]
        return compose(state(tree, vectors, left), state(tree, vectors, right))

    roots = []
    for tree in trees:
        vectors = model.embeddings(torch.tensor(tree["input_ids"])).unbind()
        roots.append(state(tree, vectors, len(vectors) - 1)[0])
    return model.classifier(torch.stack(roots))


def same_cell(model: Any) -> Callable[[State, State], State]:
    def compose(left: State, right: State) -> State:
        output, enter, keep_left, keep_right, candidate = model.cell.node(torch.cat([left[0], right[0]])).chunk(5)
        memory = enter.sigmoid() * candidate.tanh() + keep_left.sigmoid() * left[1] + keep_right.sigmoid() * right[1]
        return output.sigmoid() * memory.tanh(), memory

    return compose


def layer_per_gate(model: Any) -> Callable[[State, State], State]:
    weights = model.cell.node.weight.detach().view(5, HIDDEN, 2, HIDDEN)
    biases = model.cell.node.bias.detach().view(5, HIDDEN)
    layers = []
    for gate in range(5):
        pair = [torch.nn.Linear(HIDDEN, HIDDEN) for _ in range(2)]
        for child, layer in enumerate(pair):
            layer.weight.data.copy_(weights[gate, :, child])
            layer.bias.data.copy_(biases[gate] * (1 - child))
        layers.append(pair)

    def compose(left: State, right: State) -> State:
        gates = [first(left[0]) + second(right[0]) for first, second in layers]
        memory = gates[1].sigmoid() * gates[4].tanh()
        memory = memory + gates[2].sigmoid() * left[1] + gates[3].sigmoid() * right[1]
        return gates[0].sigmoid() * memory.tanh(), memory

    return compose


def seconds(model: Any, logits: Callable[[], Tensor]) -> float:
    model.zero_grad()
    start = time.perf_counter()
    logits().sum().backward()
    return time.perf_counter() - start


def measure(folder: str, batches: int, embedding_size: int) -> list[str]:
    rows = load_dataset(folder, "binary", split="train")["tree"][: BATCH * (batches + 1)]
    torch.manual_seed(0)
    model, tokenizer = hf_focal.create_tree_lstm(rows, ["negative", "positive"], embedding_size=embedding_size)
    model.eval()
    encoded, collate = tokenizer(rows), DataCollatorWithPadding(tokenizer)
    trees = [{key: encoded[key][i] for key in encoded} for i in range(len(rows))]
    chunks = [trees[start : start + BATCH] for start in range(0, len(trees), BATCH)]
    peers = {"recursion, same cell": same_cell(model), "recursion, a layer per gate": layer_per_gate(model)}
    times: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for index, chunk in enumerate(chunks):
        batch = collate(chunk)
        if index == 0:
            model(**batch).logits.sum().backward()
            slope = model.embeddings.weight.grad.clone()
            for compose in peers.values():
                model.zero_grad()
                logits = recursion(model, chunk, compose)
                logits.sum().backward()
                torch.testing.assert_close(logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(model.embeddings.weight.grad, slope, rtol=1e-4, atol=1e-6)
        taken = {"ours": seconds(model, lambda batch=batch: model(**batch).logits)}
        for name, compose in peers.items():
            taken[name] = seconds(model, lambda chunk=chunk, compose=compose: recursion(model, chunk, compose))
        if index:  # the first is not counted
            for name, value in taken.items():
                times[name].append(value)
    ours = statistics.median(times["ours"])
    table = []
    for name in peers:
        theirs = statistics.median(times[name])
        verdict = f"{TARGET}, {'reached' if theirs / ours >= TARGET else 'missed'}"
        speeds = f"{BATCH / ours:.0f} | {BATCH / theirs:.0f} | {theirs / ours:.1f}"
        table.append(f"| {embedding_size} | {name} | {speeds} | {verdict} |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the Stanford Sentiment Treebank, with a configuration 'binary'")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to measure with")
    parser.add_argument("--batches", type=int, default=12, help="batches to take the median of")
    parser.add_argument("--bare", action="store_true", help="measure here and print bare rows")
    parser.add_argument("--output", type=Path, help="Markdown file to write the tables to")
    arguments = parser.parse_args()
    if arguments.bare:
        torch.set_num_threads(arguments.threads[0])
        for size in (50, 300):
            print("\n".join(measure(arguments.folder, arguments.batches, size)), flush=True)
        return
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, hf_focal {hf_focal.__version__}"
    command = " ".join(["benchmarks/trees.py", "path/to/sst", *sys.argv[2:]])
    text = [
        "# Trees: forward and backward of a Tree-LSTM on a CPU, float32, batch 25, hidden size 150",
        "",
        f"{versions}; {platform.machine()}, {os.cpu_count()} cores.",
        "",
        f"Command: `python {command}`.",
        "",
        "Medians over batches of the training trees. Speed is ours over the peer's, in trees a second. Threads that "
        "wait either sleep (`OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0`) or spin (`ACTIVE`).",
    ]
    print("\n".join(text))
    for threads in arguments.threads:
        for policy in ("PASSIVE", "ACTIVE") if threads > 1 else ("PASSIVE",):
            heading = f"## {threads} thread{'s' if threads > 1 else ''}" + (f", {policy}" if threads > 1 else "")
            header = ["", heading, "", "| vectors | peer | ours, trees/s | peer, trees/s | speed | speed aimed at |"]
            header.append("|---" * 6 + "|")
            print("\n".join(header), flush=True)
            spin = {"OMP_WAIT_POLICY": policy, "GOMP_SPINCOUNT": "0" if policy == "PASSIVE" else "100000"}
            call = [sys.executable, __file__, arguments.folder, "--threads", str(threads), "--bare"]
            call += ["--batches", str(arguments.batches)]
            run = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **spin})
            print(run.stdout, end="", flush=True)
            text += header + run.stdout.splitlines()
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
