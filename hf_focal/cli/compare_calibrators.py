# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Fit every calibrator to the logits of a model that you have, and print and draw what each does to other data: NLL,
Brier score, ECE, error, the time of the fit, and what it gains on the NLL over a temperature.

  hf-focal compare-calibrators outputs/digits-resnet10t-flsd-53
  hf-focal compare-calibrators logits.npz --methods temperature vector
  hf-focal compare-calibrators validation.npz --test test.npz --output figures

It takes the output folder of a run, its predictions.safetensors, or .npz archives with `logits` and `labels` (and
`groups`, of samples that depend on one another), or with `val_logits`, `val_labels`, `test_logits` and `test_labels`.
Where there is but one set, half of it is fitted and the other half measured.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("compare-calibrators")


from pathlib import Path

from .script import Parser


def main() -> None:
    """What the command does."""
    parser = Parser(description=__doc__)
    parser.add_argument("logits", type=Path, help="Folder of a run, predictions.safetensors, or .npz.")
    parser.add_argument("--test", type=Path, help="Measure on the logits of this one.")
    parser.add_argument("--methods", nargs="+", help="Names in hf_focal.CALIBRATORS, auto and none. Unset: all.")
    parser.add_argument("--n_bins", type=int, default=15, help="Number of bins of the ECE.")
    parser.add_argument("--split_seed", type=int, default=42, help="Seed of the halves of a single set.")
    parser.add_argument("--plugin", nargs="+", default=[], help="Python files or modules to import first.")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="Where to save the picture.")
    options = parser.parse_args()
    from ..results.compare_calibrators import compare_calibrators  # here, since they take seconds
    from ..results.folder import check_folder
    from ..results.logit_files import load_logits
    from .arguments import import_plugin
    from .run import start_logging

    start_logging()
    check_folder(options.output, "--output")
    for name in options.plugin:
        import_plugin(name)
    parts = load_logits(options.logits, options.test, options.split_seed)
    compared = compare_calibrators(**parts, methods=options.methods, n_bins=options.n_bins)
    options.output.mkdir(parents=True, exist_ok=True)
    picture = options.output / "calibrators.png"
    compared.diagram().savefig(picture)
    print(f"{compared}\n\n{picture}")
