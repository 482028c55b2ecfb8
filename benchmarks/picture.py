# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The picture of the README: reliability before and after calibration of logits that are kept in a file.

The logits are those of a DenseNet-40 on CIFAR-10, trained with cross-entropy (Kull et al., 2019): an .npz file with
`val_logits`, `val_labels`, `test_logits` and `test_labels`.

    python benchmarks/picture.py path/to/cifar10_densenet40.npz --output docs/images/reliability.png
"""

import argparse
from pathlib import Path

import numpy as np

from hf_focal import Predictions, fit_calibrator, make_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0].strip())
    parser.add_argument("logits", type=Path, help="The .npz file.")
    parser.add_argument("--output", type=Path, default=Path("docs/images/reliability.png"), help="Where it goes.")
    args = parser.parse_args()
    arrays = np.load(args.logits)
    fit = fit_calibrator(arrays["val_logits"], arrays["val_labels"])
    report = make_report(Predictions(arrays["test_logits"], arrays["test_labels"]), fit)
    report.diagram().savefig(args.output, dpi=110)
    print(report)


if __name__ == "__main__":
    main()
