# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Draw how NLL, entropy, the norm of the last layer and the gradients of several runs develop during training.

    accelerate launch scripts/run_image.py --loss focal --dynamics_gradient_epochs 1 10 --output_dir outputs/focal
    python scripts/plot_dynamics.py outputs/cross_entropy outputs/focal --output figures

`--average` takes runs of the same loss for seeds of one.
"""

import argparse
from pathlib import Path

import hf_focal
from hf_focal.cli.script import Parser, run_script
from hf_focal.results.folder import check_folder


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="Output folders of runs with --track_dynamics.")
    parser.add_argument("--average", action="store_true", help="Draw the mean of runs of one loss, and the range.")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="Where to save the pictures.")
    options = parser.parse_args()
    check_folder(options.output, "--output")
    runs = hf_focal.read_dynamics(options.runs, options.average)
    curves = {"nll_and_entropy": hf_focal.nll_and_entropy_curves, "weight_norm": hf_focal.weight_norm_curves}
    figures = {name: draw(runs) for name, draw in curves.items()}
    figures["gradient_ratio"] = hf_focal.gradient_ratio_curves()
    if any(row["gradient_norms"] is not None for rows in runs.values() for row in rows):
        figures["gradient_norms"] = hf_focal.gradient_norm_histograms(runs)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(options.output / f"{name}.png")
        print(options.output / f"{name}.png")


if __name__ == "__main__":
    run_script(main)
