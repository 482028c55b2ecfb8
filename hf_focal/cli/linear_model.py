# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The norm of a linear model's weight under cross-entropy and focal loss (Appendix C of Mukhoti et al., 2020).

  hf-focal linear-model --output figures

1,000 points of 10 normal clusters in 20 dimensions (100 each, unit variance, centres of length about 4.5), gradient
descent on all points from zero weights; these sizes are ours. Focal loss's norm grows faster at first, while the true
class has less than the probability where both losses have the same gradient (1 / 10 at the start), and slower later.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("linear-model")


from pathlib import Path

import torch

from ..losses.base import create_loss
from ..results.folder import check_folder
from ..results.plots.dynamics import weight_norm_curves
from .script import Parser


CLASSES, DIMENSIONS, POINTS, LEARNING_RATE = 10, 20, 1000, 0.02


def train(loss_name: str, epochs: int, seed: int, **parameters: float) -> list[dict]:
    """The norm of the weight after each epoch, in the form that the pictures of training dynamics take."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(POINTS) % CLASSES
    centres = torch.randn(CLASSES, DIMENSIONS, generator=generator)
    points = centres[labels] + torch.randn(POINTS, DIMENSIONS, generator=generator)
    model = torch.nn.Linear(DIMENSIONS, CLASSES)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss = create_loss(loss_name, **parameters)
    rows = [{"epoch": 0, "split": "train", "weight_norm": 0.0}]
    for epoch in range(1, epochs + 1):
        optimizer.zero_grad()
        loss(model(points), labels).backward()
        optimizer.step()
        rows.append({"epoch": epoch, "split": "train", "weight_norm": float(model.weight.detach().norm())})
    return rows


def main() -> None:
    """What the command does."""
    parser = Parser(description=__doc__)
    parser.add_argument("--gamma", type=float, default=3.0, help="Gamma of focal loss.")
    parser.add_argument("--epochs", type=int, default=200, help="Steps of gradient descent on all points.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the points.")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="Where to save linear_model.png.")
    options = parser.parse_args()
    check_folder(options.output, "--output")
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}.")
    runs = {
        "cross-entropy": train("cross_entropy", options.epochs, options.seed),
        f"focal (gamma {options.gamma:g})": train("focal", options.epochs, options.seed, gamma=options.gamma),
    }
    plain, focal = ([row["weight_norm"] for row in rows] for rows in runs.values())
    print(f"{'epoch':>8}{'cross-entropy':>16}{'focal':>10}")
    for epoch in sorted({max(1, options.epochs * share // 100) for share in (1, 5, 10, 25, 50, 100)}):
        print(f"{epoch:>8}{plain[epoch]:>16.4f}{focal[epoch]:>10.4f}")
    above = [epoch for epoch in range(1, options.epochs + 1) if focal[epoch] > plain[epoch]]
    if above and above[-1] < options.epochs:
        print(f"Focal loss has the larger norm up to epoch {above[-1]}, cross-entropy from epoch {above[-1] + 1} on.")
    else:
        print(f"No reversal in {options.epochs} epochs.")
    options.output.mkdir(parents=True, exist_ok=True)
    weight_norm_curves(runs).savefig(options.output / "linear_model.png")
    print(options.output / "linear_model.png")
