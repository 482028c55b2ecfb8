# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
r"""
Draw how NLL, entropy, the norm of the last layer and the gradients of several runs develop during training.

  hf-focal run-image --loss focal --dynamics_gradient_epochs 1 10 \
      --output_dir outputs/focal
  hf-focal plot-dynamics outputs/cross_entropy outputs/focal --output figures

`--average` takes runs of the same loss for seeds of one.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("plot-dynamics")


from pathlib import Path

from .script import Parser


def main() -> None:
    """What the command does."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="Output folders of runs with --track_dynamics."
    )
    parser.add_argument("--average", action="store_true", help="Draw the mean of runs of one loss, and the range.")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="Where to save the pictures.")
    options = parser.parse_args()
    from ..results.dynamics_file import read_dynamics  # here, since they take seconds
    from ..results.folder import check_folder
    from ..results.plots.dynamics import (
        gradient_norm_histograms,
        gradient_ratio_curves,
        nll_and_entropy_curves,
        weight_norm_curves,
    )

    check_folder(options.output, "--output")
    runs = read_dynamics(options.runs, options.average)
    curves = {"nll_and_entropy": nll_and_entropy_curves, "weight_norm": weight_norm_curves}
    figures = {name: draw(runs) for name, draw in curves.items()}
    figures["gradient_ratio"] = gradient_ratio_curves()
    if any(row["gradient_norms"] is not None for rows in runs.values() for row in rows):
        figures["gradient_norms"] = gradient_norm_histograms(runs)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(options.output / f"{name}.png")
        print(options.output / f"{name}.png")
