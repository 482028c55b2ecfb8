# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What the neutral output of a Tree-LSTM on SST does to its calibration: the same weights measured with it and without.

    python scripts/reproduce.py --preset cpu --data_root path/to/data --only sst/
    python benchmarks/unmasked.py path/to/data/sst/binary outputs/grid/cpu/sst/*-seed1

Of each run, before scaling, in percent of the test trees: ECE and error, and the mean probability of neutral.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from scipy.special import softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hf_focal
import hf_focal.networks
from hf_focal.models.fold import unfold_calibrator
from hf_focal.networks.trees import tokenize_trees


BATCH = 200
MASKED = "neutral"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="A folder with SST, whose test split has a column of trees.")
    parser.add_argument("runs", nargs="+", type=Path, help="Finished runs of tree-lstm with a neutral output.")
    options = parser.parse_args()
    trees = load_dataset(options.data)["test"]
    print("| loss | ECE, three outputs | ECE, two | error, three | error, two | probability of neutral |")
    print("| --- | --- | --- | --- | --- | --- |")
    for run in options.runs:
        model = AutoModelForSequenceClassification.from_pretrained(run).eval()
        unfold_calibrator(model)
        logits, labels = measure(model, AutoTokenizer.from_pretrained(run), trees)
        neutral = model.config.label2id[MASKED]
        three = softmax(logits, axis=1)
        two = softmax(np.where(np.arange(logits.shape[1]) == neutral, -np.inf, logits), axis=1)
        cells = [100 * hf_focal.expected_calibration_error(one, labels) for one in (three, two)]
        cells += [100 * float(np.mean(one.argmax(axis=1) != labels)) for one in (three, two)]
        loss = json.loads((run / "all_results.json").read_text(encoding="utf-8"))["loss"]
        shown = " | ".join(f"{value:.2f}" for value in cells)
        print(f"| {loss} | {shown} | {100 * three[:, neutral].mean():.1f}% |")


@torch.no_grad()
def measure(model: torch.nn.Module, tokenizer: object, trees: object) -> tuple[np.ndarray, np.ndarray]:
    """Logits of all outputs, none of them masked, and labels, of whole trees."""
    model.config.masked_classes = None
    tokens = tokenize_trees(trees, tokenizer, "tree")
    names = [name for name in tokens.column_names if name in tokenizer.model_input_names]
    found = []
    for first in range(0, len(tokens), BATCH):
        batch = tokenizer.pad(tokens.select_columns(names)[first : first + BATCH], return_tensors="pt")
        found.append(model(**batch).logits.double().numpy())
    return np.concatenate(found), np.asarray(trees["label"])


if __name__ == "__main__":
    main()
