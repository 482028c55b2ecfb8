# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The pictures of the README and of the docs, and the alt text of each.

    python benchmarks/picture.py path/to/cifar10_densenet40.npz
    python benchmarks/picture.py path/to/cifar10_densenet40.npz --runs outputs/cross_entropy outputs/focal \\
        --study outputs/ood

The logits are those of a DenseNet-40 on CIFAR-10, trained with cross-entropy (Kull et al., 2019): an .npz file with
`val_logits`, `val_labels`, `test_logits` and `test_labels`. The runs are two of `run_image.py --track_dynamics`, and
the study is one of `run_ood.py --corruption` of their models.
"""

import argparse
import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.special import softmax

import hf_focal
from hf_focal.results.plots.picture import Picture


def save(figure: Picture, path: Path) -> None:
    """A PNG of few colours, which a page loads at once."""
    file, told = BytesIO(), PngInfo()
    figure.savefig(file, format="png", dpi=110)
    for key, text in {"Title": figure.finding, "Description": figure.alt_text}.items():
        told.add_text(key, text)
    Image.open(file).convert("RGB").quantize(48).save(path, optimize=True, pnginfo=told)
    print(f"![{figure.alt_text}]({path})\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logits", type=Path, help="The .npz file.")
    parser.add_argument("--runs", nargs="+", type=Path, default=[], help="Output folders of runs.")
    parser.add_argument("--study", type=Path, help="Output folder of run_ood.py.")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="Where the pictures go.")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    arrays = np.load(args.logits)
    fit = hf_focal.fit_calibrator(arrays["val_logits"], arrays["val_labels"])
    report = hf_focal.make_report(hf_focal.Predictions(arrays["test_logits"], arrays["test_labels"]), fit)
    save(report.diagram(), args.output / "reliability.png")
    both = {"before": softmax(arrays["test_logits"], axis=1), "after": fit.probabilities(arrays["test_logits"])}
    save(hf_focal.confidence_histogram(both, arrays["test_labels"]), args.output / "confidences.png")
    if args.runs:
        save(hf_focal.weight_norm_curves(hf_focal.read_dynamics(args.runs)), args.output / "weight_norm.png")
    if args.study:
        models = json.loads((args.study / "ood_results.json").read_text(encoding="utf-8"))["models"]
        (name, *_) = next(iter(models.values()))["shift"]
        shift = {
            title: {int(severity): row for severity, row in found["shift"][name].items()}
            for title, found in models.items()
        }
        save(hf_focal.severity_diagram(shift), args.output / "severity.png")


if __name__ == "__main__":
    main()
